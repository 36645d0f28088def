"""Columns of many rows in a few flat buffers (src/buffers.py): no Python object for each row, so that little memory is
taken, and that workers share it (reading a Python object counts its references, which copies the page)."""

from __future__ import annotations

import operator
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise
from numbers import Real
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from src import buffers
from src.buffers import CHUNK, Grown, chunks

if TYPE_CHECKING:
    import torch

SORTED, PREFIX = 100_000, 64  # rows that are put in order at a time; bytes of each by which they are parted before
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
            return self.take(np.arange(*at.indices(len(self))))
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(f"row {at} of {len(self)}")
        return self.some(place, place + 1)[0]

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.some(part.start, part.stop) for part in chunks(len(self)))

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
        self.data, self.ends = data, buffers.copied(ends, np.uint32 if ends[-1] < 2**32 else np.int64)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def _bytes(self, start: int, stop: int) -> list[bytes]:
        ends = self.ends[start : stop + 1].tolist()
        data, low = self.data[ends[0] : ends[-1]].tobytes(), ends[0]
        return [data[a - low : b - low] for a, b in pairwise(ends)]

    def some(self, start: int, stop: int) -> list[Any]:
        return [row.decode(*UTF8) for row in self._bytes(start, stop)]

    def take(self, index: np.ndarray) -> Self:
        ends = buffers.empty(len(index) + 1, np.int64)
        ends[0] = 0
        for part in chunks(len(index)):
            lengths = self.ends[1:][index[part]] - self.ends[:-1][index[part]]
            ends[1:][part] = np.cumsum(lengths, dtype=np.int64) + ends[part.start]
        data = buffers.empty(ends[-1], np.uint8)
        for part in chunks(len(index)):
            mine = ends[part.start : part.stop + 1]
            shift = self.ends[:-1][index[part]] - mine[:-1]
            data[mine[0] : mine[-1]] = self.data[np.repeat(shift, np.diff(mine)) + np.arange(mine[0], mine[-1])]
        return type(self)(data, ends)

    def joined(self, other: Self) -> Self:
        ends = buffers.empty(len(self) + len(other) + 1, np.int64)
        ends[: len(self) + 1] = self.ends
        np.add(other.ends[1:], self.ends[-1], out=ends[len(self) + 1 :], dtype=np.int64)
        return type(self)(buffers.concatenated(self.data, other.data), ends)

    def buffers(self) -> list[np.ndarray]:
        return [self.data, self.ends]

    def _keys(self, start: int, stop: int) -> np.ndarray:
        """(n,) by which NumPy can compare these rows: bytes, all of one width, or objects where a few are so long that
        this would take much room."""
        ends = self.ends[start : stop + 1].astype(np.int64)
        lengths = np.diff(ends)
        width = int(lengths.max(initial=1))
        if len(lengths) * width > 8 * (ends[-1] - ends[0]):
            return np.array(self._bytes(start, stop), object)
        found = np.zeros((len(lengths), width), np.uint8)
        found[np.arange(width) < lengths[:, None]] = self.data[ends[0] : ends[-1]]
        return found.view(f"S{width}")[:, 0]

    def in_order(self) -> bool:
        """Whether no row is less than the one before it, by their bytes."""
        keys = (self._keys(part.start, min(part.stop + 1, len(self))) for part in chunks(len(self)))
        return all((some[:-1] <= some[1:]).all() for some in keys)

    def order(self) -> np.ndarray:
        """The places of the rows from the least to the greatest, by their bytes; equal ones stay as they are. Many are
        first parted by their beginnings, as those of a sample are, and then put in order part by part."""
        n, parts, kind = len(self), -(-len(self) // SORTED), f"S{PREFIX}"
        if parts < 2:
            return self._keys(0, n).argsort(kind="stable")
        some = self.take(np.arange(32 * parts) * n // (32 * parts))
        borders = np.sort(some._keys(0, len(some)).astype(kind))[32::32]
        which, found, at = buffers.empty(n, np.int32), buffers.empty(n, np.int64), 0
        for part in chunks(n):
            which[part] = borders.searchsorted(self._keys(part.start, part.stop).astype(kind), "right")
        for i in range(parts):
            mine = buffers.where(n, lambda part, i=i: which[part] == i)
            found[at : at + len(mine)] = mine[self.take(mine)._keys(0, len(mine)).argsort(kind="stable")]
            at += len(mine)
        return found

    def repeats(self) -> list[int]:
        """The places of the rows that equal the one before them."""
        found = []
        for part in chunks(len(self) - 1):
            keys, lengths = self._keys(part.start, part.stop + 1), np.diff(self.ends[part.start : part.stop + 2])
            same = (keys[1:] == keys[:-1]) & (lengths[1:] == lengths[:-1])  # NumPy leaves out zeros at the end
            found += (part.start + 1 + np.flatnonzero(same)).tolist()
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
        return type(self)(buffers.take(self.array, index), self.floating)

    def joined(self, other: Self) -> Self:
        return type(self)(buffers.concatenated(self.array, other.array), self.floating or other.floating)

    def buffers(self) -> list[np.ndarray]:
        return [self.array]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """As if it were made of a list of the rows."""
        return self.array.astype(dtype or (np.float64 if self.floating else np.int64))


class Growing:
    """Texts, or tuples of them, row by row."""

    def __init__(self) -> None:
        self.data, self.ends = Grown(), Grown()
        self.some, self.stops = bytearray(), array("q", [0])  # that are not in them yet

    def __len__(self) -> int:
        return self.ends.size + len(self.stops) - 1

    def add(self, *texts: str) -> None:
        self.some += SEPARATOR.join([text.encode(*UTF8) for text in texts])
        self.stops.append(len(self.some))
        if len(self.stops) == CHUNK:
            self._keep()

    def _keep(self) -> None:
        self.ends.extend(np.asarray(self.stops) + self.data.size)
        self.data.drain(self.some)
        del self.stops[:]

    def done(self, kind: type[Texts] = Texts) -> Texts:
        self._keep()
        return kind(self.data.done(), self.ends.done())


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
    found, floating, chunk = Grown(), False, first
    while chunk:
        part = _array(chunk)
        if part is None or (found.size and part.shape[1:] != found.array.shape[1:]):
            return (*Values(found.done(), floating), *chunk, *rows)
        floating |= part.dtype.kind == "f"
        found.extend(_narrow(part))
        chunk = list(islice(rows, CHUNK))
    return Values(found.done(), floating)


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
        return torch.from_numpy(buffers.copied(rows.array, np.float32 if rows.floating else np.int64))
    return torch.tensor(rows)


def _narrow(array: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        for kind in (np.int8, np.float32) if array.dtype.kind == "f" else (np.int8, np.int16, np.int32):
            small = array.astype(kind)
            if np.array_equal(small, array, equal_nan=True):
                return small
    return array
