"""How labels are read from a folder's name or a table's cells, checked, and written back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np

from src.buffers import chunks
from src.columns import numbers
from src.contracts import UNLABELLED, DataError
from src.names import known, refuse_joined, shorten

Cells = tuple[str, ...]  # what one image has in the label's columns; a folder's name is one cell
BINS, FEWEST = 10, 6  # of numbers, by which they are divided as classes are; and images of each
SERIES = 50  # images from which neighbours can be told to be alike,
ALIKE = 0.5  # by the correlation of their numbers


@dataclass(frozen=True)
class Labels(ABC):
    """A kind of label. `columns` are those of a table that hold it."""

    columns: Sequence[str] = ("target",)
    word: ClassVar[str] = "data.columns.target={}"  # how a user names a column of it
    files: ClassVar[bool] = False  # whether a cell is the path of a file, with a label for each pixel
    divided: ClassVar[str] = "per class"  # how `strata` are told
    open: ClassVar[bool] = False  # whether later splits may have classes that train has not

    def on(self, columns: Sequence[str]) -> Self:
        return replace(self, columns=tuple(columns))

    def fault(self, cells: Cells) -> str:
        """Why these cells cannot be read, or ''. Empty ones come only where an image has no label."""
        return "" if all(cells) else "no target"

    @abstractmethod
    def classes(self, where: str, found: Mapping[str, Collection[Cells]]) -> tuple[str, ...]:
        """(what is read, split -> all cells of it) -> the names of the classes, levels or numbers, of which `train` has
        images; it is there also where nothing is divided yet. Raises DataError where they cannot be learnt."""

    @abstractmethod
    def encoder(self, classes: tuple[str, ...]) -> Callable[[Cells], Any]:
        """-> (cells -> target)."""

    @abstractmethod
    def text(self, target: Any, classes: tuple[str, ...]) -> Cells:
        """What `encoder` reads back."""

    @abstractmethod
    def strata(self, targets: Sequence[Any]) -> np.ndarray | list[tuple]:
        """What each image counts as where images are divided, a number (N,) or several: all splits get their part of
        each."""

    def counts(self, targets: Sequence[Any], classes: tuple[str, ...]) -> tuple[int, ...]:
        """How many images each class has; () where there are no classes."""
        known, found = numbers(targets), np.zeros(len(classes), np.int64)
        for part in chunks(len(known)):
            some = known[part][known[part] >= 0].astype(np.int64)
            found += np.bincount(some, minlength=len(classes))[: len(classes)]
        return tuple(found.tolist())

    def card(self, targets: Sequence[Any], classes: tuple[str, ...]) -> list[str]:
        """What else is to be said of the training images, a sentence a line."""
        return []

    def serial(self, targets: Sequence[Any]) -> bool:
        """Whether neighbours, in the order of their names, are so alike that they are one scene."""
        return False

    def holds_out_classes(self, found: Sequence[Any], test: Sequence[Any]) -> bool:
        """Whether what is cut out of these targets is whole classes; test: of a test split that is there already."""
        return False

    def blank(self, classes: tuple[str, ...]) -> Any:
        """The target of an image that is only to be predicted."""
        return UNLABELLED


@dataclass(frozen=True)
class OneClass(Labels):
    """The name of one class; the target is its place in the sorted list."""

    def classes(self, where: str, found: Mapping[str, Collection[Cells]]) -> tuple[str, ...]:
        counts = {split: Counter(cell for (cell,) in items if cell) for split, items in found.items()}
        names = known(where, counts)
        if len(names) == 1:
            sizes = ", ".join(f"{split} {sum(count.values())}" for split, count in counts.items())
            raise DataError(f"{where}: found one class only, {names[0]!r} ({sizes}). Telling classes apart needs two.")
        return names

    def encoder(self, classes: tuple[str, ...]) -> Callable[[Cells], int]:
        index = {name: i for i, name in enumerate(classes)}
        return lambda cells: index[cells[0]]

    def text(self, target: int, classes: tuple[str, ...]) -> Cells:
        return ("" if target == UNLABELLED else classes[target],)

    def strata(self, targets: Sequence[int]) -> np.ndarray:
        return numbers(targets)


@dataclass(frozen=True)
class ManyClasses(Labels):
    """Any number of classes in one cell; the target has a 0 or 1 for each. An empty cell: none of them."""

    columns: Sequence[str] = ("labels",)
    separator: str = "|"

    def fault(self, cells: Cells) -> str:
        return ""

    def _names(self, cells: Cells) -> list[str]:
        return [name for part in cells[0].split(self.separator) if (name := part.strip())]

    def classes(self, where: str, found: Mapping[str, Collection[Cells]]) -> tuple[str, ...]:
        counts = {split: Counter(name for one in items for name in self._names(one)) for split, items in found.items()}
        cells = {cell for (cell,) in found.get("train", ()) if cell}
        refuse_joined(where, counts.get("train", ()), self.separator, cells)
        return known(where, counts)

    def encoder(self, classes: tuple[str, ...]) -> Callable[[Cells], tuple[float, ...]]:
        def encode(cells: Cells) -> tuple[float, ...]:
            there = set(self._names(cells))
            return tuple(float(name in there) for name in classes)

        return encode

    def text(self, target: tuple[float, ...], classes: tuple[str, ...]) -> Cells:
        return (self.separator.join(name for name, there in zip(classes, target, strict=True) if there > 0),)

    def strata(self, targets: Sequence[tuple[float, ...]]) -> list[tuple]:
        return [tuple(i for i, there in enumerate(target) if there) or (-1,) for target in targets]

    def counts(self, targets: Sequence[tuple[float, ...]], classes: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(map(int, numbers(targets).sum(0))) if len(targets) else ()

    def blank(self, classes: tuple[str, ...]) -> tuple[float, ...]:
        return (float(UNLABELLED),) * len(classes)


@dataclass(frozen=True)
class Levels(OneClass):
    """One of several levels in a stated order; the target is its place. order: from low to high; None: of numbers."""

    order: Sequence[str | int | float] | None = None
    key: str = "task.labels.order"  # where the user says it

    def fault(self, cells: Cells) -> str:
        known = self.order is None or not all(cells) or cells[0] in map(str, self.order)
        return super().fault(cells) if known else f"no level of {self.key}={list(map(str, self.order or ()))}"

    def classes(self, where: str, found: Mapping[str, Collection[Cells]]) -> tuple[str, ...]:
        counts = {split: Counter(cell for (cell,) in items if cell) for split, items in found.items()}
        if self.order is None:
            names = sorted({name for count in counts.values() for name in count})
            words = [name for name in names if not _is_number(name)]
            if words:
                raise DataError(
                    f"{where}: the levels {shorten(words)} are no numbers, so their order is not known.\n"
                    f"Set {self.key}=[{','.join(names[:12])}] from low to high."
                )
            names.sort(key=float)
            if twice := [pair for pair in pairwise(names) if float(pair[0]) == float(pair[1])]:
                raise DataError(
                    f"{where}: the levels {shorten(twice[0])} are one number. Write each number in one way."
                )
        else:
            names = [str(level) for level in self.order]
            if len(set(names)) < len(names):
                raise DataError(f"{self.key}={names} names a level twice.\nName each once, from low to high.")
        train = counts.get("train", Counter())
        if len(train) < 2:
            raise DataError(f"{where}: train has {len(set(train))} level(s), {shorten(sorted(train))}; it needs two.")
        return tuple(names)


@dataclass(frozen=True)
class Numbers(Labels):
    """A number in each column; the target is a tuple of floats."""

    divided: ClassVar[str] = "by bins of the numbers"

    def fault(self, cells: Cells) -> str:
        if not all(cells):
            return "no target"
        return "" if all(map(_is_number, cells)) else "not a number, as 1.5 is"

    def classes(self, where: str, found: Mapping[str, Collection[Cells]]) -> tuple[str, ...]:
        if len(self.columns) > 1:
            _refuse_dots(where, self.columns, "Rename them in the table.")
        values: dict[str, set[float]] = {name: set() for name in self.columns}
        for cells in found.get("train", ()):
            for several, cell in zip(values.values(), cells if all(cells) else (), strict=False):
                if len(several) < 2:
                    several.add(float(cell))
        if flat := {name: several for name, several in values.items() if len(several) < 2}:
            told = ", ".join(f"{n!r} is {f'always {v.pop():g}' if v else 'never there'}" for n, v in flat.items())
            raise DataError(
                f"{where}: {told} in train, so there is nothing to learn.\n"
                "Bring images with other values, or name other columns with data.columns.target."
            )
        return tuple(self.columns)

    def encoder(self, classes: tuple[str, ...]) -> Callable[[Cells], tuple[float, ...]]:
        return lambda cells: tuple(map(float, cells))

    def text(self, target: tuple[float, ...], classes: tuple[str, ...]) -> Cells:
        return tuple("" if math.isnan(value) else repr(value) for value in target)

    def strata(self, targets: Sequence[tuple[float, ...]]) -> np.ndarray:
        """By the place of the first number among all: ten bins, or fewer, so that each has some for every split."""
        bins = max(1, min(BINS, len(targets) // FEWEST))
        found = np.empty(len(targets), np.int64)
        found[numbers(targets)[:, 0].argsort(kind="stable")] = bins * np.arange(len(targets)) // len(targets)
        return found

    def counts(self, targets: Sequence[tuple[float, ...]], classes: tuple[str, ...]) -> tuple[int, ...]:
        return ()

    def serial(self, targets: Sequence[tuple[float, ...]]) -> bool:
        """By the correlation of each first number with that of the next image."""
        if len(targets) < SERIES:
            return False
        values = numbers(targets)[:, 0].astype(np.float64)
        if not np.ptp(values[:-1]) or not np.ptp(values[1:]):
            return False
        return bool(np.corrcoef(values[:-1], values[1:])[0, 1] > ALIKE)

    def blank(self, classes: tuple[str, ...]) -> tuple[float, ...]:
        return (math.nan,) * len(classes)


@dataclass(frozen=True)
class Masks(Labels):
    """A file with the class of each pixel; the target is its path. values: class -> the value that stands for it in the
    file, a number or a colour [r,g,b]; None: numbers count the classes. ignore: the value of pixels that do not count.
    stray: what becomes of other values: error | nearest | ignore."""

    columns: Sequence[str] = ("mask",)
    values: Mapping[str, int | Sequence[int]] | None = None
    ignore: int | None = None
    stray: str = "error"
    files: ClassVar[bool] = True
    divided: ClassVar[str] = "by chance"

    def __post_init__(self) -> None:
        if self.values is not None:  # a number that is the name of a class is text from here on
            object.__setattr__(self, "values", {str(name): value for name, value in self.values.items()})

    def classes(self, where: str, found: Mapping[str, Collection[Cells]]) -> tuple[str, ...]:
        if self.values is None:
            raise DataError(
                f"{where}: what the values of the masks stand for is not said.\n"
                "Set task.labels.values={background: 0, NAME: VALUE}, with every class."
            )
        if len(self.values) < 2:
            raise DataError(f"task.labels.values={dict(self.values)} names one class only; a mask needs two.")
        _refuse_dots(where, tuple(self.values), "Name them otherwise in task.labels.values.")
        return tuple(self.values)

    def encoder(self, classes: tuple[str, ...]) -> Callable[[Cells], str]:
        return lambda cells: cells[0]

    def text(self, target: str, classes: tuple[str, ...]) -> Cells:
        return (target,)

    def strata(self, targets: Sequence[str]) -> np.ndarray:
        return np.zeros(len(targets), np.int8)

    def counts(self, targets: Sequence[str], classes: tuple[str, ...]) -> tuple[int, ...]:
        return ()

    def blank(self, classes: tuple[str, ...]) -> str:
        return ""


def _refuse_dots(where: str, names: Sequence[str], remedy: str) -> None:
    """Metrics are called by them, and what torch calls parts by must have no dot."""
    if dotted := [name for name in names if "." in name]:
        raise DataError(f"{where}: the names {shorten(dotted)} have a dot, which no metric's name can. {remedy}")


def _is_number(cell: str) -> bool:
    try:
        return abs(float(cell)) < 3e38  # what float32 holds
    except ValueError:
        return False
