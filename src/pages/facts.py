"""What a report is made from: the run, its folder's files, and the answers of the split that is shown."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from src import folder, hardware, tables
from src.contracts import DataError, Run
from src.pages import pictures
from src.pages.answers import Answers, read
from src.pages.blocks import Card

SHOWN = 12  # images of a gallery
MOVED = "what raises {0} (red) and what lowers it (blue)"


def by_label(run: Run) -> set[str]:
    """Metrics of single labels, which are shown with the reliability alone."""
    classes = run.source.classes if run.task.target == "labels" else ()
    return {f"{c}/{name}{end}" for c in classes for name in ("nll", "brier", "ece") for end in ("", "/uncalibrated")}


@dataclass(frozen=True)
class Facts:
    run: Run

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return self.run.home.metrics()

    @cached_property
    def state(self) -> dict[str, Any]:
        return self.run.home.state()

    @cached_property
    def split(self) -> str:
        """test, or val where there is no test; '' before the model is chosen."""
        tables = {"test": "predictions.csv", "val": "predictions_val.csv"}
        return next((split for split, name in tables.items() if (self.run.home.path / name).is_file()), "")

    @cached_property
    def answers(self) -> list[Answers]:
        file = {"test": "predictions.csv", "val": "predictions_val.csv"}.get(self.split)
        return read(self.run, self.split, self.run.home.path / file) if file else []

    @cached_property
    def network(self) -> Any:
        return self.run.load().to(hardware.device(dict(self.run.cfg)))

    @cached_property
    def model(self) -> dict[str, Any]:
        """model.json; {} before the model is chosen."""
        model = self.run.home.path / "model"
        return folder.model_json(model) if (model / "model.json").is_file() else {}

    @property
    def headline(self) -> str:
        return self.run.task.monitor.removeprefix("val/")

    def table(self, name: str) -> list[dict[str, str]]:
        """A table of the run folder; [] where it has none."""
        file = self.run.home.path / name
        return tables.read(file) if file.is_file() else []

    def view(self, split: str, index: int) -> torch.Tensor:
        """The image as the network gets it, uint8 (C, H, W), and its mask, where there is one, as the last channel."""
        return self.run.loaders.copies(split, self.run.loaders.resize)[0](int(index))

    def named(self, split: str, path: str) -> torch.Tensor | None:
        """The same by its path, also of one that was left out of train; None where the split has no such image (any
        more)."""
        paths = self.run.source.splits[split].paths if split in self.run.source.splits else ()
        if path not in paths:
            left = split == "train" and self.run.cfg["data"]["suspects"] == "drop"
            with suppress(DataError):  # it may be gone by now
                return self.run.loaders.picture(path) if left else None
            return None
        return self.view(split, paths.index(path))[: self.run.spec.channels]

    def cards(
        self,
        answers: Answers,
        rows: Sequence[int],
        lines: Sequence[Sequence[str]],
        towards: torch.Tensor | None = None,
        signed: bool = False,
    ) -> list[Card]:
        """Of these rows. towards: the direction in the network's outputs whose evidence is shown, of each."""
        views = [self.view(self.split, answers.index[i]) for i in rows]
        heats = [""] * len(views) if towards is None else self.heats(views, towards, signed)
        return [
            Card([pictures.uri(pictures.picture(view))], said, [heat], answers.paths[i])
            for i, view, said, heat in zip(rows, views, lines, heats, strict=True)
        ]

    def heats(self, views: Sequence[torch.Tensor], towards: torch.Tensor, signed: bool = False) -> list[str]:
        """What moves the outputs of each image towards (n, outputs); '' where the network sees one place alone."""
        if not views:
            return []
        batch = torch.stack(list(views)).contiguous(memory_format=torch.channels_last).to(self.network.mean.device)
        found = self.network.evidence(batch, towards.float(), signed)
        return (
            [""] * len(views)
            if found is None or found[0].numel() == 1
            else [pictures.heat(places.cpu()) for places in found]
        )

    def towards(self, answers: Answers, weights: torch.Tensor) -> torch.Tensor:
        """(n, classes or numbers of this target) -> (n, outputs of the network)."""
        found, spread = torch.zeros(len(weights), self.network.outputs), self.run.task.spread
        block = spread.index(0.5) if isinstance(spread, tuple) else 0  # of several quantiles of each number
        start = (answers.outputs.start or 0) + block * weights.shape[1]
        found[:, start : start + weights.shape[1]] = weights.float()
        return found
