"""The level that ordered classes answer with, of their probabilities."""

from __future__ import annotations

import torch


def expected(p: torch.Tensor) -> torch.Tensor:
    """(N, levels) -> (N,), the mean level."""
    return p @ torch.arange(p.shape[1], dtype=p.dtype, device=p.device)


def nearest(p: torch.Tensor) -> torch.Tensor:
    """The level nearest to the mean: of all, the one with the least squared error to expect."""
    return expected(p).round().long()
