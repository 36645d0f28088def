"""Images and their labels listed in a CSV or Parquet file: columns path, those of the label and, if there, split."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from src.buffers import CHUNK
from src.columns import texts
from src.contracts import ConfigError, DataError, Source
from src.data import parquet
from src.data.collect import collect
from src.data.folder import existing
from src.data.found import some
from src.data.rows import Rows
from src.data.scan import stat
from src.data.split import BLOCKS, UNDIVIDED, Division, assemble
from src.data.strata import blocks
from src.labels import Labels, OneClass
from src.names import shorten

_NOTHING = frozenset({"na", "n/a", "<na>", "none", "null"})  # as some write a missing value
SIZED = 100_000  # images whose sizes are asked for split.csv


def table(
    root: str | Path,
    table: str | Path,
    labels: Labels | None = None,
    path_column: str = "path",
    target_column: str | Sequence[str] | None = None,
    split_column: str = "split",
    group_column: str | None = None,
    time_column: str | None = None,
    suffix: str | None = None,
    folder: str | None = None,
    test_table: str | Path | None = None,
    test_folder: str | None = None,
    **division: Any,
) -> Source:
    """-> the images of a UTF-8 table separated by commas, semicolons or tabs, or of a Parquet table.

    `table` is a file as given, or else relative to `root`. A path is ROOT/folder/CELLsuffix. target_column: those of
    the label, None: as `labels` calls them. Without a split column the images are divided per class, as `folder` does;
    with train rows but no val rows, val is cut out of train. Rows of one group stay together, and so do those of
    neighbouring times. A row that repeats another is left out; an image in two splits is a leak (`data.leak`). A test
    split of which no row has a label is only predicted; `test_table` lists it in a table of its own, which needs no
    column but that of the paths (in `test_folder`, None: in `folder`). division: see Division. Raises DataError with
    the row numbers (1 is the header) of all faults: cells without a value or that `labels` cannot read, unknown splits,
    files that are missing or outside `root`, paths with two labels.
    """
    root, how, labels = existing(root), Division(**division), labels or OneClass()
    file = _file(root, "table", table)
    lines = rows(file, labels)
    _, header = next(lines, (1, []))
    if group_column and time_column:
        raise ConfigError(
            f"data.group={group_column} data.time={time_column}: both say which images stay together. Leave one out."
        )
    target_column = target_column or labels.columns
    labels = labels.on([target_column] if isinstance(target_column, str) else target_column)
    wanted = {"path": [path_column], "target": labels.columns, "split": [split_column]}
    if split_column == "split" and "split" not in header:
        _refuse_split(file, header, {*labels.columns, path_column, group_column, time_column})
        wanted.pop("split")  # nobody asked for it
    wanted |= {key: [name] for key, name in (("group", group_column), ("time", time_column)) if name}
    columns = _columns(file, header, wanted, labels)
    rest = "train" if test_table else UNDIVIDED
    found, notes, faults = collect(root, file, lines, len(header), columns, labels, rest, (folder, suffix))
    if time_column:
        found = _by_time(found, f"data.table={file} data.time={time_column}")
        notes.append(f"Images of neighbouring {time_column} stay together, in {BLOCKS} blocks.")
    if test_table:
        wanted = {"path": [path_column], "target": labels.columns, "group": [group_column] if group_column else []}
        place = folder if test_folder is None else test_folder, suffix
        tested, more, wrong = _test(root, _file(root, "test_table", test_table), wanted, labels, place)
        if "test" in found:
            raise DataError(
                f"data.test_table={test_table}: {file} has rows of test, too ({len(found['test'])}).\n"
                f"Leave data.test_table out, or give these rows another split in {file.name}."
            )
        found, notes, faults = found | tested, notes + more, faults + wrong
    if faults:
        raise DataError("\n".join(faults))
    source = assemble(root, found, labels, how, notes=notes)
    return replace(source, notes=(*source.notes, *_missing(source.classes)))


def _missing(classes: Sequence[str]) -> list[str]:
    found = [name for name in classes if name.lower() in _NOTHING]
    told = f"{shorten(found)}: taken for a class (Namibia's code is NA). Where it says that nothing is known, leave the"
    return [f"{told} cell empty, or the row out."] if found else []


def _file(root: Path, key: str, name: str | Path) -> Path:
    file = Path(name).expanduser()
    file = file if file.is_file() else root / file
    if not file.is_file():
        raise DataError(f"data.{key}={name}: no such file, neither as given nor as {file}. {_nearest(root, file)}")
    return file


def _test(
    root: Path, file: Path, wanted: Mapping[str, Sequence[str]], labels: Labels, place: tuple[str | None, str | None]
) -> tuple[dict[str, Rows], list[str], list[str]]:
    """The rows of a table of test, of which only the path must be there."""
    lines = rows(file, labels)
    _, header = next(lines, (1, []))
    there = {key: names for key, names in wanted.items() if key == "path" or all(name in header for name in names)}
    columns = _columns(file, header, there, labels)
    return collect(root, file, lines, len(header), columns, labels, "test", place)


def _by_time(found: Mapping[str, Rows], asked: str) -> dict[str, Rows]:
    """The group of an item is its time."""
    return {
        name: replace(items, groups=texts(f"{name} {i}" for i in blocks(_times(list(items.groups), asked), BLOCKS)))
        for name, items in found.items()
    }


def _times(cells: list[str], asked: str) -> list[float] | list[str]:
    """Numbers, ISO dates, or text that is in order as it is: of one shape, the year or the hour first."""
    with suppress(ValueError):
        return list(map(float, cells))
    shapes = {re.sub(r"\d", "0", cell) for cell in cells}
    if len(shapes) == 1 and re.match("0000|00:00", shapes.pop()):
        return cells
    times = []
    for cell in cells:
        try:
            time = datetime.fromisoformat(cell)
        except ValueError:
            raise DataError(
                f"{asked}: {cell!r} is no date as 2026-01-31 or 2026-01-31T23:59 is, and not all times are numbers.\n"
                "Write all of them in one of these ways."
            ) from None
        times.append((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())
    return times


def rows(file: Path, labels: Labels | None = None) -> Iterator[tuple[int, list[str]]]:
    """(row number as a spreadsheet counts, stripped cells); blank rows are left out."""
    if file.suffix.lower() in (".parquet", ".pq"):
        yield from parquet.rows(file, getattr(labels, "separator", "|"))
        return
    try:
        csv.field_size_limit(2**31 - 1)  # of a cell; 131,072 would be too few for some polygons beside a label
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


def _columns(
    file: Path, header: list[str], wanted: Mapping[str, Sequence[str]], labels: Labels
) -> dict[str, list[int]]:
    """Where they are; raises DataError with all that are not there."""
    words = {"group": "data.group={}", "time": "data.time={}", "target": labels.word}
    places = [(name, words.get(key, f"data.columns.{key}={{}}")) for key, names in wanted.items() for name in names]
    if faults := [fault for name, word in places if (fault := _absent(header, name, word))]:
        listed = ", ".join(header) or "none, the file is empty"
        raise DataError(f"data.table={file}: {' '.join(faults)}\nIts columns: {listed}.")
    return {key: [header.index(name) for name in names] for key, names in wanted.items()}


def _refuse_split(file: Path, header: list[str], read: Collection[str | None]) -> None:
    """Raises where a column that nobody reads seems to say which images are those of the test."""
    if other := [name for name in header if name.lower() == "split" and name not in read]:
        raise DataError(
            f"data.table={file}: no column 'split', but {other[0]!r}.\n"
            f"Set data.columns.split={other[0]}, or rename it if it says something else."
        )


def _foreign(file: Path) -> str:
    """Which lines are not, as far as lines can be told."""
    found = []
    with open(file, "rb") as lines:
        if lines.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            return "it is UTF-16, 'Unicode text'"
        lines.seek(0)
        for number, line in enumerate(lines, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                found.append(f"row {number} ({line[:40].decode('latin-1').strip()!r}, perhaps)")
    return some(found)


def _absent(header: list[str], name: str, word: str) -> str:
    """Why there is not one column of this name, or ''. `word`: how a user names it."""
    if header.count(name) == 1:
        return ""
    near = difflib.get_close_matches(name.lower(), [column.lower() for column in header], 1)
    guess = next((column for column in header if near and column.lower() == near[0]), "NAME")
    how_many = "no" if name not in header else "more than one"
    return f"{how_many} column {name!r}. Set {word.format(guess)}."


def _nearest(root: Path, file: Path) -> str:
    kinds = (".csv", ".tsv", ".txt", ".parquet")
    tables = sorted(entry.name for entry in root.glob("*") if entry.suffix.lower() in kinds)
    near = difflib.get_close_matches(file.name, tables, 1)
    return f"Did you mean {near[0]}?" if near else f"Tables in {root}: {shorten(tables) or 'none'}."


def split_table(source: Source) -> Iterator[str]:
    """Which image is in which split, as the parts of a table that `data=csv data.table=…` reads back; and, up to SIZED
    images, how large its file is, by which a later run knows it again."""
    sized = sum(map(len, source.splits.values())) <= SIZED
    yield _written([("path", "split", *source.labels.columns, *(["bytes"] if sized else []))])
    for name, split in source.splits.items():
        pairs = zip(split.paths, split.targets, strict=True)
        lines = (
            (path, name, *source.labels.text(target, source.classes), *([stat(source.root, path)[0]] if sized else []))
            for path, target in pairs
        )
        while chunk := list(islice(lines, CHUNK)):
            yield _written(chunk)


def _written(lines: Iterable[Sequence[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()
