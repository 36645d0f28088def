"""What the model said of each image of a split, from predictions.csv; of several targets, each on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from src import tables
from src.contracts import Run


@dataclass(frozen=True)
class Answers:
    """Of one target. `kind` as in Task.target; the rows are those images of which it is known, if any is."""

    name: str  # the column of several, else ''
    kind: str
    classes: tuple[str, ...]
    outputs: slice  # of the network
    index: np.ndarray  # (N,) in the split
    paths: list[str]
    target: list[Any]  # class names; sets of them; or tuples of floats
    prediction: list[Any]  # alike
    p: np.ndarray  # (N, C) probabilities; empty of numbers
    labelled: bool
    more: dict[str, list[str]] = field(default_factory=dict)  # other columns

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def true(self) -> np.ndarray:
        return self._places(self.target)

    @property
    def said(self) -> np.ndarray:
        return self._places(self.prediction)

    @property
    def there(self) -> np.ndarray:
        """(N, C) of labels: which are true."""
        return np.array([[c in names for c in self.classes] for names in self.target], dtype=bool)

    @property
    def ordered(self) -> bool:
        """Whether classes are levels."""
        return self.kind == "class" and "expected" in self.more

    def column(self, name: str) -> np.ndarray | None:
        """(N,) numbers of another column; None where there is none, or not of all."""
        cells = self.more.get(name, [])
        return np.array(cells, dtype=np.float64) if cells and all(cells) else None

    @property
    def taken(self) -> np.ndarray:
        return np.array([[c in names for c in self.classes] for names in self.prediction], dtype=bool)

    def _places(self, names: Sequence[str]) -> np.ndarray:
        place = {name: i for i, name in enumerate(self.classes)}
        return np.array([place[name] for name in names], dtype=np.int64)


def read(run: Run, split: str, file: Path) -> list[Answers]:
    """The whole table is held, a float32 for each probability."""
    rows = tables.rows(file, ("path",))
    head = next(rows)
    heads = [_Head(run, split, part, head) for part in (run.task.parts or (None,))]
    path, place = head.index("path"), {path: i for i, path in enumerate(run.source.splits[split].paths)}
    for row in rows:
        if row[path] in place:
            for one in heads:
                one.take(place[row[path]], row[path], row)
    return [one.answers() for one in heads]


class _Head:
    """The columns of one target."""

    def __init__(self, run: Run, split: str, part: Any, head: Sequence[str]):
        self.name, self.kind = (part.name, part.target) if part else ("", run.task.target)
        self.classes = tuple(part.classes if part else run.source.classes)
        self.outputs = part.columns if part else slice(None)
        self.separator = getattr(run.source.labels, "separator", "|")
        self.labelled = run.source.splits[split].labelled and self.kind != "mask"
        own, place = f"/{self.name}" if part else "", {name: i for i, name in enumerate(head)}
        each = [f"/{c}" for c in self.classes] if self.kind == "numbers" and not part else [own]
        told, said = (each if f"{key}{each[0]}" in place else [""] for key in ("target", "prediction"))
        self.target = [place[f"target{name}"] for name in told]
        self.prediction = [place[key] for name in said if (key := f"prediction{name}") in place]
        self.p = [i for c in self.classes if (i := place.get(f"prob{own}/{c}")) is not None]
        used = {place["path"], *self.target, *self.prediction, *self.p}
        rest = {n: i for n, i in place.items() if i not in used}
        self.more = {n.removesuffix(own): i for n, i in rest.items() if n.endswith(own)}  # of parts but their own
        self.rows: list[tuple[int, str, list[str], list[str], np.ndarray, list[str]]] = []

    def take(self, index: int, path: str, row: Sequence[str]) -> None:
        told, said = ([row[i] for i in columns] for columns in (self.target, self.prediction))
        p = np.array([row[i] for i in self.p], dtype=np.float32)
        self.rows.append((index, path, told, said, p, [row[i] for i in self.more.values()]))

    def answers(self) -> Answers:
        known = not self.labelled or (self.kind == "labels" and not self.name)  # where an empty cell says: none
        kept = [row for row in self.rows if known or all(row[2])]
        return Answers(
            name=self.name,
            kind=self.kind,
            classes=self.classes,
            outputs=self.outputs,
            index=np.array([row[0] for row in kept], dtype=np.int64),
            paths=[row[1] for row in kept],
            target=[self._read(row[2]) for row in kept] if self.labelled else [],
            prediction=[self._read(row[3]) for row in kept] if self.prediction else [],
            p=np.stack([row[4] for row in kept]) if kept else np.zeros((0, 0), np.float32),
            labelled=self.labelled,
            more={name: [row[5][i] for row in kept] for i, name in enumerate(self.more)},
        )

    def _read(self, cells: Sequence[str]) -> Any:
        if self.kind == "numbers":
            return tuple(map(float, cells))
        if self.kind == "labels":
            return {name for part in cells[0].split(self.separator) if (name := part.strip())}
        return cells[0]
