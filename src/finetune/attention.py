"""The attention layers, and the head, train; the feed-forward layers, norms and embeddings are frozen."""

from __future__ import annotations

import re
from typing import Any

from src.contracts import ConfigError
from src.finetune.policy import Place, Policy

# What timm calls them; SplitAttn and SelectiveKernelAttn, say, are convolutions that are weighed.
ATTENDS = re.compile(
    "ttention|(Class|Head|Covariance|Sample|Grouped|Halo|Bottleneck)Attn|^FactorAttn|^(XCA|GPSA|MHSA)$"
)


class Attention(Policy):
    """Touvron et al. 2022 ("Three things everyone should know about vision transformers", arXiv 2203.09795, section 4):
    enough for another resolution and other tasks, at 0.8 times the cost of full fine-tuning. It learns at the rate of a
    backbone."""

    def __init__(self):
        self.layers: tuple[str, ...] = ()

    def prepare(self, network: Any, seed: int) -> None:
        modules = dict(network.backbone.named_modules())
        named = [name for name, module in modules.items() if ATTENDS.search(type(module).__name__)]
        inner = [name for name in named if not any(other.startswith(f"{name}.") for other in named)]  # no whole blocks
        self.layers = tuple(f"backbone.{name}." for name in inner)
        if not self.layers:
            kinds = sorted({type(module).__name__ for name, module in modules.items() if name.count(".") < 2 and name})
            raise ConfigError(
                f"finetune=attention: this network has no attention layers, but: {', '.join(kinds[:12])}.\n"
                "Use finetune=norm, finetune=lora or finetune=llrd, or choose a vision transformer by model.name."
            )

    def trains(self, place: Place) -> bool:
        return place.head or place.name.startswith(self.layers)
