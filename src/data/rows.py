"""Images as a source finds them, in columns: their paths, what the columns of their label hold, and their groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from src.buffers import chunks
from src.columns import SEPARATOR, Growing, Texts, Tuples, take
from src.labels import Cells


@dataclass(frozen=True, order=True, slots=True)
class Item:
    path: str
    cells: Cells  # what its label's columns hold; all "": there is no label
    group: str | None = None  # images of one group stay together


@dataclass(frozen=True)
class Rows:
    paths: Texts
    cells: Tuples
    groups: Sequence[str] = ()  # (): each image is on its own

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def labelled(self) -> bool:
        """Whether any of them is."""
        return any((self.cells.data[part] != SEPARATOR[0]).any() for part in chunks(len(self.cells.data)))

    def only(self, kept: np.ndarray) -> Rows:
        return Rows(self.paths.take(kept), self.cells.take(kept), take(self.groups, kept))

    def in_order(self) -> Rows:
        """By their paths."""
        return self if self.paths.in_order() else self.only(self.paths.order())


class Gathered:
    """Rows, image by image."""

    def __init__(self) -> None:
        self.paths, self.cells, self.groups = Growing(), Growing(), Growing()

    def add(self, item: Item) -> None:
        self.paths.add(item.path)
        self.cells.add(*item.cells)
        if item.group is not None:
            self.groups.add(item.group)

    def rows(self) -> Rows:
        return Rows(self.paths.done(), self.cells.done(Tuples), self.groups.done() if len(self.groups) else ())


def gathered(items: Iterable[Item] | Rows) -> Rows:
    if isinstance(items, Rows):
        return items
    found = Gathered()
    for item in items:
        found.add(item)
    return found.rows()
