"""Columns of many rows in a few flat buffers: no Python object for each row, so that little memory is taken, and that
workers share it (reading a Python object counts its references, which copies the page)."""

from __future__ import annotations

import operator
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise
from numbers import Real
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    import torch

CHUNK = 10_000  # rows that are Python objects at a time
UTF8 = "utf-8", "surrogatepass"  # surrogates: in the names of files that are not UTF-8
SEPARATOR = b"\xff"  # which is in no UTF-8


class Column(Sequence):
    """What a tuple of the rows would be, but for its size."""

    @abstractmethod
    def take(self, index: np.ndarray) -> Self:
        """The rows of these places, all of them in the column."""

    @abstractmethod
    def some(self, start: int, stop: int) -> list[Any]:
        """These rows as Python objects."""

    @abstractmethod
    def joined(self, other: Self) -> Self:
        """These rows, then those."""

    @abstractmethod
    def buffers(self) -> list[np.ndarray]:
        """What it holds; equal columns have equal ones."""

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return self.take(np.arange(len(self))[at])
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(f"row {at} of {len(self)}")
        return self.some(place, place + 1)[0]

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.some(i, min(i + CHUNK, len(self))) for i in range(0, len(self), CHUNK))

    def __eq__(self, other: object) -> bool:
        if type(other) is type(self):
            pairs = zip(self.buffers(), other.buffers(), strict=True)
            return all(np.array_equal(mine, its, equal_nan=mine.dtype.kind == "f") for mine, its in pairs)
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    def __hash__(self) -> int:
        """Equal columns are as long; NaN, which is equal in them, has no hash to go by."""
        return hash(len(self))

    def __repr__(self) -> str:
        return repr(tuple(self))


class Texts(Column):
    """Text, as UTF-8; row i is data[ends[i] : ends[i + 1]]."""

    def __init__(self, data: np.ndarray, ends: np.ndarray):
        self.data, self.ends = data, ends.astype(np.uint32 if ends[-1] < 2**32 else np.int64, copy=False)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def _bytes(self, start: int, stop: int) -> list[bytes]:
        ends = self.ends[start : stop + 1].tolist()
        data, low = self.data[ends[0] : ends[-1]].tobytes(), ends[0]
        return [data[a - low : b - low] for a, b in pairwise(ends)]

    def some(self, start: int, stop: int) -> list[Any]:
        return [row.decode(*UTF8) for row in self._bytes(start, stop)]

    def take(self, index: np.ndarray) -> Self:
        lengths = np.diff(self.ends)[index]
        ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        data = np.empty(ends[-1], np.uint8)
        for i in range(0, len(index), CHUNK):
            part = slice(i, i + CHUNK)
            shift = self.ends[:-1][index[part]].astype(np.int64) - ends[:-1][part]
            low, high = ends[i], ends[min(i + CHUNK, len(index))]
            data[low:high] = self.data[np.repeat(shift, lengths[part]) + np.arange(low, high)]
        return type(self)(data, ends)

    def joined(self, other: Self) -> Self:
        ends = other.ends[1:].astype(np.int64) + self.ends[-1]
        return type(self)(np.concatenate([self.data, other.data]), np.concatenate([self.ends, ends]))

    def buffers(self) -> list[np.ndarray]:
        return [self.data, self.ends]

    def _fixed(self, start: int, stop: int, width: int) -> np.ndarray:
        """(n,) of `width` bytes each, which NumPy can compare."""
        ends = self.ends[start : stop + 1].astype(np.int64)
        found = np.zeros((stop - start, max(width, 1)), np.uint8)
        found[np.arange(max(width, 1)) < np.diff(ends)[:, None]] = self.data[ends[0] : ends[-1]]
        return found.view(f"S{max(width, 1)}")[:, 0]

    def order(self) -> np.ndarray:
        """The places of the rows from the least to the greatest, by their bytes; equal ones stay as they are."""
        n, width = len(self), int(np.diff(self.ends).max(initial=0))
        if n * width > 8 * len(self.data):  # a few rows are so long that all would take much room
            rows = list(self)
            return np.array(sorted(range(n), key=rows.__getitem__), dtype=np.int64)
        fixed = np.empty(n, f"S{max(width, 1)}")
        for i in range(0, n, CHUNK):
            fixed[i : i + CHUNK] = self._fixed(i, min(i + CHUNK, n), width)
        return fixed.argsort(kind="stable")

    def repeats(self) -> list[int]:
        """The places of the rows that equal the one before them."""
        found, last = [], None
        for place, row in enumerate(self):
            if row == last:
                found.append(place)
            last = row
        return found


class Tuples(Texts):
    """Tuples of one or more texts, with SEPARATOR between them."""

    def some(self, start: int, stop: int) -> list[Any]:
        return [tuple([text.decode(*UTF8) for text in row.split(SEPARATOR)]) for row in self._bytes(start, stop)]


class Values(Column):
    """Whole numbers, numbers (`floating`), or tuples of either, in the smallest type that holds them exactly."""

    def __init__(self, array: np.ndarray, floating: bool):
        self.array, self.floating = array, floating

    def __len__(self) -> int:
        return len(self.array)

    def some(self, start: int, stop: int) -> list[Any]:
        rows = self.array[start:stop]
        rows = (rows.astype(np.float64) if self.floating else rows).tolist()
        return rows if self.array.ndim == 1 else list(map(tuple, rows))

    def take(self, index: np.ndarray) -> Self:
        return type(self)(self.array[index], self.floating)

    def joined(self, other: Self) -> Self:
        return type(self)(np.concatenate([self.array, other.array]), self.floating or other.floating)

    def buffers(self) -> list[np.ndarray]:
        return [self.array]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """As if it were made of a list of the rows."""
        return self.array.astype(dtype or (np.float64 if self.floating else np.int64))


class Growing:
    """Texts, or tuples of them, row by row."""

    def __init__(self) -> None:
        self.data, self.ends = bytearray(), array("q", [0])

    def add(self, *texts: str) -> None:
        self.data += SEPARATOR.join([text.encode(*UTF8) for text in texts])
        self.ends.append(len(self.data))

    def done(self, kind: type[Texts] = Texts) -> Texts:
        return kind(np.frombuffer(self.data, np.uint8), np.frombuffer(self.ends, np.int64))


def texts(rows: Iterable[str]) -> Texts:
    if isinstance(rows, Texts):
        return rows
    found = Growing()
    for row in rows:
        found.add(row)
    return found.done()


def column(rows: Iterable[Any]) -> Sequence[Any]:
    """-> Texts or Values where the rows are such, or else a tuple of them."""
    if isinstance(rows, Column):
        return rows
    rows = iter(rows)
    first = list(islice(rows, CHUNK))
    if not first:
        return ()
    if isinstance(first[0], str):
        return texts(chain(first, rows))
    parts, floating, chunk = [], False, first
    while chunk:
        part = _array(chunk)
        if part is None or (parts and part.shape[1:] != parts[0].shape[1:]):
            return (*chain.from_iterable(Values(part, floating) for part in parts), *chunk, *rows)
        floating |= part.dtype.kind == "f"
        parts.append(_narrow(part))
        chunk = list(islice(rows, CHUNK))
    return Values(np.concatenate(parts), floating)


def _array(rows: list[Any]) -> np.ndarray | None:
    """None: they are no numbers, nor tuples of as many; or whole ones that NumPy would round, of 64 bits and more."""
    if not isinstance(rows[0], Real | tuple):
        return None
    try:
        found = np.array(rows)
    except ValueError:
        return None
    values = chain.from_iterable(rows) if found.ndim == 2 else rows
    rounded = found.dtype.kind == "f" and not any(isinstance(value, float | np.floating) for value in values)
    return found if found.dtype.kind in "bif" and found.ndim < 3 and not rounded else None


def take(rows: Sequence[Any], index: Sequence[int] | np.ndarray) -> Sequence[Any]:
    """The rows of these places; () of what has none."""
    if isinstance(rows, Column):
        return rows.take(np.asarray(index, dtype=np.int64))
    return tuple(rows[i] for i in index) if rows else ()


def joined(rows: Sequence[Any], more: Sequence[Any]) -> Sequence[Any]:
    same = isinstance(rows, Column) and isinstance(more, Column) and type(rows) is type(more)
    return rows.joined(more) if same else column(chain(rows, more))


def numbers(rows: Sequence[Any]) -> np.ndarray:
    """(N,) or (N, …), of a type that may be small."""
    return rows.array if isinstance(rows, Values) else np.asarray(rows)


def tensor(rows: Sequence[Any]) -> torch.Tensor:
    """torch.tensor of the rows, without making them Python objects."""
    import torch

    if isinstance(rows, Values):
        return torch.from_numpy(rows.array.astype(np.float32 if rows.floating else np.int64))
    return torch.tensor(rows)


def _narrow(array: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        for kind in (np.int8, np.float32) if array.dtype.kind == "f" else (np.int8, np.int16, np.int32):
            small = array.astype(kind)
            if np.array_equal(small, array, equal_nan=True):
                return small
    return array
