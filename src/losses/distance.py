"""Losses of numbers, in units of the training targets' spread: Huber, squared and absolute error."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import huber_loss, l1_loss, mse_loss

Batch = dict[str, torch.Tensor]


class Huber(nn.Module):
    """(found (B, T), batch with target (B, T)) -> the mean; squared up to delta, then straight (Huber 1964): targets
    that are far out do not rule."""

    takes = "numbers"

    def __init__(self, delta: float = 1.0):
        super().__init__()
        self.delta = delta

    def forward(self, found: torch.Tensor, batch: Batch) -> torch.Tensor:
        return huber_loss(found, batch["target"], delta=self.delta)


class MSE(nn.Module):
    """(found (B, T), batch with target (B, T)) -> the mean of the squared error: predicts the mean."""

    takes = "numbers"

    def forward(self, found: torch.Tensor, batch: Batch) -> torch.Tensor:
        return mse_loss(found, batch["target"])


class MAE(nn.Module):
    """(found (B, T), batch with target (B, T)) -> the mean of the absolute error: predicts the median."""

    takes = "numbers"

    def forward(self, found: torch.Tensor, batch: Batch) -> torch.Tensor:
        return l1_loss(found, batch["target"])
