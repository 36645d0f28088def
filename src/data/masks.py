"""Reads masks, the class of each pixel, and finds all that are wrong with them before the first batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from src.contracts import DataError, File, Root, Source
from src.data.images import size_of
from src.labels import Masks

IGNORE = 255  # the class of a pixel that does not count


def reader(root: Root, labels: Masks, classes: tuple[str, ...]) -> Callable[[str], torch.Tensor]:
    """-> (path -> uint8 (1, H, W), the place of each pixel's class, or IGNORE)."""
    assert labels.values is not None
    values = [labels.values[name] for name in classes]
    known = np.array([[v] if isinstance(v, int) else list(v) for v in values], dtype=np.int64)

    def read(path: str) -> torch.Tensor:
        array = pixels(root / path, known.shape[1])
        found = np.full(array.shape[:2], IGNORE, dtype=np.uint8)
        for i, value in enumerate(known):
            found[(array == value).all(2)] = i
        stray = found == IGNORE
        if labels.ignore is not None:
            stray &= array[:, :, 0] != labels.ignore
        if labels.stray == "nearest" and stray.any():
            found[stray] = np.abs(array[stray][:, None] - known).sum(2).argmin(1)
        elif labels.stray == "error" and stray.any():
            told = sorted({tuple(map(int, value)) for value in array[stray]})[:5]
            shown = ", ".join(str(value[0] if len(value) == 1 else list(value)) for value in told)
            raise DataError(f"{path}: {int(stray.sum())} pixel(s) with values that stand for no class, such as {shown}")
        return torch.from_numpy(found)[None]

    return read


def pixels(file: File, channels: int) -> np.ndarray:
    """(H, W, channels) int64. The colours of a palette are only its colours: a number is its place in it."""
    try:
        with file.open("rb") as stream, Image.open(stream) as image:
            plain = image if image.mode in ("L", "P", "1", "I", "I;16") else image.convert("L")
            array = np.array(image.convert("RGB") if channels == 3 else plain).astype(np.int64)
            return array.reshape(image.height, image.width, channels)
    except Exception as error:  # Pillow's decoders raise nearly every type on damaged input
        raise DataError(f"{file.name}: the mask cannot be read ({error})") from None


def painted(found: torch.Tensor, values: list[Any]) -> Image.Image:
    """Classes (h, w) -> a picture of the values, or colours, that stand for them."""
    table = np.array([[v] if isinstance(v, int) else list(v) for v in values], dtype=np.int64)
    kind = np.uint8 if table.max() < 256 else np.uint16
    pixels = table.astype(kind)[found.numpy()]
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def check(source: Source, limit: int) -> Source:
    """-> the source, with a note; raises DataError that lists all masks that cannot be used: not readable, of another
    size than their image, with values that stand for nothing. Above `limit` masks, the first so many of each split."""
    read = reader(source.root, source.labels, source.classes)
    pairs = [
        (path, mask)
        for split in source.splits.values()
        if split.labelled
        for path, mask in list(zip(split.paths, split.targets, strict=True))[:limit]
    ]

    def look(pair: tuple[str, str]) -> tuple[str, np.ndarray]:
        image, mask = pair
        try:
            found = read(mask)
        except DataError as error:
            return str(error), np.zeros(len(source.classes), dtype=np.int64)
        size = size_of(source.root / image)
        seen = np.bincount(found.numpy().ravel(), minlength=256)[: len(source.classes)]
        if size and size != (found.shape[2], found.shape[1]):
            return f"{mask}: {found.shape[2]}x{found.shape[1]} pixels, but {image} has {size[0]}x{size[1]}", seen
        return "", seen

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        told = list(pool.map(look, pairs))
    wrong = [fault for fault, _ in told if fault]
    if wrong:
        more = f"\n  … and {len(wrong) - 20} more" if len(wrong) > 20 else ""
        raise DataError(
            f"{source.root}: {len(wrong)} of {len(pairs)} masks cannot be used:\n  "
            + "\n  ".join(wrong[:20])
            + more
            + "\nMend them; for stray values set task.labels.stray=nearest or ignore, or name all values."
        )
    seen = sum(counts for _, counts in told)
    share = ", ".join(f"{n} {100 * c / max(seen.sum(), 1):.1f} %" for n, c in zip(source.classes, seen, strict=True))
    plain = sum(int((counts > 0).sum() < 2) for _, counts in told)
    note = f"pixels: {share}" + (f"; {plain} masks have one class only" if plain else "")
    return replace(source, notes=(*source.notes, note))
