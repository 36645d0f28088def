"""The likelihood of a normal distribution whose mean and spread are both learnt, for each image."""

from __future__ import annotations

import math

import torch
from torch import nn

LEAST = -5.0  # log of the deviation, in those of the training targets, below which the likelihood is no more believed


class GaussianNLL(nn.Module):
    """(found (B, 2 x T), batch with target (B, T)) -> the mean of -log N(target; mean, deviation) (Nix & Weigend 1994,
    eq. 3); `found` has the T means, then the T logarithms of the deviations. Below LEAST the precision goes on along
    its tangent, so that nothing overflows and a deviation that is too small is still told to grow."""

    takes = "numbers"

    def __init__(self, interval: float = 0.9):
        """interval: the part of the images that low … high shall hold; nothing is learnt from it."""
        super().__init__()
        self.spread = interval

    def forward(self, found: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        mean, log_deviation = found.float().unflatten(1, (2, -1)).unbind(1)
        held = log_deviation.clamp(min=LEAST)
        precision = (-2 * held).exp() * (1 + 2 * (held - log_deviation))
        squared = (batch["target"] - mean).square()
        return (0.5 * math.log(2 * math.pi) + log_deviation + 0.5 * squared * precision).mean()
