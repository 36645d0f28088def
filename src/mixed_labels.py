"""Labels of several kinds from one table: a column for each head; an empty cell says nothing of its image."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

from src.contracts import ConfigError, DataError, Part
from src.labels import BINS, Cells, Labels, Levels, ManyClasses, Numbers, OneClass
from src.names import shorten

if TYPE_CHECKING:
    import torch

KINDS: dict[str, tuple[type[Labels], str, tuple[str, ...]]] = {  # its labels, its target, its own words
    "multiclass": (OneClass, "class", ("monitor",)),
    "multilabel": (ManyClasses, "labels", ("separator",)),
    "regression": (Numbers, "numbers", ()),
    "ordinal": (Levels, "class", ("order",)),
}
COMMON = ("kind", "loss", "weight")
MONITORS = ("acc", "balanced_acc")


def words(said: Any) -> dict[str, Any]:
    """What is said of one head: its kind alone, or a mapping with `kind`."""
    return {"kind": said} if isinstance(said, str) else dict(said)


def faults(heads: Any) -> Iterator[str]:
    """Everything that is wrong with task.heads; torch is not needed to know it."""
    if not isinstance(heads, Mapping) or not heads:
        yield "task.heads must name columns and their kinds: task.heads={colour: multiclass, width: regression}."
        return
    for name, said in heads.items():
        yield from (f"task.heads: {name}: {fault}" for fault in _faults(str(name), said, list(map(str, heads))))


def _faults(name: str, said: Any, names: list[str]) -> Iterator[str]:
    if any(other != name and other.startswith(f"{name}/") for other in names) or "." in name or not name:
        yield "a column's name must have no dot, and no other may begin with it and a slash. Rename it in the table."
    if not isinstance(said, str) and not (isinstance(said, Mapping) and isinstance(said.get("kind"), str)):
        yield f"is neither a kind nor a mapping with a kind. Kinds: {', '.join(KINDS)}."
        return
    given = words(said)
    if given["kind"] not in KINDS:
        yield f"{given['kind']} is no kind. {nearest(given['kind'], KINDS)}"
        return
    own = (*COMMON, *KINDS[given["kind"]][2])
    for word in (w for w in given if w not in own):
        yield f"{given['kind']} knows no word {word!r}. {nearest(str(word), own)}"
    weight, order = given.get("weight", 1.0), given.get("order")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        yield f"weight={weight} must be a number, 0 <= x."
    if order is not None and not (isinstance(order, list | tuple) and len(order) > 1):
        yield f"order={order} must be a list of levels, from low to high."
    if given.get("monitor", "acc") not in MONITORS:
        yield f"monitor={given['monitor']} must be {' or '.join(MONITORS)}."
    if not (isinstance(text := given.get("separator", "|"), str) and text.strip()):
        yield f"separator={text!r} must be text that is not blank, since a cell with it alone says: no label."
    if not isinstance(given.get("loss", ""), str):
        yield f"loss={given['loss']} must be the name of a loss in configs/loss/multihead.yaml."


def nearest(word: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return (f"Did you mean {near[0]}? " if near else "") + f"There is: {', '.join(known)}."


def checked(heads: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Column -> the words of its head; raises ConfigError with all that is wrong."""
    if found := list(faults(heads)):
        raise ConfigError("\n".join(found))
    return {str(name): words(said) for name, said in heads.items()}


def parts(heads: Mapping[str, Any], classes: Sequence[str]) -> tuple[Part, ...]:
    """Where each head is. classes: of all heads in their order, `column/class`, or the column of a number."""
    found, start = [], 0
    for name, said in checked(heads).items():
        numbers = said["kind"] == "regression"
        stop = start
        while stop < len(classes) and (classes[stop] == name if numbers else classes[stop].startswith(f"{name}/")):
            stop += 1
        inner = (name,) if numbers else tuple(label.removeprefix(f"{name}/") for label in classes[start:stop])
        target, place = KINDS[said["kind"]][1], slice(start, stop)
        found.append(Part(name, said["kind"], target, place, inner, 0, said.get("loss"), said.get("weight", 1.0)))
        start = stop
    if start != len(classes) or any(part.columns.start == part.columns.stop for part in found):
        raise ConfigError(
            f"task.heads={list(heads)}: these images have other targets ({shorten(classes)}).\n"
            "Heads are columns of a table: use data=csv, data.root and data.table."
        )
    return tuple(found)


def known(part: Part, target: torch.Tensor) -> torch.Tensor:
    """(N, outputs) -> (N,) which images have it."""
    return ~target[:, part.columns.start].isnan()


def own(part: Part, target: torch.Tensor) -> torch.Tensor:
    """(N, outputs) of images that have it -> the target as its kind takes it: class (N,), or (N, …)."""
    mine = target[:, part.columns]
    return mine.argmax(1) if part.target == "class" else mine


@dataclass(frozen=True)
class Mixed(Labels):
    """Several columns, read as `heads` says. The target is a float for each output (see Part), NaN where a cell is
    empty: an image may have none of them. Of several labels, the separator alone says that there is none."""

    columns: Sequence[str] = ()
    heads: Mapping[str, Any] = field(default_factory=dict)
    word: ClassVar[str] = "task.heads={{{}: KIND}}"

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(checked(self.heads)))

    def on(self, columns: Sequence[str]) -> Self:
        if tuple(columns) != self.columns:
            raise ConfigError(
                f"data.columns.target={list(columns)}: the keys of task.heads name the columns "
                f"({', '.join(self.columns)}).\nLeave data.columns.target out."
            )
        return self

    @cached_property
    def each(self) -> tuple[Labels, ...]:
        """The labels of each column."""
        found = []
        for name, said in checked(self.heads).items():
            labels = KINDS[said["kind"]][0](columns=(name,))
            more = {key: said[key] for key in ("separator", "order") if said.get(key) is not None}
            more |= {"key": f"task.heads.{name}.order"} if isinstance(labels, Levels) else {}
            found.append(replace(labels, **more))
        return tuple(found)

    def fault(self, cells: Cells) -> str:
        if len(cells) != len(self.columns):
            raise ConfigError(
                f"task.heads={list(self.columns)}: this data set has {len(cells)} label(s) an image.\n"
                "Heads are columns of a table: use data=csv, data.root and data.table."
            )
        named = zip(self.columns, self.each, cells, strict=True)
        told = [f"{name}: {said}" for name, labels, cell in named if cell and (said := labels.fault((cell,)))]
        return "; ".join(told)

    def classes(self, where: str, found: Mapping[str, Collection[Cells]]) -> tuple[str, ...]:
        names, told = [], []
        for i, (name, labels) in enumerate(zip(self.columns, self.each, strict=True)):
            mine = {split: [(cells[i],) for cells in items if cells[i]] for split, items in found.items()}
            place = f"{where}, column {name!r}"
            try:
                self._refuse_empty(place, labels, mine.get("train", ()))
                inner = labels.classes(place, mine)
                names += [name] if isinstance(labels, Numbers) else [f"{name}/{label}" for label in inner]
            except DataError as error:
                told.append(str(error))
        if told:
            raise DataError("\n\n".join(told))
        return tuple(names)

    def _refuse_empty(self, place: str, labels: Labels, train: Collection[Cells]) -> None:
        values = {float(cell) for (cell,) in train} if isinstance(labels, Numbers) else set()
        if not train or len(values) == 1:
            what = f"is always {values.pop():g}" if values else "is empty for all images"
            raise DataError(f"{place} {what} in train, so there is nothing to learn.\nFill it, or leave its head out.")

    def encoder(self, classes: tuple[str, ...]) -> Callable[[Cells], tuple[float, ...]]:
        heads = parts(self.heads, classes)
        inner = [labels.encoder(part.classes) for labels, part in zip(self.each, heads, strict=True)]

        def encode(cells: Cells) -> tuple[float, ...]:
            row: list[float] = []
            for cell, part, read in zip(cells, heads, inner, strict=True):
                if not cell:
                    row += [math.nan] * len(part.classes)
                elif part.target == "class":
                    place = read((cell,))
                    row += [float(i == place) for i in range(len(part.classes))]
                else:
                    row += read((cell,))
            return tuple(row)

        return encode

    def text(self, target: tuple[float, ...], classes: tuple[str, ...]) -> Cells:
        cells = []
        for part, labels, (value,) in self._columns([target], classes):
            told = "" if value is None else labels.text(value, part.classes)[0]
            none = labels.separator if isinstance(labels, ManyClasses) and value is not None else ""
            cells.append(told or none)
        return tuple(cells)

    def _columns(
        self, targets: Sequence[tuple[float, ...]], classes: tuple[str, ...]
    ) -> Iterator[tuple[Part, Labels, list[Any]]]:
        """Each part with the targets of all images as its own labels encode them; None where they are unknown."""
        for part, labels in zip(parts(self.heads, classes), self.each, strict=True):
            rows = [target[part.columns] for target in targets]
            known = [None if math.isnan(row[0]) else row for row in rows]
            yield part, labels, [row and row.index(1.0) for row in known] if part.target == "class" else known

    def strata(self, targets: Sequence[tuple[float, ...]]) -> list[tuple]:
        """One for each class or label that is there, for the tenth that a number is in, and for what is unknown."""
        marks = [_marks(column) for column in zip(*targets, strict=True)]
        rows = zip(*marks, strict=True)
        return [tuple((i, mark) for i, mark in enumerate(row) if mark is not None) or ((-1, 0),) for row in rows]

    def counts(self, targets: Sequence[tuple[float, ...]], classes: tuple[str, ...]) -> tuple[int, ...]:
        """Of a number a tenth of its images: as many as each tenth of its range has."""
        found: list[int] = []
        for part, labels, values in self._columns(targets, classes):
            there = [value for value in values if value is not None]
            own = labels.counts(there, part.classes) or (min(len(there), max(len(there) // BINS, 1)),)
            found += own if there else [0] * len(part.classes)
        return tuple(found)

    def card(self, targets: Sequence[tuple[float, ...]], classes: tuple[str, ...]) -> list[str]:
        lines = []
        for part, _, values in self._columns(targets, classes):
            size = "" if part.target == "numbers" else f" of {len(part.classes)}"
            there = sum(value is not None for value in values)
            lines.append(f"{part.name}: {part.kind}{size}, known of {there:,} training images")
        return lines

    def serial(self, targets: Sequence[tuple[float, ...]]) -> bool:
        """Whether any of its numbers is."""
        columns = [[value for value in column if not math.isnan(value)] for column in zip(*targets, strict=True)]
        return any(Numbers().serial([(value,) for value in column]) for column in columns if not _flags(column))

    def blank(self, classes: tuple[str, ...]) -> tuple[float, ...]:
        return (math.nan,) * len(classes)


def _flags(values: Collection[float]) -> bool:
    """Whether an output is a class or a label, or a number that knows as little."""
    return set(values) <= {0.0, 1.0}


def _marks(column: Sequence[float]) -> list[Any]:
    """What each image counts as by one output; None: as nothing."""
    known = [value for value in column if not math.isnan(value)]
    if _flags(known):
        marks = iter([1 if value else None for value in known])
    else:
        marks = iter(Numbers().strata([(value,) for value in known]).tolist())
    return ["unknown" if math.isnan(value) else next(marks) for value in column]
