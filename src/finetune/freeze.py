"""The network is frozen up to a stage and trains behind it."""

from __future__ import annotations

from collections.abc import Collection

from src.contracts import ConfigError
from src.finetune.policy import Place, Policy


class Freeze(Policy):
    """`until` is the last frozen stage: a module of the backbone (`layer2`, `blocks.3`), or the part of all layers
    to freeze, counted from the stem (0.5)."""

    def __init__(self, until: str | float = 0.5):
        self.until = until
        self.frozen = -1  # the deepest frozen layer

    def plan(self, places: Collection[Place]) -> None:
        last = max(p.last for p in places)
        if last == 0:
            raise ConfigError(
                "finetune=freeze: this network does not say in which order its layers come.\n"
                "Use finetune=full or finetune=head."
            )
        if not isinstance(self.until, str):
            if not 0 <= self.until <= 1:
                raise ConfigError(
                    f"finetune=freeze: until={self.until} is no part of the depth.\n"
                    "Set finetune.until between 0 (nothing) and 1 (all but the head), or to a module's name."
                )
            self.frozen = round(self.until * (last + 1)) - 1
            return
        prefix = f"backbone.{self.until}."
        inside = [p.layer for p in places if f"{p.name}.".startswith(prefix)]
        if not inside:
            stages = sorted({p.name.removeprefix("backbone.").split(".")[0] for p in places if not p.head})
            raise ConfigError(
                f"finetune=freeze: until={self.until} is no part of this network.\n"
                f"It begins with: {', '.join(stages)}. Set finetune.until to one of these, "
                "to a module inside (layer2.0), or to a part of the depth (0.5)."
            )
        self.frozen = max(inside)

    def trains(self, place: Place) -> bool:
        return place.head or place.layer > self.frozen
