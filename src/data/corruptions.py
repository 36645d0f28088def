"""One corruption by chance: noise, blur, JPEG, other light; labels stay right, and bad pictures become familiar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from src.contracts import ConfigError
from src.corruptions import TABLE, corrupt

MOVE = frozenset({"elastic", "zoom_blur", "motion_blur", "glass_blur"})  # what is seen, so that masks would be wrong


class Corruptions:
    """uint8 (C, H, W) -> the same. With the probability `probability` one of `kinds`, each as often, of a severity
    drawn from severities[0] … severities[1], also between the published degrees (src/corruptions.py)."""

    def __init__(self, kinds: Sequence[str], severities: Sequence[float] = (1, 3), probability: float = 0.5):
        if unknown := [kind for kind in kinds if kind not in TABLE] or ([] if kinds else ["none of them"]):
            raise ConfigError(
                f"augment.policy.kinds: {', '.join(unknown)} is no corruption.\nChoose some of {', '.join(TABLE)}."
            )
        self.kinds, self.severities, self.probability = tuple(kinds), tuple(severities), probability
        self.keeps_place = not MOVE & set(kinds)

    def __call__(self, image: torch.Tensor, *mask: torch.Tensor):
        draw = np.random.default_rng(int(torch.randint(2**62, ())))  # which the loader keys by image and epoch
        if draw.random() < self.probability:
            kind, (low, high) = self.kinds[int(draw.integers(len(self.kinds)))], self.severities
            image = corrupt(image.as_subclass(torch.Tensor), kind, draw.uniform(low, high), draw)
        return (image, *mask) if mask else image
