"""One stage of the backbone, and the head, train (surgical fine-tuning)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from src.contracts import ConfigError
from src.finetune.policy import Place, Policy


class Stage(Policy):
    """Lee et al. 2023 (arXiv 2210.11466): at least as good as full fine-tuning on 7 sets where what has shifted is
    known: the first stage for corrupted or otherwise taken images, a middle one for other kinds within the classes,
    the last for other labels. `stage` counts from 0, which has the stem; it learns at the rate of a backbone."""

    def __init__(self, stage: int = 0):
        self.stage = stage
        self.of: Mapping[str, int] = {}

    def prepare(self, network: Any, seed: int) -> None:
        self.of = network.stage
        if not self.of:
            raise ConfigError(
                "finetune=stage: this network does not say where its stages end.\n"
                "Use finetune=full, finetune=head, or finetune=freeze where it knows the order of its layers."
            )
        if self.stage not in self.of.values():
            first: dict[int, str] = {}
            for name, stage in self.of.items():
                first.setdefault(stage, name)
            told = ", ".join(f"{stage} from {first[stage]}" for stage in sorted(first))
            raise ConfigError(
                f"finetune=stage: stage={self.stage} is none of this network's {len(first)}.\n"
                f"It has: {told}. Set finetune.stage to one of them."
            )

    def trains(self, place: Place) -> bool:
        return place.head or self.of.get(place.name.removeprefix("backbone.")) == self.stage
