"""Low-rank updates of layers, and the head, train; the weights themselves are frozen."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from src import lowrank, rng
from src.contracts import ConfigError
from src.finetune.policy import Place, Policy


class LoRA(Policy):
    """LoRA (Hu et al. 2022), of every linear and convolutional layer of the backbone in whose name the regular
    expression `layers` is found: W + alpha / rank · B A. What is shipped has the plain weights, with the update added.

    A tool for large transformers, not a default: with ViT-B/16 VTAB-1k means of 74.5 against 69.0 for full fine-tuning
    are told, but tuned fairly 16 such methods tie (Mai et al. 2024, arXiv 2409.16434).
    """

    rate = 1e-3  # that of the same study, which gives all linear layers a rank of 8 to 16

    def __init__(self, layers: str = ".*", rank: int = 8, alpha: float = 16.0):
        if rank < 1 or alpha <= 0:
            raise ConfigError(
                f"finetune=lora: rank={rank} alpha={alpha} give no update.\n"
                "Set finetune.rank to 1 or more, and finetune.alpha above 0."
            )
        try:
            self.layers = re.compile(layers)
        except re.error as error:
            raise ConfigError(
                f"finetune=lora: layers='{layers}' is no regular expression: {error}.\n"
                "Set finetune.layers to one, such as 'qkv|proj', or leave it out for all layers."
            ) from error
        self.rank, self.alpha = rank, alpha

    def prepare(self, network: Any, seed: int) -> None:
        could = {
            name: module
            for name, module in network.backbone.named_modules()
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
            and f"backbone.{name}.weight" not in network.unused
        }
        wanted = {name: module for name, module in could.items() if self.layers.search(name)}
        if not wanted:
            shown = ", ".join([*could][:12]) + (f", … {[*could][-1]}" if len(could) > 12 else "")
            raise ConfigError(
                f"finetune=lora: layers='{self.layers.pattern}' matches no linear or convolutional layer of this "
                f"network.\nIt has {len(could)}: {shown or 'none'}.\n"
                "Set finetune.layers to a pattern that matches some, or use finetune=llrd."
            )
        for name, module in wanted.items():
            lowrank.attach(module, self.rank, self.alpha, rng.key(seed, "lora", name))

    def trains(self, place: Place) -> bool:
        return place.head or place.name.rpartition(".")[2] in (lowrank.DOWN, lowrank.UP)
