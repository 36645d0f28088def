"""Images and their classes listed in a CSV file: columns path, target and, if there is one, split."""

from __future__ import annotations

import csv
import difflib
import io
import os
import posixpath
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from src.contracts import UNLABELLED, DataError, Source
from src.data.folder import existing
from src.data.split import NAMES, UNDIVIDED, assemble, shorten

_EMPTY = frozenset({"", "nan", "#n/a"})  # how pandas and spreadsheets write "nothing"
_Faults = dict[str, list[str]]  # kind of fault -> where


def table(
    root: str | Path,
    table: str | Path,
    val_size: float = 0.15,
    test_size: float = 0.15,
    split_seed: int = 0,
    path_column: str = "path",
    target_column: str = "target",
    split_column: str = "split",
) -> Source:
    """-> the images of a UTF-8 table separated by commas, semicolons or tabs; paths are relative to `root`.

    `table` is a file as given, or else relative to `root`. Without a split column the images are divided per class,
    as `folder` does; with train rows but no val rows, val is cut out of train. A row that repeats another is left
    out. A test split of which no row has a target is only predicted. Raises DataError with the row numbers (1 is the
    header) of all faults: cells without a value, unknown splits, files that are missing or outside `root`, paths with
    two targets or in two splits.
    """
    root = existing(root)
    file = Path(table).expanduser()
    file = file if file.is_file() else root / file
    if not file.is_file():
        raise DataError(f"data.table={table}: no such file, neither as given nor as {file}. {_nearest(root, file)}")
    lines = rows(file)
    _, header = next(lines, (1, []))
    names = [path_column, target_column, split_column]
    if split_column == "split" and "split" not in header:
        names.pop()  # nobody asked for it
    columns = [_column(file, header, name, key) for name, key in zip(names, ("path", "target", "split"), strict=False)]
    found, notes = _collect(root, file, lines, len(header), columns)
    return assemble(root, found, val_size, test_size, split_seed, notes=notes)


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
        raise DataError(f"data.table={file}: is not UTF-8 ({error.reason}). Save it as 'CSV UTF-8'.") from error
    except csv.Error as error:
        raise DataError(f"data.table={file}: is not a CSV file ({error}). Save it as 'CSV UTF-8'.") from error


def _column(file: Path, header: list[str], name: str, key: str) -> int:
    if header.count(name) == 1:
        return header.index(name)
    near = difflib.get_close_matches(name.lower(), [column.lower() for column in header], 1)
    guess = next((column for column in header if near and column.lower() == near[0]), "NAME")
    raise DataError(
        f"data.table={file}: {'no' if name not in header else 'more than one'} column {name!r}. "
        f"Its columns: {', '.join(header) or 'none, the file is empty'}. Set data.columns.{key}={guess}."
    )


def _collect(
    root: Path, file: Path, rows: Iterator[tuple[int, list[str]]], width: int, columns: list[int]
) -> tuple[dict[str, list[tuple[str, str]]], list[str]]:
    faults: _Faults = defaultdict(list)
    seen: dict[str, tuple[int, str, str]] = {}  # path -> row, target, split
    fault_of = _Places(root)
    repeated = []
    for number, cells in rows:
        if len(cells) != width:
            faults[f"not {width} cells, as in the header"].append(f"row {number} ({len(cells)})")
            continue
        path, target, split = (*(cells[i] for i in columns), "train")[:3]
        name = (NAMES.get(split.lower()) or "") if len(columns) == 3 else UNDIVIDED
        if wrong := _fault(path, target, name) or fault_of(path):
            faults[wrong].append(f"row {number}" + (f" ({split!r})" if wrong.startswith("split") else f" ({path!r})"))
            continue
        path, target = posixpath.normpath(path), "" if target.lower() in _EMPTY else target
        first, *before = seen.setdefault(path, (number, target, name))
        if before[0] != target:
            faults["one image with two targets"].append(f"rows {first} and {number} ({path!r}: {before[0]}, {target})")
        elif before[1] != name:
            faults["one image in two splits"].append(f"rows {first} and {number} ({path!r}: {before[1]}, {name})")
        elif first != number:
            repeated.append(f"row {number}")
    tested = [(number, target) for number, target, name in seen.values() if name == "test"]
    if any(target for _, target in tested):
        for number in (number for number, target in tested if not target):
            faults["no target, but others of test have one"].append(f"row {number}")
    if faults:
        raise DataError(_describe(file, faults))
    found = defaultdict(list)
    for path, (_, target, name) in seen.items():
        found[name].append((path, target))
    notes = [f"Left out {len(repeated)} row(s) of {file.name} that repeat another: {_some(repeated)}."]
    return found, notes if repeated else []


def _fault(path: str, target: str, split: str) -> str:
    if path.lower() in _EMPTY:
        return "no path"
    if target.lower() in _EMPTY and split != "test":
        return "no target"
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
    writer.writerow(["path", "split", "target"])
    for name, split in source.splits.items():
        writer.writerows(
            (path, name, "" if t == UNLABELLED else source.classes[t])
            for path, t in zip(split.paths, split.targets, strict=True)
        )
    return out.getvalue()
