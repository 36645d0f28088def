"""mixup or CutMix, for each batch one of them."""

from __future__ import annotations

import numpy as np
import torch

from src.contracts import ConfigError
from src.mix.cutmix import pasted
from src.mix.mix import Mix, refuse_alpha
from src.mix.mixup import blended


class Both(Mix):
    """A batch that is mixed is so by CutMix with the probability `cut`, else by mixup."""

    def __init__(
        self,
        mixup_alpha: float = 0.2,
        cutmix_alpha: float = 1.0,
        cut: float = 0.5,
        probability: float = 1.0,
        off_epochs: int = 0,
    ):
        super().__init__(probability, off_epochs)
        refuse_alpha("mixup_alpha", mixup_alpha)
        refuse_alpha("cutmix_alpha", cutmix_alpha)
        if not 0 < cut < 1:
            raise ConfigError(f"mix.cut={cut} is outside 0 < cut < 1.\nFor one of them alone set mix=mixup or cutmix.")
        self.mixup_alpha, self.cutmix_alpha, self.cut = mixup_alpha, cutmix_alpha, cut

    def pair(self, image: torch.Tensor, other: torch.Tensor, draw: np.random.Generator) -> tuple[torch.Tensor, float]:
        if draw.random() < self.cut:
            return pasted(image, other, float(draw.beta(self.cutmix_alpha, self.cutmix_alpha)), draw)
        return blended(image, other, float(draw.beta(self.mixup_alpha, self.mixup_alpha)))
