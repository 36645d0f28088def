"""Sharpness-aware minimisation: each step goes by the gradient at the worst weights nearby (Foret et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from src.contracts import ConfigError

PERTURB = ("all", "norm")


class SAM(torch.optim.Optimizer):
    """Around the optimizer that `base` makes of the same groups. A step calls the closure twice: at the weights w, and
    at w + rho g / |g| (arXiv:2010.01412, eq. 2, g the gradient at w); `base` steps from w by the second gradient.

    perturb: all, or only the scales and shifts of normalisation layers (SAM-ON, Mueller et al. 2023, arXiv:2306.04226),
    which is as good or better there. `climbing` is true in the first pass, whose gradient is not to be clipped; the
    second runs inside `again`, which `bind` sets. With several processes both gradients are those of all of them, so
    all climb alike. The state is that of `base`; nothing of the perturbation outlives a step.
    """

    passes = 2

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        weight_decay: float,
        base: Callable[..., torch.optim.Optimizer],
        rho: float = 0.05,
        perturb: str = "all",
    ):
        if not rho > 0:
            raise ConfigError(f"optimizer.rho={rho} is no distance.\nSet it above 0; the paper has 0.05.")
        if perturb not in PERTURB:
            raise ConfigError(f"optimizer.perturb={perturb} is none of {', '.join(PERTURB)}.\nChoose one of them.")
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        self.base = base(self.param_groups, lr=lr, weight_decay=weight_decay)
        self.rho, self.perturb, self.climbing = rho, perturb, False
        self.moved = [p for group in self.param_groups for p in group["params"]]
        self.again: Callable[[], AbstractContextManager] = nullcontext
        self._share()

    def bind(self, network: nn.Module, again: Callable[[], AbstractContextManager]) -> None:
        """again: () -> the context in which the same batch is looked at a second time."""
        self.again = again
        if self.perturb == "norm":
            layers = [m for m in network.modules() if "norm" in type(m).__name__.lower()]
            norms = {id(p) for layer in layers for p in layer.parameters(recurse=False)}
            self.moved = [p for p in self.moved if id(p) in norms]
            if not self.moved:
                raise ConfigError(
                    "optimizer.perturb=norm: of what trains in this network nothing belongs to a normalisation layer.\n"
                    "Set optimizer.perturb=all, or a finetune under which those layers train."
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        self.climbing = True
        try:
            with torch.enable_grad():
                loss = closure()
        finally:
            self.climbing = False
        moved = [p for p in self.moved if p.grad is not None]
        where = [p.clone() for p in moved]
        slopes = [p.grad for p in moved]
        size = torch.stack([slope.float().norm() for slope in slopes if slope is not None]).norm()
        for p, slope in zip(moved, slopes, strict=True):
            p.add_(slope * (self.rho / (size + 1e-12)).to(p.dtype))
        with self.again(), torch.enable_grad():
            closure()
        for p, before in zip(moved, where, strict=True):
            p.copy_(before)  # to the bit, which taking the step back would not be
        self.base.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state = self.base.param_groups, self.base.state
