"""Decodes each image once: resized uint8 copies in a file of the cache folder, made when an image is first asked for.

A file holds the copies of one split and one kind: first a table, then a slot per image. The slots' sizes come from the
images' headers, so the file has its full length at once but, being sparse, takes disk only for what is filled. Any
number of workers and ranks fill it without a lock, since all would write the same bytes; a table row has the checksum
of its pixels, so that of a write that a kill, a full disk or a power cut left incomplete nothing is believed. The file
is mapped for reading: the RAM level is the page cache of the OS, which processes and later runs share.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import shutil
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from src import world
from src.columns import take
from src.contracts import InputSpec, Root, Split
from src.data.images import read, size_of
from src.data.masks import Reader
from src.data.scan import key
from src.data.transforms import evaluation

OVERSIZE = 1.25  # a training copy's short side over the input's: random crops keep some detail to choose from
MANY, SAMPLE = 10_000, 1000  # images, above which that many tell how large the copies would be
UNUSED = 30 * 24 * 3600  # seconds after which a file that no run opened is removed
ROW = np.dtype([("start", "<u8"), ("room", "<u8"), ("height", "<u4"), ("width", "<u4"), ("check", "<u4")])

Change = Callable[[torch.Tensor], torch.Tensor]


class Copies:
    """(index in the split) -> change(read(the image)), uint8 (channels, H, W), in channels-last memory of its own.

    The pixels are the same whether they come from `file`, are put there, or, where it is None, are made each time.
    """

    def __init__(self, read: Callable[[int], torch.Tensor], count: int, channels: int, change: Change):
        self.read, self.count, self.channels, self.change = read, count, channels, change
        self.file: Path | None = None
        self.full = False  # the disk: it is not asked again for every image

    def __len__(self) -> int:
        return self.count

    def __call__(self, index: int) -> torch.Tensor:
        pixels = self._kept(self.file, index) if self.file else None
        if pixels is None:
            image = self.change(self.read(index))
            pixels = image.permute(1, 2, 0).contiguous().numpy()
            if self.file and not self.full:
                self._keep(self.file, index, pixels)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _kept(self, file: Path, index: int) -> np.ndarray | None:
        start, room, *shape, check = _row(file, index)
        size = math.prod(shape) * self.channels
        if not 0 < size <= room:
            return None
        pixels = np.array(_mapped(file)[start : start + size]).reshape(*shape, self.channels)
        return pixels if _checksum(pixels) == check else None

    def _keep(self, file: Path, index: int, pixels: np.ndarray) -> None:
        start, room, *_ = _row(file, index)
        if pixels.nbytes > room:  # the header was wrong, or could not be read
            return
        filled = np.array([(start, room, *pixels.shape[:2], _checksum(pixels))], ROW)
        try:  # not through the map, where a full disk is a bus error
            with open(file, "r+b") as out:
                out.seek(start)
                out.write(pixels.data)
                out.seek(index * ROW.itemsize)
                out.write(filled.data)
        except OSError as error:
            self.full = True
            warnings.warn(f"cache: {error}. Images that are not in it are decoded in every epoch.", stacklevel=2)


def copies(
    root: Root,
    name: str,
    split: Split,
    spec: InputSpec,
    resize: str | None,
    folder: Path | None,
    limit: float,
    mask: Reader | None = None,
) -> tuple[Copies, str]:
    """-> the images of the split `name`, and a sentence that says where they come from.

    resize: the policy of the evaluation view, which is then what is kept; None: training copies, whose short side is
    at most OVERSIZE times the input's, so that they differ from the image only where that is larger. Pixels depend on
    the images and on `limit` (GB), never on the disk: where that lacks room, copies are still made, but not kept.
    mask: reads the targets, which are masks then: each is one more channel of its image.
    """
    change = evaluation(spec, resize) if resize else partial(_smaller, spec=spec)
    channels = spec.channels + (mask is not None)
    reading = partial(_packed, root, split, spec.channels, mask)
    if mask is not None:
        nearest = replace(spec, interpolation="nearest-exact")  # about the centre of a pixel, as images are reduced
        labels = evaluation(nearest, resize) if resize else partial(_smaller, spec=nearest)
        change = partial(_both, change, labels)
    streaming = Copies(reading, len(split), channels, change if resize else _as_it_is)
    if folder is None:
        return streaming, ""
    if limit == 0:
        return streaming, "streaming: images are decoded in every epoch (data.cache_gb=0)"
    side = f"{spec.size[1]}x{spec.size[0]}" if resize else f"up to {round(OVERSIZE * max(spec.size))}"
    what = f"{len(split):,} {'training' if name == 'train' else name} images at {side} px"
    if len(split) > MANY:  # to look at the headers of all would take longer than the start of a run may
        chosen = sorted(random.Random(0).sample(range(len(split)), SAMPLE))
        size = sum(_rooms(root, take(split.paths, chosen), spec, resize, channels)) / SAMPLE * len(split)
        if size > limit * 1e9:
            return streaming, f"streaming: {what}, about {size / 1e9:.2f} GB, are more than data.cache_gb={limit:g}"
    file = folder / "images" / _name(root, split, spec, resize, mask)
    table, fault = _table(file, len(split), partial(_rooms, root, split.paths, spec, resize, channels))
    size = int(table["start"][-1] + table["room"][-1])
    what = f"{what}, {size / 1e9:.2f} GB"
    if size > limit * 1e9:
        return streaming, f"streaming: {what}, are more than data.cache_gb={limit:g}"
    made = Copies(reading, len(split), channels, change)
    try:
        if fault:
            raise fault
        free, has = shutil.disk_usage(file.parent).free, os.stat(file)
        if 2 * (size - has.st_blocks * 512) > free:
            return made, f"streaming: {what}, are more than half of the free {free / 1e9:.2f} GB (paths.cache)"
        if has.st_size < size:
            os.truncate(file, size)
        os.utime(file)
        _mapped(file)
    except OSError as error:
        return made, f"streaming: {what}, cannot be kept in paths.cache ({error})"
    made.file = file
    return made, f"cache: {what} (paths.cache)"


def _packed(root: Root, split: Split, channels: int, mask: Reader | None, index: int) -> torch.Tensor:
    image = read(root / split.paths[index], channels)
    return image if mask is None else torch.cat([image, mask(split.targets[index])])


def _both(image: Change, mask: Change, packed: torch.Tensor) -> torch.Tensor:
    return torch.cat([image(packed[:-1]), mask(packed[-1:])])


def _as_it_is(image: torch.Tensor) -> torch.Tensor:
    return image


def _smaller(image: torch.Tensor, spec: InputSpec) -> torch.Tensor:
    height, width = size = image.shape[-2:]
    smaller = _size(height, width, spec)
    mode = InterpolationMode(spec.interpolation)
    return image if smaller == tuple(size) else F.resize(image, list(smaller), mode, antialias=True)


def _size(height: int, width: int, spec: InputSpec) -> tuple[int, int]:
    scale = min(1.0, OVERSIZE * max(spec.size[0] / height, spec.size[1] / width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _name(root: Root, split: Split, spec: InputSpec, resize: str | None, mask: Reader | None) -> str:
    """By everything that the pixels depend on."""
    kind = (spec.size, spec.interpolation, resize and (spec.crop, spec.mean), resize or OVERSIZE)
    versions = PIL.__version__, torch.__version__, torchvision.__version__
    files, means = split.paths, ""
    if mask is not None:
        files, means = chain(files, split.targets), f" {mask.values} {mask.ignore} {mask.stray} nearest-exact"
    return hashlib.sha256(f"{key(root, files, spec.channels)} {kind} {versions}{means}".encode()).hexdigest()


def _rooms(root: Root, paths: Sequence[str], spec: InputSpec, resize: str | None, channels: int) -> list[int]:
    """Bytes of each copy; 0 where a file's header cannot be read."""
    if resize:
        return [spec.size[0] * spec.size[1] * channels] * len(paths)

    def room(path: str) -> int:
        size = size_of(root / path)
        return channels * math.prod(_size(size[1], size[0], spec)) if size else 0

    with ThreadPoolExecutor(world.cores()) as pool:
        return list(pool.map(room, paths))


def _table(file: Path, n: int, rooms: Callable[[], list[int]]) -> tuple[np.ndarray, OSError | None]:
    """-> the rows of the file, which is made if there is none; and why it could not be."""
    with suppress(OSError):
        table = np.fromfile(file, ROW, n)
        if len(table) == n:
            return table, None
    table = np.zeros(n, ROW)
    table["room"] = rooms()
    table["start"] = table.nbytes + np.cumsum(table["room"]) - table["room"]
    try:
        _create(file, table)
    except OSError as error:
        return table, error
    return table, None


def _create(file: Path, table: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    for other in file.parent.iterdir():
        with suppress(OSError):  # gone already
            if time.time() - other.stat().st_mtime > UNUSED:
                other.unlink()
    part = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        with open(part, "wb") as out:
            out.write(table.data)
            out.flush()
            os.fsync(out.fileno())  # what it says of places must be right, also after a power cut
        with suppress(FileExistsError):  # another rank was first, and may be filling it
            os.link(part, file)
    finally:
        part.unlink(missing_ok=True)
    _mapped.cache_clear()


@lru_cache
def _mapped(file: Path) -> np.ndarray:
    """Opened once per process, and never sent to a worker that is spawned."""
    return np.memmap(file, np.uint8, "r")


def _row(file: Path, index: int) -> tuple[int, int, int, int, int]:
    return _mapped(file)[index * ROW.itemsize : (index + 1) * ROW.itemsize].view(ROW)[0].tolist()


def _checksum(pixels: np.ndarray) -> int:
    return zlib.crc32(pixels.data, pixels.shape[0])  # from the height on, which a row could have wrong too
