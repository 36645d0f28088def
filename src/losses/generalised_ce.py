"""Generalised cross-entropy: between CE (q -> 0) and MAE (q = 1), for noisy labels (Zhang & Sabuncu 2018, eq. 6)."""

from __future__ import annotations

import torch
from torch import nn

from src.contracts import ConfigError
from src.losses.classes import of_target


class GeneralisedCE(nn.Module):
    """(logits (B, C), batch with target (B,) int, or (B, C) of mixed images) -> mean of (1 - p_t^q) / q,
    0 < q <= 1 (arXiv:1805.07836)."""

    takes, soft = "class", True

    def __init__(self, q: float = 0.7):
        super().__init__()
        if not 0 < q <= 1:
            raise ConfigError(
                f"loss.q={q} is outside 0 < q <= 1.\nNear 0 it is cross-entropy, at 1 the absolute error."
            )
        self.q = q

    def forward(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        each = -(self.q * logits.log_softmax(1)).expm1() / self.q
        return of_target(each, batch["target"]).mean()
