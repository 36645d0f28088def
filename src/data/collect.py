"""Reads the rows of a table of images into columns, and finds everything that is wrong with them, by row number."""

from __future__ import annotations

import posixpath
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from src import buffers
from src.buffers import CHUNK, Grown, chunks
from src.columns import Growing, Texts, Tuples, Values
from src.data.found import some
from src.data.places import Places, outside
from src.data.rows import Rows
from src.data.split import MEMO, NAMES, UNDIVIDED
from src.labels import Cells, Labels

_EMPTY = frozenset({"", "nan", "#n/a"})  # how pandas and spreadsheets write "nothing"
SPLITS = ("train", "val", "test", UNDIVIDED)
_Fault = tuple[int, str, str]  # row number, what is wrong, where


@dataclass(frozen=True)
class _Read:
    """Rows that can be read, by their paths; rows of one image are in the order of the table."""

    rows: Rows
    split: np.ndarray  # (N,) the place in SPLITS
    number: np.ndarray  # (N,) of the row

    def only(self, kept: np.ndarray) -> _Read:
        return _Read(self.rows.only(kept), buffers.take(self.split, kept), buffers.take(self.number, kept))

    def parts(self) -> dict[int, np.ndarray]:
        """The place in SPLITS -> its rows; what comes first in the table is first."""
        first = np.full(len(SPLITS), 2**62)
        for part in chunks(len(self.split)):
            np.minimum.at(first, self.split[part], self.number[part])
        codes = [code for code in first.argsort().tolist() if first[code] < 2**62]
        return {code: buffers.where(len(self.split), lambda part, i=code: self.split[part] == i) for code in codes}


def collect(
    root: Path,
    file: Path,
    lines: Iterator[tuple[int, list[str]]],
    width: int,
    columns: Mapping[str, list[int]],
    labels: Labels,
    rest: str,
    place: tuple[str | None, str | None],
) -> tuple[dict[str, Rows], list[str], list[str]]:
    """-> split -> rows, notes, what is wrong. rest: the split where no column says it; place: folder and suffix."""
    told: list[_Fault] = []
    read = _read(lines, width, columns, labels, rest, place, told)
    lost = list(_lost(root, read.rows, labels))
    told += [(number := int(read.number[i]), why, f"row {number} ({shown})") for i, why, shown in lost]
    read = read.only(buffers.without(len(read.rows), [i for i, *_ in lost])) if lost else read
    again, repeated = _again(read, told)
    read = read.only(buffers.without(len(read.rows), again)) if again else read
    faults: dict[str, list[str]] = defaultdict(list)
    for _, why, where in sorted(told, key=lambda fault: fault[0]):
        faults[why].append(where)
    found = {}
    for code, mine in read.parts().items():
        mine = mine[read.number[mine].argsort()] if "time" in columns else mine  # which decides between equal times
        all_as_they_are = len(mine) == len(read.rows) and "time" not in columns
        found[SPLITS[code]] = read.rows if all_as_they_are else read.rows.only(mine)
        if code == SPLITS.index("test") and found["test"].labelled:
            pairs = zip(Values(read.number, False).take(mine), found["test"].cells, strict=True)
            half = sorted(number for number, cells in pairs if labels.fault(cells))
            faults |= {"no target, but others of test have one": [f"row {number}" for number in half]} if half else {}
    notes = [f"Left out {len(repeated)} row(s) of {file.name} that repeat another: {some(repeated)}."]
    return found, notes if repeated else [], [_describe(file, faults)] if faults else []


def _read(
    lines: Iterable[tuple[int, list[str]]],
    width: int,
    columns: Mapping[str, list[int]],
    labels: Labels,
    rest: str,
    place: tuple[str | None, str | None],
    told: list[_Fault],
) -> _Read:
    paths, cells, groups = Growing(), Growing(), Growing()
    kept = Grown(), Grown()
    splits, numbers = array("b"), array("q")  # that are not in `kept` yet
    [at], targets, [split_at] = columns["path"], columns.get("target", ()), columns.get("split", [None])
    [bundle] = columns.get("group") or columns.get("time") or [None]
    label = lru_cache(MEMO)(lambda said: _label(said, labels))
    for number, line in lines:
        if len(line) != width:
            told.append((number, f"not {width} cells, as in the header", f"row {number} ({len(line)})"))
            continue
        path = _placed(line[at], *place)
        name = rest if split_at is None else NAMES.get(line[split_at].lower(), "")
        group = None if bundle is None else line[bundle]
        target, unread = label(tuple([line[i] for i in targets]))
        unread = "" if name == "test" and not any(target) else unread
        if wrong := _fault(path, name, group) or unread or outside(path):
            shown = repr(line[split_at]) if wrong.startswith("split") and split_at is not None else repr(path)
            shown += f": {', '.join(map(repr, target))}" if wrong == unread and any(target) else ""
            told.append((number, wrong, f"row {number} ({shown})"))
            continue
        paths.add(posixpath.normpath(path))
        cells.add(*target)
        splits.append(SPLITS.index(name))
        numbers.append(number)
        if len(numbers) == CHUNK:
            kept[0].drain(splits)
            kept[1].drain(numbers)
        if group is not None:
            groups.add(group)
    rows = Rows(paths.done(), cells.done(Tuples), () if bundle is None else groups.done())
    kept[0].drain(splits)
    kept[1].drain(numbers)
    found = _Read(rows, kept[0].done(), kept[1].done())
    return found if rows.paths.in_order() else found.only(rows.paths.order())


def _label(said: Cells, labels: Labels) -> tuple[Cells, str]:
    """-> cells, and why they cannot be read."""
    cells = tuple("" if cell.lower() in _EMPTY else cell for cell in said) or ("",) * len(labels.columns)
    fault = labels.fault(cells)
    if labels.files and any(cells) and not fault:
        fault, cells = _of_mask(outside(cells[0])), (posixpath.normpath(cells[0]),)
    return cells, fault


def _lost(root: Path, rows: Rows, labels: Labels) -> Iterator[tuple[int, str, str]]:
    """(place in the rows, what is wrong, where) of those whose image, or mask, is not there."""
    fault_of, told = Places(root), set()
    if labels.files:
        masks = Texts(rows.cells.data, rows.cells.ends)
        order = masks.order()  # so that each folder is listed once, and forgotten
        for i, mask in zip(order.tolist(), masks.take(order), strict=True):
            if wrong := mask and _of_mask(fault_of(mask)):
                told.add(i)
                yield i, wrong, f"{rows.paths[i]!r}: {mask!r}"
    for i, path in enumerate(rows.paths):
        if (wrong := fault_of(path)) and i not in told:
            yield i, wrong, repr(path)


def _again(read: _Read, told: list[_Fault]) -> tuple[list[int], list[str]]:
    """-> the places of rows whose image came before in the same split, or with another target (which is told), and the
    numbers of those that only repeat."""
    again, repeated, first, seen = [], [], -1, set()
    places = read.rows.paths.repeats()
    for last, i in zip([-1, *places], places, strict=False):
        if i - 1 != last:
            first, seen = i - 1, {read.split[i - 1]}
        rows = [int(read.number[first]), int(read.number[i])]
        one, other = read.rows.cells[first], read.rows.cells[i]
        if one != other:
            where = f"rows {rows[0]} and {rows[1]} ({read.rows.paths[i]!r}: {'; '.join(one)}, {'; '.join(other)})"
            told.append((rows[1], "one image with two targets", where))
        elif read.split[i] in seen:
            repeated.append(rows[1])
        else:
            seen.add(read.split[i])
            continue
        again.append(i)
    return again, [f"row {number}" for number in sorted(repeated)]


def _placed(cell: str, folder: str | None, suffix: str | None) -> str:
    if cell.lower() in _EMPTY or cell.startswith(("/", "\\", "~")):  # which are faults, told as they stand
        return cell
    return posixpath.join(folder or "", cell + (suffix or ""))


def _of_mask(fault: str) -> str:
    return fault and f"of its mask: {fault}"


def _fault(path: str, split: str, group: str | None) -> str:
    if path.lower() in _EMPTY:
        return "no path"
    if group is not None and group.lower() in _EMPTY:
        return "no group or time"
    return "" if split else f"split is none of {', '.join(NAMES)}"


def _describe(file: Path, faults: Mapping[str, list[str]]) -> str:
    count = sum(len(places) for places in faults.values())
    kinds = "\n".join(f"  {kind}: {some(places)}" for kind, places in faults.items())
    return f"data.table={file}: {count} row(s) cannot be used (row 1 is the header).\n{kinds}\nCorrect or remove them."
