"""Focal loss: well-classified images count less (Lin et al. 2017, arXiv:1708.02002, eq. 4, for softmax)."""

from __future__ import annotations

import torch
from torch import nn

from src.contracts import ConfigError
from src.losses.classes import of_target


class Focal(nn.Module):
    """(logits (B, C), batch with target (B,) int, or (B, C) of mixed images) -> mean of
    -(1 - p_t)^gamma log p_t. gamma 0 is cross-entropy."""

    takes, soft = "class", True

    def __init__(self, gamma: float = 2.0):
        super().__init__()
        if gamma < 0:
            raise ConfigError(f"loss.gamma={gamma} is below 0.\nAt 0 it is cross-entropy; the paper has 2.")
        self.gamma = gamma

    def forward(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        log_p = logits.log_softmax(1)
        missed = (-log_p.expm1()).clamp_min(1e-8)  # above 0, where the slope of a root (gamma < 1) is infinite
        return of_target(-(missed**self.gamma) * log_p, batch["target"]).mean()
