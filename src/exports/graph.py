"""What is exported: the network with what stands before and behind it; and how an export is compared with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from src import folder
from src.contracts import ConfigError

ANSWERS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {  # by Task.target: what the logits say
    "class": lambda logits: logits.softmax(1),
    "labels": lambda logits: logits.sigmoid(),
    "numbers": lambda logits: logits,
    "mask": lambda logits: logits.softmax(1),
    "identity": lambda logits: normalize(logits, dim=1),
}


@dataclass(frozen=True)
class Pictures:
    """Evaluation views uint8 (N, C, H, W), what they are of, and their targets where these are known."""

    views: torch.Tensor
    said: str
    target: torch.Tensor | None = None


class Graph(nn.Module):
    """image -> answer. With `preprocess` uint8 (B, C, H, W) of 0 to 255 -> calibrated probabilities (numbers,
    embeddings of length 1); without it float32 as normalised by mean and std -> logits; `network` becomes its own, and
    is changed. scaling: what model.json says of it under `calibration`."""

    def __init__(self, network: Any, target: str, preprocess: bool, scaling: Mapping[str, Any] | None = None):
        super().__init__()
        if preprocess and target not in ANSWERS:
            raise ConfigError(
                f"--preprocess: the outputs of this task ({target}) are not of one kind, so there is no one answer.\n"
                "Leave --preprocess out, and read the logits as model.json says."
            )
        network.unfold()  # runtimes do it themselves, and quantisation looks for plain convolutions
        self.network, self.preprocess, self.target = network, preprocess, target
        scaling = scaling or {"factor": 1.0, "shift": 0.0}
        self.factor, self.shift = torch.tensor(scaling["factor"]), torch.tensor(scaling["shift"])
        self.mean, self.std = network.mean.clone(), network.std.clone()
        if not preprocess:  # the images come normalised
            self.network.mean.zero_()
            self.network.std.fill_(1.0)
        self.requires_grad_(False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.network.mirror and not self.network.dense:  # one pass, so that the file holds each layer once
            both, _ = self.network._both(torch.cat([image, image.flip(3)]))
            logits = both.unflatten(0, (2, -1)).mean(0).float()
        else:
            logits = self.network(image).float()
        return self.answered(logits)

    def answered(self, logits: torch.Tensor) -> torch.Tensor:
        return ANSWERS[self.target](logits * self.factor + self.shift) if self.preprocess else logits

    def fed(self, views: torch.Tensor) -> torch.Tensor:
        """uint8 views as this graph takes them."""
        return views if self.preprocess else (views.float() / 255 - self.mean) / self.std

    def described(self) -> dict[str, Any]:
        """Plain data, for whoever uses the file."""
        spec = self.network.spec
        values = "0 to 255" if self.preprocess else "0 to 1, less mean, by std"
        shape = ["batch", spec.channels, *spec.size]
        given = {"name": "image", "dtype": "uint8" if self.preprocess else "float32", "shape": shape, "values": values}
        return {"input": given, "output": {"name": self.output}}

    @property
    def output(self) -> str:
        known = {"class": "probability", "labels": "probability", "mask": "probability", "identity": "embedding"}
        return known.get(self.target, "logits") if self.preprocess else "logits"


@torch.inference_mode()
def answers(run: Callable[[torch.Tensor], torch.Tensor], given: torch.Tensor, batch: int = 16) -> torch.Tensor:
    """All of them, in batches of which the last may be smaller: that the batch is free is checked by the way."""
    return torch.cat([run(part) for part in given.split(batch)])


def compared(found: torch.Tensor, wanted: torch.Tensor) -> dict[str, Any]:
    """How far they are apart; the places of the largest outputs are what most tasks answer with."""
    apart = (found - wanted).abs()
    same = (found.argmax(1) == wanted.argmax(1)).float().mean()
    return {
        "largest_difference": float(apart.max()),
        "mean_difference": float(apart.mean()),
        "largest_output": float(wanted.abs().max()),
        "same_largest": float(same),
    }


def describe(where: Path, facts: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    """export/<format>/model.json: what model/ says, and what this file takes and gives."""
    said = {**facts, "export": dict(more)}
    folder.write(where / "model.json", json.dumps(said, indent=1, ensure_ascii=False))
