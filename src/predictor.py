"""A trained model as an object: Predictor.load(RUN_DIR)(image) -> what it says of it. Without Hydra or Lightning."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from src import decisions
from src.contracts import ConfigError, Task
from src.data.images import given, read
from src.data.transforms import evaluation
from src.factory import TASK, make_within
from src.models.network import Network
from src.models.saved import complete, load_model
from src.stages.draw import answer

Item = Image.Image | np.ndarray | str | Path  # an array is (H, W) or (H, W, C), of uint8, uint16, or float in 0..1
Row = dict[str, Any]
NEEDED = ("task", "labels", "classes", "resize")  # of model.json, beside what rebuilds the network


@dataclass(frozen=True)
class Seen:
    """An image as the network is given it, and how large it was."""

    view: torch.Tensor  # uint8 (C, H, W)
    size: torch.Size  # (h, w)


@dataclass(frozen=True)
class Predictor:
    """What the test stage writes into predictions.csv, of any images; the numbers agree to 1e-5.

    A row is {prediction, prob/CLASS…} or what else the task says of an image; of masks {mask: (h, w) places in
    `classes`, area/CLASS: its part of the pixels…}, of a retrieval {embedding: (D,) of length 1}.
    """

    network: Network
    facts: dict[str, Any]  # what model.json says
    task: Task
    view: Callable[[torch.Tensor], torch.Tensor]
    saved: dict[str, Any]  # how it is calibrated: src.decisions
    batch_size: int

    @classmethod
    def load(cls, run_dir: str | Path, device: str | None = None, batch_size: int = 64) -> Predictor:
        """run_dir: of a run whose stage `select` is done, its model/ folder alone, or a .ckpt file. device: None is a
        GPU where there is one. Raises ConfigError where there is no model of this template, or a changed one."""
        where = place(run_dir)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        network, facts = load_model(where, device)
        complete(facts, NEEDED, where)
        network.to(device)
        saved = decisions.load(where, facts)
        return cls(network, facts, _task(facts), evaluation(network.spec, facts["resize"]), saved, batch_size)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.facts["classes"])

    def __call__(self, what: Item | Sequence[Item]) -> Row | list[Row]:
        """A row for one image; a list of them for a list or tuple. Raises DataError that names what cannot be read."""
        if isinstance(what, Image.Image | np.ndarray | str | Path) or not isinstance(what, Sequence):
            return self.answer([self.see(what)])[0]
        rows: list[Row] = []
        for start in range(0, len(what), self.batch_size):
            batch = enumerate(what[start : start + self.batch_size], start)
            rows += self.answer([self.see(item, f"image {i}") for i, item in batch])
        return rows

    def see(self, item: Item, name: str = "the image") -> Seen:
        """Reads one; safe to be called by several threads. name: of one that has no path."""
        channels = self.network.spec.channels
        image = read(Path(item), channels) if isinstance(item, str | Path) else given(item, channels, name)
        return Seen(self.view(image), image.shape[-2:])

    def answer(self, seen: Sequence[Seen]) -> list[Row]:
        """One batch through the network."""
        if self.task.dense:
            return [self._mask(answer(self.network, one.view, one.size)) for one in seen]
        batch = torch.stack([one.view for one in seen]).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            found = self.network.both(batch.to(self.network.mean.device))
        logits, features = (part.float().cpu() for part in found)
        if self.task.embeds:
            return [{"embedding": row} for row in normalize(logits, dim=1).numpy()]
        rows = self.task.decode(decisions.scaled(self.saved, logits), **self.facts.get("tuned", {}))
        return [row | more for row, more in zip(rows, decisions.apply(self.saved, logits, features), strict=True)]

    def _mask(self, found: torch.Tensor) -> Row:
        area = torch.bincount(found.flatten(), minlength=len(self.classes)) / found.numel()
        parts = {f"area/{name}": part for name, part in zip(self.classes, area.tolist(), strict=True)}
        return {"mask": found.to(torch.int32).numpy(), **parts}


def place(run_dir: str | Path) -> Path:
    """Where its model is. Warns where its run is not finished."""
    where = Path(run_dir).expanduser()
    if not where.exists():
        raise ConfigError(f"RUN_DIR={run_dir}: there is no such folder or file.\nName the folder of a finished run.")
    if where.suffix == ".ckpt" or (where / "model.json").is_file():
        return where
    state = where / "run.json"
    if (where / "model").is_dir() and state.is_file():
        said = json.loads(state.read_text(encoding="utf-8"))
        if said.get("state") != "finished":
            done = ", ".join(said.get("done", ())) or "none"
            message = f"{where} is not finished ({said.get('state')}; stages done: {done}): its model may change yet."
            warnings.warn(message, stacklevel=3)
    return where / "model"


def _task(facts: dict[str, Any]) -> Task:
    return make_within(facts["task"], TASK)(classes=tuple(facts["classes"]))
