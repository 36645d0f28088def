"""Files in uncompressed tar archives, read where they lie: an index of offsets is made once, and kept."""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from src.contracts import DataError
from src.folder import write

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
Entry = tuple[str, int, int]  # name, offset, bytes


class Stat(NamedTuple):
    st_size: int
    st_mtime_ns: int


class Part(NamedTuple):
    shard: str  # relative to the root
    start: int
    size: int


@dataclass(frozen=True)
class Shards:
    """A Root: `shards / "train-000.tar/0001.jpg"` is a file in an archive. Nothing stays open, so that it can be used
    by any number of threads and processes: a read opens the archive, as it would a file."""

    root: Path
    times: Mapping[str, int]  # archive -> nanoseconds of its last change
    parts: Mapping[str, Part]

    def __truediv__(self, path: str) -> Piece:
        part = self.parts.get(path)
        return Piece(f"{self.root}/{path}", self.root, part, self.times[part.shard] if part else 0)

    def __str__(self) -> str:
        return str(self.root)


@dataclass(frozen=True)
class Inside:
    """What a File of `contracts` is called whose bytes are a piece of a larger file."""

    path: str

    def __str__(self) -> str:
        return self.path

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)


@dataclass(frozen=True)
class Piece(Inside):
    root: Path
    part: Part | None
    time: int

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.path)[1]

    def open(self, mode: str = "rb") -> IO[bytes]:
        assert mode == "rb"
        part = self._there()
        return io.BufferedReader(_Window(self.root / part.shard, part.start, part.size))

    def stat(self) -> Stat:
        return Stat(self._there().size, self.time)

    def _there(self) -> Part:
        if self.part is None:
            raise FileNotFoundError(self.path)
        return self.part


class _Window(io.RawIOBase):
    """Bytes `start` to `start` + `size` of a file, as a file of their own."""

    def __init__(self, file: Path, start: int, size: int):
        self.handle, self.start, self.size, self.place = os.open(file, os.O_RDONLY), start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        wanted = min(len(buffer), max(self.size - self.place, 0))
        data = os.pread(self.handle, wanted, self.start + self.place)
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self.place = max(offset + (0, self.place, self.size)[whence], 0)
        return self.place

    def tell(self) -> int:
        return self.place

    def close(self) -> None:
        if not self.closed:
            os.close(self.handle)
        super().close()


def index(file: Path, cache: Path) -> list[Entry]:
    """The regular files of an archive, in its order; kept in `cache` while its size and time stay the same. Raises
    DataError with the reason alone."""
    status = file.stat()
    known = repr((1, os.path.realpath(file), status.st_size, status.st_mtime_ns))  # 1: raise it when `_entries` changes
    kept = Path(cache) / "shards" / f"{hashlib.sha256(known.encode()).hexdigest()}.json"
    with suppress(OSError, ValueError, TypeError):
        return [(name, start, size) for name, start, size in json.loads(kept.read_text(encoding="utf-8"))]
    found = _entries(file)
    with suppress(OSError):  # a cache that cannot be written costs time, not the run
        kept.parent.mkdir(parents=True, exist_ok=True)
        write(kept, json.dumps(found))
    return found


def _entries(file: Path) -> list[Entry]:
    with file.open("rb") as stream:
        head = stream.read(8)
        if how := next((name for start, name in _COMPRESSED.items() if head.startswith(start)), ""):
            raise DataError(f"compressed by {how}, so that nothing in it can be found without reading all before it")
        stream.seek(0)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                found = [(m.name, m.offset_data, m.size) for m in archive if m.isreg() and not m.issparse()]
                stream.seek(archive.offset)
        except tarfile.TarError as error:
            cut = any(word in str(error) for word in ("unexpected end", "truncated", "empty"))
            raise DataError("truncated" if cut else f"not a tar archive ({error})") from error
        if (end := stream.read(512)) != bytes(512):  # with which every archive ends: tarfile itself does not insist
            raise DataError("damaged" if len(end) == 512 else "truncated")
    return found
