"""Optimizers from timm's factory, by name, with the names told when there is no such one."""

from __future__ import annotations

import difflib
from typing import Any

import timm.optim
import torch

from src.contracts import ConfigError


def timm_optimizer(groups: list[dict[str, Any]], opt: str, lr: float, weight_decay: float, **more: Any):
    """`opt` is any name of timm.optim.list_optimizers(); `more` are that optimizer's own arguments."""
    names = [str(name) for name in timm.optim.list_optimizers()]
    if opt.lower() not in names:
        near = difflib.get_close_matches(opt.lower(), names, n=5, cutoff=0.4)
        raise ConfigError(
            f"optimizer.opt={opt}: timm's factory makes no such optimizer.\n"
            f"The nearest of its {len(names)}: {', '.join(near) or ', '.join(names)}."
        )
    if opt.lower() == "adahessian":
        raise ConfigError("optimizer.opt=adahessian needs second derivatives, which Lightning's loop does not keep.")
    return timm.optim.create_optimizer_v2(groups, opt=opt, lr=lr, weight_decay=weight_decay, **more)


def tried(make: Any, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Builds an optimizer once, so that arguments it does not take are known before the first batch."""
    try:
        return make([dict(group) for group in groups])
    except (TypeError, ValueError, AssertionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"optimizer: {error}\nLook at configs/optimizer/*.yaml: the keys are the optimizer's arguments."
        ) from error
