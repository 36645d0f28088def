"""L2-SP: the backbone is drawn towards the weights that it started from (Li et al. 2018, arXiv:1802.01483, eq. 4)."""

from __future__ import annotations

from typing import Any

import torch

from src.contracts import ConfigError


class L2SP:
    """network -> alpha / 2 |w - w0|^2 over what trains of the backbone + beta / 2 |w - w0|^2 over what trains of the
    head. (The paper has |w|^2 there, of a new head, which starts near 0: that is the same. One that the probe has
    solved is far from 0, and would be torn down.)

    Built with the network at its starting weights w0. They are a function of the config (weights, init_from, seed), so
    a resumed run has the same and no checkpoint holds them.
    """

    def __init__(self, network: Any, alpha: float = 0.1, beta: float = 0.01):
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not value >= 0:
                raise ConfigError(f"penalty.{name}={value} would drive weights away.\nSet penalty.{name} to 0 or more.")
        self.alpha, self.beta = alpha, beta
        self.start = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}

    def __call__(self, network: Any) -> torch.Tensor:
        total = torch.zeros((), device=network.mean.device)
        for name, parameter in network.named_parameters():
            if name in self.start:
                self.start[name] = self.start[name].to(parameter.device)
                factor = self.beta if name.startswith("head.") else self.alpha
                total = total + factor / 2 * _Squared.apply(parameter, self.start[name])
        return total


class _Squared(torch.autograd.Function):
    """|w - w0|^2, whose gradient lies in memory as w does. Of a 1 x 1 or depthwise convolution in channels_last, a
    plain difference of two tensors is contiguous, and so is its gradient, of which DDP warns, and which it copies."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        ctx.away = torch.sub(weight, start, out=torch.empty_like(weight))
        return ctx.away.float().square().sum()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.away * 2 * grads[0], None
