"""L2-SP: the backbone is drawn towards the weights that it started from (Li et al. 2018, arXiv:1802.01483, eq. 4)."""

from __future__ import annotations

from typing import Any

import torch

from src.contracts import ConfigError


class L2SP:
    """network -> alpha / 2 |w - w0|^2 over what trains of the backbone + beta / 2 |w|^2 over what trains of the head.

    Built with the network at its starting weights w0. They are a function of the config (weights, init_from, seed), so
    a resumed run has the same and no checkpoint holds them.
    """

    def __init__(self, network: Any, alpha: float = 0.1, beta: float = 0.01):
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not value >= 0:
                raise ConfigError(f"penalty.{name}={value} would drive weights away.\nSet penalty.{name} to 0 or more.")
        self.alpha, self.beta = alpha, beta
        self.start = {
            name: parameter.detach().clone()
            for name, parameter in network.named_parameters()
            if parameter.requires_grad and not name.startswith("head.")
        }

    def __call__(self, network: Any) -> torch.Tensor:
        away, head = [], []
        for name, parameter in network.named_parameters():
            if name in self.start:
                self.start[name] = self.start[name].to(parameter.device)
                away.append((parameter.float() - self.start[name].float()).square().sum())
            elif parameter.requires_grad:
                head.append(parameter.float().square().sum())
        nothing = [torch.zeros((), device=network.mean.device)]
        return self.alpha / 2 * torch.stack(away or nothing).sum() + self.beta / 2 * torch.stack(head or nothing).sum()
