"""Poly-1: cross-entropy plus epsilon times the first term of its expansion (Leng et al. 2022, arXiv:2204.12511)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from src.losses.classes import of_target


class Poly1(nn.Module):
    """(logits (B, C), batch with target (B,) int, or (B, C) of mixed images) -> mean of
    CE + epsilon (1 - p_t), eq. 6 of the paper."""

    takes, soft = "class", True

    def __init__(self, epsilon: float = 1.0, label_smoothing: float = 0.0):
        super().__init__()
        self.epsilon, self.label_smoothing = epsilon, label_smoothing

    def forward(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        target = batch["target"]
        p = of_target(logits.softmax(1), target)
        return cross_entropy(logits, target, label_smoothing=self.label_smoothing) + self.epsilon * (1 - p).mean()
