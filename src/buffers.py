"""Arrays as long as a table. Large ones lie in a file without a name: the system takes their pages back where memory is
short, and workers share them, so that what a process holds for itself does not grow with the table."""

from __future__ import annotations

import mmap
import os
import tempfile
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

LARGE = 2**20  # bytes; below, a file is not worth its handle
CHUNK = 10_000  # rows that are worked on, or are Python objects, at a time
folder: Path | None = None  # of the files, which the run sets to its cache; None: TMPDIR


def empty(shape: int | tuple[int, ...], kind: np.typing.DTypeLike) -> np.ndarray:
    """As np.empty. Where the folder cannot hold it, it is memory after all, and a warning says so."""
    room = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
    if room < LARGE or not hasattr(os, "posix_fallocate"):  # macOS
        return np.empty(shape, kind)
    try:
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, room)  # now: a disk that is full later is a bus error
            return np.frombuffer(mmap.mmap(file.fileno(), room), kind).reshape(shape)
    except OSError as error:
        warnings.warn(f"{folder or 'TMPDIR'}: {error.strerror}. The table is held in memory.", stacklevel=1)
        return np.empty(shape, kind)


def chunks(n: int) -> Iterator[slice]:
    return (slice(i, min(i + CHUNK, n)) for i in range(0, n, CHUNK))


def concatenated(*parts: np.ndarray) -> np.ndarray:
    shape = sum(map(len, parts)), *parts[0].shape[1:]
    return np.concatenate(parts, out=empty(shape, np.result_type(*parts)))


def copied(array: np.ndarray, kind: np.typing.DTypeLike) -> np.ndarray:
    found = empty(array.shape, kind)
    found[...] = array
    return found


def take(array: np.ndarray, index: np.ndarray) -> np.ndarray:
    """array[index]"""
    found = empty((len(index), *array.shape[1:]), array.dtype)
    for part in chunks(len(index)):
        found[part] = array[index[part]]
    return found


def where(n: int, chosen: Callable[[slice], np.ndarray]) -> np.ndarray:
    """The places, of n, that are chosen: (a slice of them) -> bool of each."""
    found = Grown()
    for part in chunks(n):
        found.extend(part.start + np.flatnonzero(chosen(part)))
    return found.done()


def without(n: int, gone: Iterable[int]) -> np.ndarray:
    """The places, of n, but for these."""
    left = np.array(sorted(gone), np.int64)

    def stays(part: slice) -> np.ndarray:
        found = np.ones(part.stop - part.start, bool)
        found[left[slice(*left.searchsorted([part.start, part.stop]))] - part.start] = False
        return found

    return where(n, stays)


class Grown:
    """An array that grows at its end; of the smallest type that holds all its parts."""

    def __init__(self) -> None:
        self.array, self.size = np.empty(0, bool), 0

    def extend(self, rows: Sequence | np.ndarray | array | bytearray) -> None:
        part = np.asarray(rows)
        end, kind = self.size + len(part), np.result_type(self.array.dtype, part.dtype)
        if end > len(self.array) or kind != self.array.dtype:
            before, self.array = self.array, empty((max(end, 2 * self.size), *part.shape[1:]), kind)
            if self.size:
                self.array[: self.size] = before[: self.size]
        self.array[self.size : end] = part
        self.size = end

    def drain(self, rows: array | bytearray) -> None:
        """These rows, which leave what they are in."""
        self.extend(rows)
        del rows[:]

    def done(self) -> np.ndarray:
        """Without the room for more, which of a file costs little."""
        found = self.array[: self.size]
        return found if found.nbytes >= LARGE else found.copy()
