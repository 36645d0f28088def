"""A batch whose images are each mixed with another of it, and their targets with them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch.nn.functional import one_hot

from src.contracts import ConfigError

Batch = dict[str, torch.Tensor]


class Mix(ABC):
    """probability: of a batch to be mixed. off_epochs: the last of the schedule, in which none is."""

    def __init__(self, probability: float, off_epochs: int):
        if not 0 < probability <= 1:
            raise ConfigError(
                f"mix.probability={probability} is outside 0 < probability <= 1.\nTo mix nothing set mix=none."
            )
        if off_epochs < 0:
            raise ConfigError(f"mix.off_epochs={off_epochs} counts the last epochs.\nSet it to 0 or more.")
        self.probability, self.off_epochs = probability, off_epochs

    def on(self, epoch: int, epochs: int | None) -> bool:
        """Whether this epoch, counted from 0, of so many mixes."""
        return not self.off_epochs or (epochs is not None and epoch < epochs - self.off_epochs)

    @abstractmethod
    def pair(self, image: torch.Tensor, other: torch.Tensor, draw: np.random.Generator) -> tuple[torch.Tensor, float]:
        """(B, C, H, W) uint8, or float in 0..1, twice -> both as one, and the part of the first in it."""

    def __call__(self, batch: Batch, classes: int, draw: np.random.Generator) -> Batch:
        """Targets (B,) int become (B, classes) parts that add up to 1; those that are (B, classes) of 0 or 1 the same
        mean. All chance comes from `draw`."""
        if draw.random() >= self.probability:
            return batch
        image, target = batch["image"], batch["target"]
        target = one_hot(target, classes).float() if target.ndim == 1 else target.float()
        order = torch.from_numpy(draw.permutation(len(image))).to(image.device)
        mixed, part = self.pair(image, image[order], draw)
        return {
            **batch,
            "image": mixed.contiguous(memory_format=torch.channels_last),
            "target": part * target + (1 - part) * target[order],
        }


def refuse_alpha(name: str, alpha: float) -> None:
    if not alpha > 0:
        raise ConfigError(f"mix.{name}={alpha}: the parts are drawn from Beta({name}, {name}), of numbers above 0.\n"
                          "Set it to 0.1 … 1, or mix=none.")  # fmt: skip
