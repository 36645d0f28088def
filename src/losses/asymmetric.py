"""Asymmetric loss: easy negatives hardly count (Ridnik et al. 2021, arXiv:2009.14119, eq. 7)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import logsigmoid


class Asymmetric(nn.Module):
    """(logits (B, C), batch with target (B, C) of 0..1) -> the mean over both. 86.6 mAP on COCO in the paper; it is
    for labels that are rare and many, with a few balanced ones BCE is as good."""

    takes, soft = "labels", True

    def __init__(self, negative: float = 4.0, positive: float = 1.0, margin: float = 0.05):
        super().__init__()
        self.negative, self.positive, self.margin = negative, positive, margin

    def forward(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits, there = logits.float(), batch["target"].float()
        p = logits.sigmoid()
        shifted = (p - self.margin).clamp(min=0)
        hit = (1 - p).pow(self.positive) * logsigmoid(logits)
        miss = shifted.pow(self.negative) * torch.log1p(-shifted.clamp(max=1 - 1e-7))
        return -(there * hit + (1 - there) * miss).mean()
