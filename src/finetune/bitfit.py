"""The biases, and the head, train; all other weights are frozen."""

from __future__ import annotations

from collections.abc import Collection

from src.contracts import ConfigError
from src.finetune.policy import Place, Policy


class BitFit(Policy):
    """BitFit (Ben Zaken et al. 2022), the shifts of normalisation layers included: a convnet with BatchNorm has no
    others. On VTAB-1k with ViT-B/16 it is told to reach 65.2 against 69.0 of full fine-tuning; tuned fairly, it ties
    with 15 other such methods (Mai et al. 2024, arXiv 2409.16434)."""

    rate = 3e-3  # as finetune=norm

    def plan(self, places: Collection[Place]) -> None:
        if not any(_bias(place) for place in places if not place.head):
            raise ConfigError(
                "finetune=bitfit: the backbone of this network has no biases.\n"
                "Use finetune=norm, finetune=lora or finetune=head."
            )

    def trains(self, place: Place) -> bool:
        return place.head or _bias(place)


def _bias(place: Place) -> bool:
    return place.name.endswith("bias")
