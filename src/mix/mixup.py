"""mixup: the mean of two images, and of their targets (Zhang et al. 2018, arXiv:1710.09412, eq. 1)."""

from __future__ import annotations

import numpy as np
import torch

from src.mix.mix import Mix, refuse_alpha


class Mixup(Mix):
    """The weights of the mean are lambda and 1 - lambda, lambda of Beta(alpha, alpha), one for the whole batch."""

    def __init__(self, alpha: float = 0.2, probability: float = 1.0, off_epochs: int = 0):
        super().__init__(probability, off_epochs)
        refuse_alpha("alpha", alpha)
        self.alpha = alpha

    def pair(self, image: torch.Tensor, other: torch.Tensor, draw: np.random.Generator) -> tuple[torch.Tensor, float]:
        return blended(image, other, float(draw.beta(self.alpha, self.alpha)))


def blended(image: torch.Tensor, other: torch.Tensor, part: float) -> tuple[torch.Tensor, float]:
    """A mean of uint8 is not rounded to uint8: it becomes float in 0..1, which the network takes, too."""
    image, other = (x.float() / 255 if x.dtype == torch.uint8 else x for x in (image, other))
    return part * image + (1 - part) * other, part
