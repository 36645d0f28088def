"""Binary cross-entropy of each class on its own: the default for several labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from src.contracts import ConfigError

WEIGHTS = ("none", "frequency")


class BCE(nn.Module):
    """(logits (B, C), batch with target (B, C) of 0..1) -> the mean over both.

    weights: frequency lets the images that have a class count sqrt(n_without / n_with) times, at most ten times.
    """

    takes, soft = "labels", True
    weight: torch.Tensor | None

    def __init__(self, weights: str = "none", counts: Sequence[int] = (), images: int = 0):
        super().__init__()
        if weights not in WEIGHTS:
            raise ConfigError(f"loss.weights={weights}: is none of {', '.join(WEIGHTS)}. Choose one of them.")
        found = None
        if weights == "frequency":
            positive = torch.tensor(counts, dtype=torch.float32).clamp(min=1)
            found = ((images - positive).clamp(min=1) / positive).sqrt().clamp(max=10)
        self.register_buffer("weight", found, persistent=False)

    def forward(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return binary_cross_entropy_with_logits(logits, batch["target"].to(logits.dtype), pos_weight=self.weight)
