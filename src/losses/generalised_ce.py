"""Generalised cross-entropy: between CE (q -> 0) and MAE (q = 1), for noisy labels (Zhang & Sabuncu 2018, eq. 6)."""

from __future__ import annotations

import torch
from torch import nn

from src.contracts import ConfigError


class GeneralisedCE(nn.Module):
    """(logits (B, C), batch with target (B,) int) -> mean of (1 - p_t^q) / q, 0 < q <= 1 (arXiv:1805.07836)."""

    takes = "class"

    def __init__(self, q: float = 0.7):
        super().__init__()
        if not 0 < q <= 1:
            raise ConfigError(
                f"loss.q={q} is outside 0 < q <= 1.\nNear 0 it is cross-entropy, at 1 the absolute error."
            )
        self.q = q

    def forward(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        log_p = logits.log_softmax(1).gather(1, batch["target"][:, None])[:, 0]
        return (-(self.q * log_p).expm1() / self.q).mean()
