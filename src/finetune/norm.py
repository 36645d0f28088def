"""The scale and shift of the normalisation layers, and the head, train; all other weights are frozen."""

from __future__ import annotations

from typing import Any

from src.contracts import ConfigError
from src.finetune.policy import Place, Policy


class Norm(Policy):
    """LN-Tune for layer norms (Basu et al. 2023, arXiv 2304.01917: "extremely strong" over 1,800 few-shot runs), the
    FiLM part of FiT for BatchNorm (Shysheya et al. 2022, arXiv 2206.08671: ahead of BiT with few images). For 20 images
    a class and fewer. With `model.batchnorm=frozen`, as in FiT, the statistics stay, too.
    """

    rate = 3e-3  # ten times a backbone's: few weights, none of which can turn a feature into another

    def __init__(self):
        self.names: frozenset[str] = frozenset()

    def prepare(self, network: Any, seed: int) -> None:
        self.names = frozenset(
            f"backbone.{name}.{own}"
            for name, module in network.backbone.named_modules()
            if "Norm" in type(module).__name__ and "NormFree" not in type(module).__name__
            for own, parameter in module.named_parameters(recurse=False)
            if parameter.ndim == 1
        )
        if not self.names:
            raise ConfigError(
                "finetune=norm: this network has no normalisation layer with a scale or a shift.\n"
                "Use finetune=bitfit, finetune=lora or finetune=head."
            )

    def trains(self, place: Place) -> bool:
        return place.head or place.name in self.names
