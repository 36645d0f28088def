"""Decodes every image once before training, so that a bad file is found now and by name; and identifies a data set."""

from __future__ import annotations

import hashlib
import json
import os
import random
import tempfile
from bisect import bisect_right
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from src import buffers, world
from src.contracts import ConfigError, DataError, Root, Source
from src.data.images import brightest, probe

BRIGHT = 32  # images of which it is asked how bright they are
HASHED = 10_000  # rows that go into a fingerprint at a time, which depends on it


def scan(source: Source, channels: int, bad_images: str, cache: Path, limit: int = 100_000) -> Source:
    """-> the source, of which all images can be decoded to `channels`; above `limit` images, a random `limit` of them.

    bad_images=error: raises DataError that lists the files that cannot be; skip: leaves them out and says so, but
    raises where a split or a class of train would be empty. The outcome is kept in the folder `cache`, and taken from
    there while names, sizes and times of the images stay the same.
    """
    if bad_images not in ("error", "skip"):
        raise ConfigError(f"data.bad_images={bad_images}: is neither error nor skip. Choose one of them.")
    found, notes = places(source, limit), []
    if len(found) < (images := sum(map(len, source.splits.values()))):
        notes = [f"Checked {limit:,} of {images:,} images, chosen at random (data.scan_limit)."]
    paths = sorted({source.splits[name].paths[i] for name, i in found})
    file = Path(cache) / f"scan-{key(source.root, paths, channels)}.json"
    bad = _recall(file)
    if bad is None or (bad and bad_images == "error"):  # an error is never remembered: the cause may have gone
        bad = _check(source.root, paths, channels)
        if not bad or bad_images == "skip":
            _remember(file, bad)
    if bad and bad_images == "error":
        raise DataError(
            f"{source.root}: {len(bad)} of {len(paths)} images cannot be decoded:\n{_listed(bad, 20)}\n"
            "Replace or remove them, or set data.bad_images=skip to leave them out."
        )
    source = _without(source, bad) if bad else source
    return replace(source, notes=(*source.notes, *notes, *_dark(source)))


def _dark(source: Source) -> list[str]:
    """A note where images of 16 bits hold values of 8 or 12."""
    found = [brightest(source.root / source.splits[name].paths[i]) for name, i in places(source, BRIGHT)]
    known = [top for top in found if top is not None]
    told = (
        f"The values of {len(known)} images of 16 bits that were looked at end at {max(known, default=0)} of 65535: as"
    )
    dark = known and max(known) < 65535 / 4
    return [f"{told} they are, the network sees them almost black. Multiply them to fill the range."] if dark else []


def places(source: Source, limit: int) -> list[tuple[str, int]]:
    """(split, index there) of all images; above `limit`, of so many at random, in order."""
    names = list(source.splits)
    ends = list(accumulate(len(source.splits[name]) for name in names))
    chosen = range(ends[-1]) if ends[-1] <= limit else sorted(random.Random(0).sample(range(ends[-1]), limit))
    found = ((bisect_right(ends, i), i) for i in chosen)
    return [(names[k], i - ends[k] + len(source.splits[names[k]])) for k, i in found]


def fingerprint(source: Source, limit: int = 100_000) -> str:
    """-> sha256 of the classes, of each split's name, paths and targets, and of file sizes (above `limit`, of so many
    at random): the identity of a data set."""
    digest = hashlib.sha256(repr((source.classes, sorted(source.splits))).encode())
    for name in sorted(source.splits):
        for rows in (source.splits[name].paths, source.splits[name].targets):
            for i in range(0, len(rows), HASHED):
                digest.update(repr(tuple(rows[i : i + HASHED])).encode())  # repr escapes names that are not UTF-8
    sizes = [stat(source.root, source.splits[name].paths[i])[0] for name, i in places(source, limit)]
    digest.update(repr(sizes).encode())
    return digest.hexdigest()


def key(root: Root, paths: Iterable[str], channels: int) -> str:
    where = os.path.realpath(str(root))
    digest = hashlib.sha256(f"1 {channels} {where!r}".encode())  # 1: raise it when `probe` changes
    for path in paths:
        digest.update(repr((path, *stat(root, path))).encode())
    return digest.hexdigest()


def stat(root: Root, path: str) -> tuple[int, int]:
    """-> bytes, and nanoseconds of the last change; (-1, -1) if there is no such file."""
    try:
        # of a folder without making a Path of each image, which would take two thirds of the time
        status = os.stat(os.path.join(root, path)) if isinstance(root, os.PathLike) else (root / path).stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _check(root: Root, paths: list[str], channels: int) -> dict[str, str]:
    """-> path -> reason, of those that cannot be decoded."""

    def reason(path: str) -> str:
        try:
            probe(root / path, channels)
        except DataError as error:
            return str(error).removeprefix(f"{root / path}: ")
        return ""

    with ThreadPoolExecutor(world.cores()) as pool:  # Pillow lets go of the GIL while it decodes
        return {path: why for path, why in zip(paths, pool.map(reason, paths), strict=True) if why}


def _recall(file: Path) -> dict[str, str] | None:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    bad = kept.get("bad") if isinstance(kept, dict) else None
    return bad if isinstance(bad, dict) else None


def _remember(file: Path, bad: dict[str, str]) -> None:
    with suppress(OSError):  # a cache that cannot be written costs time, not the run
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".scan-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                json.dump({"bad": bad}, out)
            os.replace(temporary, file)
        except OSError:
            os.unlink(temporary)
            raise


def _without(source: Source, bad: dict[str, str]) -> Source:
    splits = {}
    for name, split in source.splits.items():
        kept = buffers.without(len(split), (i for i, path in enumerate(split.paths) if path in bad))
        if not len(kept):
            raise DataError(
                f"data.bad_images=skip: none of the {len(split)} images of {name} can be decoded:\n"
                f"{_listed({path: bad[path] for path in split.paths}, 5)}\nReplace them."
            )
        splits[name] = split.only(kept)
    before, after = (source.labels.counts(s["train"].targets, source.classes) for s in (source.splits, splits))
    if lost := [name for name, n, m in zip(source.classes, before, after, strict=False) if n and not m]:
        raise DataError(
            f"data.bad_images=skip: no training image of {', '.join(map(repr, lost))} can be decoded:\n"
            f"{_listed(bad, 5)}\nReplace them, or remove the class."
        )
    first = "; ".join(f"{path}: {why}" for path, why in list(bad.items())[:3])
    note = f"Left out {len(bad)} image(s) that cannot be decoded (data.bad_images=skip), such as {first}."
    return replace(source, splits=splits, notes=(*source.notes, note))


def _listed(bad: dict[str, str], most: int) -> str:
    more = [f"  ... and {len(bad) - most} more"] if len(bad) > most else []
    return "\n".join([f"  {path}: {why}" for path, why in list(bad.items())[:most]] + more)
