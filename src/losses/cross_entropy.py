"""Cross-entropy with label smoothing: the default of classification."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy


class CrossEntropy(nn.Module):
    """(logits (B, C), batch with target (B,) int) -> the mean over the batch.

    `label_smoothing` 0.1: about +0.3 points on ImageNet recipes, but it degrades selective classification.
    """

    takes = "class"

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return cross_entropy(logits, batch["target"], label_smoothing=self.label_smoothing)
