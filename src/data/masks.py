"""Reads masks, the class of each pixel, and finds all that are wrong with them before the first batch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image

from src import world
from src.contracts import DataError, File, Root, Source
from src.data.images import FORMATS, size_of
from src.labels import Masks
from src.names import shorten

IGNORE = 255  # the class of a pixel that does not count


@dataclass(frozen=True)
class Reader:
    """(path) -> uint8 (1, H, W), the place of each pixel's class, or IGNORE."""

    root: Root
    values: tuple[tuple[int, ...], ...]  # of each class, a number or a colour
    ignore: int | None
    stray: str

    def __call__(self, path: str) -> torch.Tensor:
        known = np.array(self.values, dtype=np.int64)
        array = pixels(self.root / path, known.shape[1])
        found = np.full(array.shape[:2], IGNORE, dtype=np.uint8)
        for i, value in enumerate(known):
            found[(array == value).all(2)] = i
        stray = found == IGNORE
        if self.ignore is not None:
            stray &= (array != self.ignore).any(2)
        if self.stray == "nearest" and stray.any():
            found[stray] = _nearest(array[stray], known)
        elif self.stray == "error" and stray.any():
            told = sorted({tuple(map(int, value)) for value in array[stray]})[:5]
            shown = ", ".join(str(value[0] if len(value) == 1 else list(value)) for value in told)
            raise DataError(f"{path}: {int(stray.sum())} pixel(s) with values that stand for no class, such as {shown}")
        return torch.from_numpy(found)[None]


def _nearest(pixels: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(N, channels) -> (N,) the place of the value that is nearest; one after the other, since pixels are many."""
    found, least = np.zeros(len(pixels), np.uint8), np.full(len(pixels), np.iinfo(np.int64).max)
    for i, value in enumerate(known):
        distance = np.abs(pixels - value).sum(1)
        found[distance < least] = i
        least = np.minimum(least, distance)
    return found


def reader(root: Root, labels: Masks, classes: tuple[str, ...]) -> Reader:
    assert labels.values is not None
    values = (labels.values[name] for name in classes)
    return Reader(root, tuple((v,) if isinstance(v, int) else tuple(v) for v in values), labels.ignore, labels.stray)


def pixels(file: File, channels: int) -> np.ndarray:
    """(H, W, channels) int64. The colours of a palette are only its colours: a number is its place in it."""
    try:
        with file.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
            plain = image.mode in ("L", "P", "1") or image.mode.startswith(("I", "F"))
            array = np.array(image if plain and channels == 1 else image.convert("RGB"))
            array = array if plain or channels == 3 else _grey(array)
            if not (array == array.astype(np.int64)).all():
                raise ValueError("its values are no whole numbers")
            return array.astype(np.int64).reshape(image.height, image.width, channels)
    except Exception as error:  # Pillow's decoders raise nearly every type on damaged input
        raise DataError(f"{file.name}: the mask cannot be read ({error})") from None


def _grey(array: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W); a number that is in one channel alone would be mixed with the others."""
    if len(coloured := array[(array != array[:, :, :1]).any(2)]):
        raise ValueError(
            f"task.labels.values are numbers, but it has colours such as {coloured[0].tolist()}; "
            "give each class its colour [r,g,b], or save the mask as one channel"
        )
    return array[:, :, 0]


def painted(found: torch.Tensor, values: list[Any]) -> Image.Image:
    """Classes (h, w) -> a picture of the values, or colours, that stand for them."""
    table = np.array([[v] if isinstance(v, int) else list(v) for v in values], dtype=np.int64)
    kind = np.uint8 if table.max() < 256 else np.uint16
    pixels = table.astype(kind)[found.numpy()]
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def check(source: Source, limit: int) -> Source:
    """-> the source, with a note; raises DataError that lists all masks that cannot be used: not readable, of another
    size than their image, with values that stand for nothing. Above `limit` masks, the first so many of each split."""
    _distinct(source.labels)
    read = reader(source.root, source.labels, source.classes)
    places = [
        (name, *pair)
        for name, split in source.splits.items()
        if split.labelled
        for pair in islice(zip(split.paths, split.targets, strict=True), limit)
    ]

    def look(place: tuple[str, str, str]) -> tuple[str, np.ndarray]:
        _, image, mask = place
        try:
            found = read(mask)
        except DataError as error:
            return str(error), np.zeros(len(source.classes), dtype=np.int64)
        size = size_of(source.root / image)
        seen = np.bincount(found.numpy().ravel(), minlength=256)[: len(source.classes)]
        if size and size != (found.shape[2], found.shape[1]):
            return f"{mask}: {found.shape[2]}x{found.shape[1]} pixels, but {image} has {size[0]}x{size[1]}", seen
        return "", seen

    with ThreadPoolExecutor(world.cores()) as pool:
        told = list(pool.map(look, places))
    wrong = [fault for fault, _ in told if fault]
    if wrong:
        more = f"\n  … and {len(wrong) - 20} more" if len(wrong) > 20 else ""
        raise DataError(
            f"{source.root}: {len(wrong)} of {len(places)} masks cannot be used:\n  "
            + "\n  ".join(wrong[:20])
            + more
            + "\nMend them; for stray values set task.labels.stray=nearest or ignore, or name all values."
        )
    seen = sum(counts for _, counts in told)
    share = ", ".join(f"{n} {100 * c / max(seen.sum(), 1):.1f} %" for n, c in zip(source.classes, seen, strict=True))
    plain = sum(int((counts > 0).sum() == 1) for _, counts in told)
    note = f"pixels: {share}" + (f"; {plain} masks have one class only" if plain else "")
    blank = [mask for (_, _, mask), (_, counts) in zip(places, told, strict=True) if not counts.any()]
    more = [f"{len(blank)} masks have no pixel that counts: {shorten(blank)}."] if blank else []
    return replace(source, notes=(*source.notes, note, *more, *_absent(source, places, told)))


def _absent(source: Source, places: list[tuple[str, str, str]], told: list[tuple[str, np.ndarray]]) -> list[str]:
    """Notes of the classes that a split lacks; raises where it lacks all of them, or train all but one."""
    notes = []
    for name in dict.fromkeys(name for name, *_ in places):
        seen = sum(counts for (split, *_), (_, counts) in zip(places, told, strict=True) if split == name)
        missing = [label for label, n in zip(source.classes, np.atleast_1d(seen), strict=True) if not n]
        there = len(source.classes) - len(missing)
        if there < (2 if name == "train" else 1):
            raise DataError(
                f"{source.root}: the masks of {name} show {there} of the classes {shorten(source.classes)}.\n"
                "Look at task.labels.values and task.labels.ignore: they say what the values of a mask stand for."
            )
        notes += [f"{name} has no pixel of {len(missing)} class(es): {shorten(missing)}."] if missing else []
    return notes


def _distinct(labels: Masks) -> None:
    """Raises where the values are too many, or cannot tell the classes apart, or what is ignored from them."""
    if len(labels.values or {}) > IGNORE:
        raise DataError(
            f"task.labels.values names {len(labels.values or {})} classes; a mask tells up to {IGNORE} apart.\n"
            "Name fewer, and set task.labels.stray=ignore for the others."
        )
    colours = [[value] if isinstance(value, int) else value for value in (labels.values or {}).values()]
    kinds = {len(v) if isinstance(v, Sequence) and all(map(_is_16_bit, v)) else 0 for v in colours}
    if kinds not in ({1}, {3}) or len({tuple(v) for v in colours}) < len(colours):
        raise DataError(
            f"task.labels.values={dict(labels.values or {})}: not a value of its own for each class.\n"
            "Give all of them numbers of 0 to 65535, or all of them colours [r,g,b]."
        )
    if labels.ignore is not None and {labels.ignore} in map(set, colours):
        raise DataError(f"task.labels.ignore={labels.ignore} is the value of a class, too. Leave one of them out.")


def _is_16_bit(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 65536
