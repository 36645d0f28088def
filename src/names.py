"""The names of classes as they are found in labels: which there are, and which are probably one or several."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from src.contracts import DataError

MARKS = ",;/|"  # what people put between labels


def shorten(names: Sequence[str], most: int = 5) -> str:
    """'a', 'b' and 7 more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


def refuse_undecodable(where: str | Path, names: Iterable[str]) -> None:
    """Raises where the name of a file is no text."""
    for name in names:
        if any("\udc80" <= letter <= "\udcff" for letter in name):
            raise DataError(f"{where}: the name {ascii(name)} is not UTF-8, so no table can hold it. Rename it.")


def known(where: str, counts: Mapping[str, Counter[str]]) -> tuple[str, ...]:
    """The classes of train, sorted; raises where a split has others."""
    refuse_lookalikes(where, {label for count in counts.values() for label in count})
    train = counts.get("train")
    if not train:
        raise DataError(
            f"{where}: no image of train has a label.\nLook at the column of the labels, and at their separator."
        )
    told = []
    for split, count in counts.items():
        if strange := sorted(set(count) - set(train)):
            listed = ", ".join(f"{label!r} ({count[label]} images)" for label in strange[:10])
            told.append(f"{split} has {len(strange)} class(es) of which train has no image: {listed}.")
    if told:
        raise DataError(
            f"{where}: {' '.join(told)}\n"
            f"Train has {shorten(sorted(train))}. Add training images of them, or leave them out."
        )
    return tuple(sorted(train))


def refuse_lookalikes(where: str, labels: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for label in sorted(labels):
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", label).casefold())
        key = f"{float(key):g}" if re.fullmatch(r"-?\d+\.\d*", key) else key
        if key in seen:
            raise DataError(
                f"{where}: the classes {ascii(seen[key])} and {ascii(label)} differ only in upper and lower case, in "
                "how Unicode writes an accent or in how a number is written, so they are probably one. Give them one "
                "name, or two clearer ones."
            )
        seen[key] = label


def refuse_joined(where: str, names: Collection[str], separator: str, cells: Collection[str]) -> None:
    """Raises where a name is that of several classes, with another mark between them than `separator`; cells: those of
    the labels of train, from which the names were read."""
    _refuse_recurring(where, cells, separator)
    for name, mark in ((name, mark) for name in names for mark in MARKS if mark in name):
        if {piece.strip() for piece in name.split(mark)} <= set(names):
            raise DataError(
                f"{where}: {name!r} was read as one class, and all its parts are classes, too; the separator is "
                f"{separator!r}.\nSet task.separator={mark!r}, or write {separator!r} between labels."
            )


def _refuse_recurring(where: str, cells: Collection[str], separator: str) -> None:
    """Of names that hold a mark, such as "polar bear" and "brown bear", parts are more than names, or each has its
    place; of labels that are joined they are fewer, and now the first, now the second."""
    if any(separator in cell for cell in cells):
        return
    told = f"{where}: no cell of train has the separator {separator!r}, but"
    if cells and all(re.fullmatch(r"\[.*\]|\(.*\)|\{.*\}", cell) for cell in cells):
        raise DataError(
            f"{told} each is a list, such as {max(cells, key=len)!r}.\nWrite the labels alone, as a{separator}b."
        )
    for mark in (*MARKS, None):  # None: any white space
        joined = {
            parts
            for cell in cells
            if len({*(parts := tuple(part.strip() for part in cell.split(mark)))}) == len(parts) > 1
        }
        parts = {part for name in joined for part in name}
        placed = {(part, i) for name in joined for i, part in enumerate(name)}
        if len(joined) >= len(parts) and len(placed) > len(parts):
            shown = shorten([(mark or " ").join(name) for name in sorted(joined)], 3)
            raise DataError(
                f"{told} {len(joined)} are of {len(parts)} parts that recur in other cells: {shown}.\n"
                f"Set task.separator={mark or ' '!r}, or write {separator!r} between labels; where each cell is the "
                "name of one class, set task=multiclass."
            )
