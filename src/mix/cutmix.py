"""CutMix: a rectangle of another image, and as much of its target (Yun et al. 2019, arXiv:1905.04899, alg. 1)."""

from __future__ import annotations

import math

import numpy as np
import torch

from src.mix.mix import Mix, refuse_alpha


class CutMix(Mix):
    """The rectangle has sqrt(1 - lambda) of each side, lambda of Beta(alpha, alpha), around a random pixel; where it is
    cut off at the edge, the target goes by what is left of it."""

    def __init__(self, alpha: float = 1.0, probability: float = 1.0, off_epochs: int = 0):
        super().__init__(probability, off_epochs)
        refuse_alpha("alpha", alpha)
        self.alpha = alpha

    def pair(self, image: torch.Tensor, other: torch.Tensor, draw: np.random.Generator) -> tuple[torch.Tensor, float]:
        return pasted(image, other, float(draw.beta(self.alpha, self.alpha)), draw)


def pasted(
    image: torch.Tensor, other: torch.Tensor, part: float, draw: np.random.Generator
) -> tuple[torch.Tensor, float]:
    height, width = image.shape[-2:]
    y, x = (int(draw.integers(side)) for side in (height, width))
    high, wide = (int(side * math.sqrt(1 - part)) for side in (height, width))
    top, bottom = (min(max(y + d, 0), height) for d in (-(high // 2), high - high // 2))
    left, right = (min(max(x + d, 0), width) for d in (-(wide // 2), wide - wide // 2))
    mixed = image.clone()
    mixed[..., top:bottom, left:right] = other[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
