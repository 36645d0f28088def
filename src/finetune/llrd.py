"""Layer-wise learning-rate decay: everything trains, the stem slowest, each deeper layer a constant factor faster."""

from __future__ import annotations

from collections.abc import Collection

from src.contracts import ConfigError
from src.finetune.policy import Place, Policy


class LLRD(Policy):
    """`stem` is the factor on the learning rate at the stem, `body` that behind the last layer; the head has 1.
    Stating the stem, not the decay per layer, gives one number the same meaning for all depths: a decay of 0.75 would
    mean a stem of 0.24 for maxvit_tiny and 0.0075 for resnet50."""

    def __init__(self, stem: float = 0.1, body: float = 1.0):
        for name, factor in (("stem", stem), ("body", body)):
            if not 0 < factor <= 1:
                raise ConfigError(
                    f"finetune.{name}={factor} is outside 0 < {name} <= 1.\n"
                    "To hold the first layers still use finetune=freeze."
                )
        self.stem, self.body = stem, body

    def plan(self, places: Collection[Place]) -> None:
        if max(p.last for p in places) == 0:
            raise ConfigError(
                "finetune=llrd: this network does not say in which order its layers come, so all of them would get "
                "one learning rate.\nUse finetune=full with optimizer.lr set."
            )

    def trains(self, place: Place) -> bool:
        return True

    def scale(self, place: Place) -> float:
        if place.head:
            return 1.0
        depth = place.layer / (place.last + 1)
        return self.body**depth * self.stem ** (1 - depth)
