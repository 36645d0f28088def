"""What a report is made from: the run, its folder's files, and the answers of the split that is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from src import hardware, tables
from src.contracts import Run
from src.pages import pictures
from src.pages.answers import Answers, read
from src.pages.blocks import Card

SHOWN = 12  # images of a gallery


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
        file = self.run.home.path / "model" / "model.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

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
        """The same by its path; None where the split has no such image (any more)."""
        paths = self.run.source.splits[split].paths if split in self.run.source.splits else ()
        channels = self.run.spec.channels
        return self.view(split, paths.index(path))[:channels] if path in paths else None

    def cards(
        self, answers: Answers, rows: Sequence[int], lines: Sequence[Sequence[str]], output: Sequence[int] | None = None
    ) -> list[Card]:
        """Of these rows. output: that whose evidence is shown, of each."""
        views = [self.view(self.split, answers.index[i]) for i in rows]
        heats = self._heats(answers, views, output) if output is not None and views else [""] * len(views)
        return [
            Card([pictures.uri(pictures.picture(view))], said, heat, answers.paths[i])
            for i, view, said, heat in zip(rows, views, lines, heats, strict=True)
        ]

    def _heats(self, answers: Answers, views: list[torch.Tensor], output: Sequence[int]) -> list[str]:
        start = answers.outputs.start or 0
        against = answers.outputs if answers.kind == "class" else slice(0, 0)
        batch = torch.stack(views).contiguous(memory_format=torch.channels_last).to(self.network.mean.device)
        found = self.network.evidence(batch, [start + int(i) for i in output], against)
        return [""] * len(views) if found is None else [pictures.heat(places.cpu()) for places in found]
