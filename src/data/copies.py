"""Which files are equal byte for byte: told by their sizes, then by a piece of each, then by all of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from src import world
from src.contracts import File
from src.folder import sha256

AT_ONCE = 1_000  # files that are asked for: what waits for an answer takes kilobytes
PIECE = 4096  # bytes from the middle, where the headers that images of one kind share are over


def equal(files: Sequence[File]) -> list[list[int]]:
    """Groups of equal files, by their numbers. One that is empty, or cannot be read, equals none."""
    groups = [list(range(len(files)))]
    with ThreadPoolExecutor(world.cores()) as pool:  # hashlib lets go of the GIL
        for look in (_size, _piece, sha256):
            rows = [(g, i) for g, group in enumerate(groups) for i in group]
            told: dict[Hashable, list[int]] = defaultdict(list)
            for start in range(0, len(rows), AT_ONCE):
                some = rows[start : start + AT_ONCE]
                answers = pool.map(partial(_or_none, look), [files[i] for _, i in some])
                for (g, i), said in zip(some, answers, strict=True):
                    told[g, said if said is not None else (i,)].append(i)
            groups = [group for group in told.values() if len(group) > 1]
    return groups


def _size(file: File) -> int | None:
    return file.stat().st_size or None


def _piece(file: File) -> bytes:
    with file.open("rb") as stream:
        stream.seek(max(file.stat().st_size - PIECE, 0) // 2)
        return stream.read(PIECE)


def _or_none(look: Callable[[File], Hashable], file: File) -> Hashable:
    try:
        return look(file)
    except OSError:
        return None
