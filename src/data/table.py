"""Images and their labels listed in a CSV file: columns path, those of the label and, if there is one, split."""

from __future__ import annotations

import csv
import difflib
import io
import os
import posixpath
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from src.contracts import ConfigError, DataError, Source
from src.data.folder import existing
from src.data.split import BLOCKS, NAMES, UNDIVIDED, Division, Item, assemble, blocks
from src.labels import Cells, Labels, OneClass, shorten

_EMPTY = frozenset({"", "nan", "#n/a"})  # how pandas and spreadsheets write "nothing"
_Faults = dict[str, list[str]]  # kind of fault -> where


def table(
    root: str | Path,
    table: str | Path,
    labels: Labels | None = None,
    path_column: str = "path",
    target_column: str | Sequence[str] | None = None,
    split_column: str = "split",
    group_column: str | None = None,
    time_column: str | None = None,
    **division: Any,
) -> Source:
    """-> the images of a UTF-8 table separated by commas, semicolons or tabs; paths are relative to `root`.

    `table` is a file as given, or else relative to `root`. target_column: those of the label, None: as `labels` calls
    them. Without a split column the images are divided per class, as `folder` does; with train rows but no val rows,
    val is cut out of train. Rows of one group stay together, and so do those of neighbouring times. A row that repeats
    another is left out; an image in two splits is a leak (`data.leak`). A test split of which no row has a label is
    only predicted. division: see Division. Raises DataError with the row numbers (1 is the header) of all faults: cells
    without a value or that `labels` cannot read, unknown splits, files that are missing or outside `root`, paths with
    two labels.
    """
    root, how, labels = existing(root), Division(**division), labels or OneClass()
    file = Path(table).expanduser()
    file = file if file.is_file() else root / file
    if not file.is_file():
        raise DataError(f"data.table={table}: no such file, neither as given nor as {file}. {_nearest(root, file)}")
    lines = rows(file)
    _, header = next(lines, (1, []))
    if group_column and time_column:
        raise ConfigError(
            f"data.group={group_column} data.time={time_column}: both say which images stay together. Leave one out."
        )
    target_column = target_column or labels.columns
    labels = labels.on([target_column] if isinstance(target_column, str) else target_column)
    wanted = {"path": [path_column], "target": labels.columns, "split": [split_column]}
    if split_column == "split" and "split" not in header:
        wanted.pop("split")  # nobody asked for it
    wanted |= {key: [name] for key, name in (("group", group_column), ("time", time_column)) if name}
    words = {"group": "data.group={}", "time": "data.time={}", "target": labels.word}
    places = [(name, words.get(key, f"data.columns.{key}={{}}")) for key, names in wanted.items() for name in names]
    if faults := [fault for name, word in places if (fault := _absent(header, name, word))]:
        listed = ", ".join(header) or "none, the file is empty"
        raise DataError(f"data.table={file}: {' '.join(faults)}\nIts columns: {listed}.")
    columns = {key: [header.index(name) for name in names] for key, names in wanted.items()}
    found, notes = _collect(root, file, lines, len(header), columns, labels)
    if time_column:
        found = _by_time(found)
        notes.append(f"Images of neighbouring {time_column} stay together, in {BLOCKS} blocks.")
    return assemble(root, found, labels, how, notes=notes)


def _by_time(found: Mapping[str, list[Item]]) -> dict[str, list[Item]]:
    """The group of an item is its time; numbers are ordered as such, anything else as text (ISO dates are)."""
    timed = {}
    for name, items in found.items():
        times = [item.group for item in items]
        with suppress(ValueError):
            times = [float(str(time)) for time in times]
        numbered = zip(items, blocks(times, BLOCKS), strict=True)
        timed[name] = [replace(item, group=(name, block)) for item, block in numbered]
    return timed


def rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """(row number as a spreadsheet counts, stripped cells); blank rows are left out."""
    try:
        with open(file, newline="", encoding="utf-8-sig") as lines:
            first = lines.readline()
            lines.seek(0)
            separator = max(",;\t", key=first.count)
            for number, cells in enumerate(csv.reader(lines, delimiter=separator, skipinitialspace=True), start=1):
                if any(cells):
                    yield number, [cell.strip() for cell in cells]
    except UnicodeDecodeError as error:
        raise DataError(f"data.table={file}: is not UTF-8: {_foreign(file)}. Save it as 'CSV UTF-8'.") from error
    except csv.Error as error:
        raise DataError(f"data.table={file}: is not a CSV file ({error}). Save it as 'CSV UTF-8'.") from error


def _foreign(file: Path) -> str:
    """Which lines are not, as far as lines can be told."""
    found = []
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                found.append(f"row {number} ({line[:40].decode('latin-1').strip()!r}, perhaps)")
    return _some(found)


def _absent(header: list[str], name: str, word: str) -> str:
    """Why there is not one column of this name, or ''. `word`: how a user names it."""
    if header.count(name) == 1:
        return ""
    near = difflib.get_close_matches(name.lower(), [column.lower() for column in header], 1)
    guess = next((column for column in header if near and column.lower() == near[0]), "NAME")
    how_many = "no" if name not in header else "more than one"
    return f"{how_many} column {name!r}. Set {word.format(guess)}."


def _collect(
    root: Path,
    file: Path,
    rows: Iterator[tuple[int, list[str]]],
    width: int,
    columns: Mapping[str, list[int]],
    labels: Labels,
) -> tuple[dict[str, list[Item]], list[str]]:
    faults: _Faults = defaultdict(list)
    seen: dict[str, tuple[int, Cells]] = {}  # path -> row, label
    found: dict[str, dict[str, Item]] = defaultdict(dict)  # split -> path -> item
    lines: dict[tuple[str, str], int] = {}
    bundle = (columns.get("group") or columns.get("time") or [None])[0]
    fault_of = _Places(root)
    repeated = []
    for number, cells in rows:
        if len(cells) != width:
            faults[f"not {width} cells, as in the header"].append(f"row {number} ({len(cells)})")
            continue
        path, split = cells[columns["path"][0]], cells[columns["split"][0]] if "split" in columns else ""
        target = tuple("" if cells[i].lower() in _EMPTY else cells[i] for i in columns["target"])
        name = (NAMES.get(split.lower()) or "") if "split" in columns else UNDIVIDED
        group = cells[bundle] if bundle is not None else None
        unread = "" if name == "test" and not any(target) else labels.fault(target)
        if labels.files and any(target) and not unread:
            unread = _of_mask(fault_of(target[0]))
            target = (posixpath.normpath(target[0]),)
        if wrong := _fault(path, name, group) or unread or fault_of(path):
            shown = repr(split) if wrong.startswith("split") else repr(path)
            shown += f": {', '.join(map(repr, target))}" if wrong == unread and all(target) else ""
            faults[wrong].append(f"row {number} ({shown})")
            continue
        path = posixpath.normpath(path)
        first, label = seen.setdefault(path, (number, target))
        if label != target:
            told = f"{'; '.join(label)}, {'; '.join(target)}"
            faults["one image with two targets"].append(f"rows {first} and {number} ({path!r}: {told})")
        elif path in found[name]:
            repeated.append(f"row {number}")
        else:
            found[name][path] = Item(path, target, group)
            lines[name, path] = number
    tested = found.get("test", {}).values()
    if any(any(item.cells) for item in tested):
        for item in (item for item in tested if labels.fault(item.cells)):
            faults["no target, but others of test have one"].append(f"row {lines['test', item.path]}")
    if faults:
        raise DataError(_describe(file, faults))
    notes = [f"Left out {len(repeated)} row(s) of {file.name} that repeat another: {_some(repeated)}."]
    return {name: list(items.values()) for name, items in found.items()}, notes if repeated else []


def _of_mask(fault: str) -> str:
    return fault and f"of its mask: {fault}"


def _fault(path: str, split: str, group: str | None) -> str:
    if path.lower() in _EMPTY:
        return "no path"
    if group is not None and group.lower() in _EMPTY:
        return "no group or time"
    return "" if split else f"split is none of {', '.join(NAMES)}"


class _Places:
    """(path) -> what is wrong with where it leads, or ""; lists each folder once instead of asking for each file."""

    def __init__(self, root: Path):
        self.root = root
        self.real = os.path.realpath(root)
        self.folders: dict[str, dict[str, bool] | None] = {}  # None: outside the root

    def __call__(self, path: str) -> str:
        if path.startswith(("/", "\\", "~")) or path[1:2] == ":" or ".." in path.replace("\\", "/").split("/"):
            return "absolute or with '..'; paths are relative to data.root"
        where, name = posixpath.split(posixpath.normpath(path))
        if where not in self.folders:
            self.folders[where] = self._list(where)
        names = self.folders[where]
        if names is None or (names.get(name) and not self._inside(os.path.join(where, name))):
            return "a link that leads out of data.root; copy the file into it"
        return "" if name in names else "no such file in data.root"

    def _inside(self, path: str) -> bool:
        return os.path.realpath(os.path.join(self.root, path)).startswith(os.path.join(self.real, ""))

    def _list(self, where: str) -> dict[str, bool] | None:
        """-> name -> is it a link, of all files."""
        if where and not self._inside(where):
            return None
        try:
            with os.scandir(os.path.join(self.root, where)) as entries:
                return {entry.name: entry.is_symlink() for entry in entries if entry.is_symlink() or entry.is_file()}
        except OSError:
            return {}


def _describe(file: Path, faults: _Faults) -> str:
    count = sum(len(places) for places in faults.values())
    kinds = "\n".join(f"  {kind}: {_some(places)}" for kind, places in faults.items())
    return f"data.table={file}: {count} row(s) cannot be used (row 1 is the header).\n{kinds}\nCorrect or remove them."


def _some(places: list[str], most: int = 10) -> str:
    return ", ".join(places[:most]) + (f", ... ({len(places)} in all)" if len(places) > most else "")


def _nearest(root: Path, file: Path) -> str:
    tables = sorted(entry.name for entry in root.glob("*") if entry.suffix.lower() in (".csv", ".tsv", ".txt"))
    near = difflib.get_close_matches(file.name, tables, 1)
    return f"Did you mean {near[0]}?" if near else f"Tables in {root}: {shorten(tables) or 'none'}."


def split_table(source: Source) -> str:
    """Which image is in which split, as a table that `data=csv data.table=…` reads back."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", "split", *source.labels.columns])
    for name, split in source.splits.items():
        writer.writerows(
            (path, name, *source.labels.text(target, source.classes))
            for path, target in zip(split.paths, split.targets, strict=True)
        )
    return out.getvalue()
