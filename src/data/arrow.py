"""Images in the cells of Arrow tables, read where they lie: each process maps the files when it needs them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from src.contracts import File
from src.data.tar import Inside, Stat


@dataclass(frozen=True)
class Tables:
    """A Root: `tables / "train/000012.image"` is what row 12 of a split has in the column image, bytes or a path."""

    root: Path
    files: Mapping[str, tuple[str, ...]]  # split -> its Arrow files
    time: int  # nanoseconds of their last change

    def __truediv__(self, path: str) -> Cell:
        return Cell(f"{self.root}/{path}", self, path)

    def __str__(self) -> str:
        return str(self.root)


@dataclass(frozen=True)
class Cell(Inside):
    tables: Tables
    place: str

    @property
    def suffix(self) -> str:
        return ""  # the column's name; what the bytes are is told by themselves

    def open(self, mode: str = "rb") -> IO[bytes]:
        assert mode == "rb"
        found = self._value()
        return io.BytesIO(found.as_buffer()) if hasattr(found, "as_buffer") else found.open("rb")

    def stat(self) -> Any:
        found = self._value()
        return Stat(found.as_buffer().size, self.tables.time) if hasattr(found, "as_buffer") else found.stat()

    def _value(self) -> Any:
        """A scalar of bytes, or the file that is named instead."""
        split, _, rest = self.place.partition("/")
        row, _, column = rest.partition(".")
        files = self.tables.files.get(split)
        table = opened(files) if files else None
        if table is None or not row.isdecimal() or column not in table.column_names or int(row) >= len(table):
            raise FileNotFoundError(self.path)
        value = table.column(column)[int(row)]
        if hasattr(value, "keys") and value.is_valid:  # a record of bytes and path, of which one is there
            value = value["bytes"] if "bytes" in value and value["bytes"].is_valid else value["path"]
        if not value.is_valid:
            raise FileNotFoundError(self.path)
        return _file(self.tables.root, value.as_py()) if isinstance(value.as_py(), str) else value


def _file(root: Path, path: str) -> File:
    return root / os.path.expanduser(path)


@lru_cache
def opened(files: tuple[str, ...]) -> Any:
    """The rows of these files, as one pyarrow.Table whose bytes stay on the disk. Raises ArrowException, OSError."""
    import pyarrow

    tables = []
    for file in files:
        mapped = pyarrow.memory_map(file)
        try:
            tables.append(pyarrow.ipc.open_stream(mapped).read_all())
        except pyarrow.ArrowInvalid:  # the other of Arrow's two formats, which begins with ARROW1
            mapped.seek(0)
            if mapped.read(6) != b"ARROW1":
                raise
            tables.append(pyarrow.ipc.open_file(mapped).read_all())
    return pyarrow.concat_tables(tables)
