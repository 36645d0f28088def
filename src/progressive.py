"""Progressive resizing: training begins with small images, which cost less, and ends with whole ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

STEP = 4  # pixels by which a side grows, at least; Composer's
WHOLE = 0.2  # the part of the epochs, at the end, that see whole images: Composer's finetune_fraction

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Progressive:
    """(batch, epoch from 0) -> the batch with images (B, C, h, w), of which each side has the part `start` in the first
    epoch, and more by equal steps, up to all of it in the last fifth of the epochs (fast.ai's idea; the plan is that of
    Composer's ProgressiveResizing, but by epochs): those of the schedule, see Module.epoch, so a resume repeats it.
    """

    start: float
    size: tuple[int, int]  # whole
    epochs: int
    step: int = STEP

    def at(self, epoch: int) -> tuple[int, int]:
        growing = self.epochs - math.ceil(WHOLE * self.epochs)
        part = 1.0 if epoch >= growing else self.start + (1 - self.start) * epoch / growing
        height, width = (side if part == 1 else _near(part * side, self.step, side) for side in self.size)
        return height, width

    def sizes(self) -> list[tuple[int, int]]:
        """All that there are, the smallest first."""
        return list(dict.fromkeys(self.at(epoch) for epoch in range(self.epochs)))

    def __call__(self, batch: Batch, epoch: int) -> Batch:
        if (size := self.at(epoch)) == self.size:
            return batch
        image = F.resize(batch["image"], list(size), InterpolationMode.BILINEAR, antialias=True)
        return {**batch, "image": image.contiguous(memory_format=torch.channels_last)}


def _near(side: float, step: int, most: int) -> int:
    return min(max(round(side / step), 1) * step, most)
