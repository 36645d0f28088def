"""Tables: written whole or not at all, as CSV or Parquet by the file's suffix; and those of a run, read back."""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from src import folder
from src.contracts import ConfigError, DataError

PARQUET = (".parquet", ".pq")
CHUNK = 10_000  # rows
MEND = "A run wrote it, and it was changed since. Put a copy of it back, or train again."


def check(file: Path) -> None:
    """Raises ConfigError where it could not be written, before anything is computed for it."""
    if file.suffix.lower() not in (".csv", *PARQUET):
        raise ConfigError(f"--out {file}: {file.suffix} is no kind of table.\nName a .csv or a .parquet file.")
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"--out {file}: there is no folder {file.absolute().parent}. Make it first.")
    if file.suffix.lower() in PARQUET and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(
            f"--out {file}: a Parquet table needs pyarrow, which is not installed.\n"
            "Install it with `pip install pyarrow`, or name a .csv file."
        )


def columns(file: Path) -> list[str]:
    """The names of the columns of any table that is there; [] where it is empty."""
    if file.suffix.lower() not in PARQUET:
        with file.open(encoding="utf-8", errors="replace", newline="") as stream:
            return next(csv.reader(stream), [])
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_schema(file).names if file.stat().st_size else []
    except pyarrow.ArrowInvalid:
        return ["none that Parquet has"]


def read(file: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """`rows`, by their names."""
    head, *found = rows(file, columns)
    return [dict(zip(head, row, strict=True)) for row in found]


def rows(file: Path, columns: Sequence[str] = ()) -> Iterator[list[str]]:
    """The names of the columns, these among them, then the rows of a CSV that a run wrote. DataError where it is
    damaged."""
    line = 1
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream)
            head = next(reader, [])
            if lacking := [name for name in columns if name not in head]:
                raise damaged(file, 1, f"there is no column {lacking[0]}")
            yield head
            for row in filter(None, reader):
                line = reader.line_num
                if len(row) != len(head):
                    raise damaged(file, line, "it has not as many cells as the first line")
                yield row
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}.\n{MEND}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise damaged(file, line + 1, str(error)) from error


def damaged(file: Path, line: int, why: str) -> DataError:
    return DataError(f"{file}, line {line}: {why}.\n{MEND}")


def write(file: Path, rows: Iterable[dict[str, Any]]) -> int:
    """-> how many there were, at least one; all have the keys of the first."""
    rows = iter(rows)
    first = next(rows)
    part = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    count = (_parquet if file.suffix.lower() in PARQUET else _csv)(part, list(first), chain([first], rows))
    part.replace(file)
    folder.sync(file.absolute().parent)
    return count


def _csv(file: Path, names: list[str], rows: Iterable[dict[str, Any]]) -> int:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        return sum(writer.writerow(row) > 0 for row in rows)


def _parquet(file: Path, names: list[str], rows: Iterable[dict[str, Any]]) -> int:
    import pyarrow
    from pyarrow import parquet

    rows, writer, count = iter(rows), None, 0
    while chunk := list(islice(rows, CHUNK)):
        table = pyarrow.table({name: [row[name] for row in chunk] for name in names})
        writer = writer or parquet.ParquetWriter(file, table.schema)
        writer.write_table(table.cast(writer.schema))
        count += len(chunk)
    assert writer is not None
    writer.close()
    return count
