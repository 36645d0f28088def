"""Trains on the worst image nearby instead of each image (Madry et al. 2018, arXiv:1706.06083, eq. 2.1)."""

from __future__ import annotations

import torch

from src.attacks import Slope, pgd, radius
from src.contracts import ConfigError


class PGD:
    """(images (B, C, H, W), uint8 or float in 0..1; where the loss rises; chance) -> float in 0..1, each within `eps`
    of its own. step: the length of one, in eps; None: 2.5 / steps, which reaches the edge from anywhere in the ball."""

    def __init__(self, eps: float | str = "4/255", steps: int = 7, norm: str = "linf", step: float | None = None):
        if steps < 1:
            raise ConfigError(f"adversary.steps={steps} attacks nothing.\nSet it to 1 or more, or adversary=none.")
        if step is not None and not step > 0:
            raise ConfigError(f"adversary.step={step} goes nowhere.\nSet it above 0; in units of eps.")
        self.eps, self.steps, self.norm = radius("adversary.eps", eps, norm), steps, norm
        self.step = self.eps * (2.5 / steps if step is None else step)

    def __call__(self, image: torch.Tensor, slope: Slope, draw: torch.Generator) -> torch.Tensor:
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        found = pgd(image, slope, self.eps, self.norm, self.steps, self.step, draw)
        return found.contiguous(memory_format=torch.channels_last)
