"""What losses of classes have in common: targets that may be mixed, and how frequent the classes are."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def of_target(each: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """each (B, C): the loss if the class were c; target (B,) int, or (B, C) parts of images that were mixed, which add
    up to 1 -> (B,): the loss of its class, or the same parts of the losses of its classes."""
    if target.is_floating_point():
        return (target * each).sum(1)
    return each.gather(1, target[:, None])[:, 0]


def smoothed(log_p: torch.Tensor, smoothing: float) -> torch.Tensor:
    """(B, C) log-probabilities -> (B, C): the cross-entropy if the class were c, of which a part is shared out to all
    classes (Szegedy et al. 2016)."""
    return -(1 - smoothing) * log_p - smoothing * log_p.mean(1, keepdim=True)


def log_prior(counts: Sequence[int]) -> torch.Tensor:
    """(C,): the log of how frequent each class is; one without an image is taken to have one."""
    found = torch.tensor(counts, dtype=torch.float32).clamp(min=1)
    return (found / found.sum()).log()
