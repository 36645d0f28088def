"""Data sets of torchvision that are on the disk already: CIFAR10, Flowers102, Food101, DTD, EuroSAT, STL10 and others.

Where a data set is made of image files, these are read as they are. Where it is one large file of pixels, as CIFAR10
and MNIST are, its images are laid out once as PNG files in the cache. Nothing is downloaded.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from src.contracts import ConfigError, DataError, Source
from src.data.digits import lay_out
from src.data.folder import existing
from src.data.found import Found
from src.data.split import UNDIVIDED, Division, Item
from src.labels import Labels, OneClass
from src.names import shorten

SPLITS = {"train": ("train", "trainval", "train-standard"), "val": ("val", "valid"), "test": ("test",)}
Pair = tuple[str | Image.Image, int]


def torchvision(
    root: str | Path,
    cache: str | Path,
    dataset: str,
    options: Mapping[str, Any] | None = None,
    labels: Labels | None = None,
    **division: Any,
) -> Source:
    """-> torchvision.datasets.DATASET(root, **options), with its own splits; val is cut out of train where it has none,
    and all three where it has no split. Its `classes` are the names of the labels, else their numbers.

    division: see Division. Raises ConfigError for a name that torchvision does not have, and DataError where it does
    not find the data below `root`, or where these are not images with one class each.
    """
    maker, options = _maker(dataset), dict(options or {})
    root, how, found = existing(root), Division(**division), Found(labels or OneClass())
    splits = {name: pairs for name, pairs in _splits(maker, root, options).items() if len(pairs)}
    names = {name: _names(pairs) for name, pairs in splits.items()}
    if "loader" in inspect.signature(maker).parameters:
        for name, pairs in splits.items():
            for file, label in _pairs(pairs, dataset):
                where = Path(os.path.relpath(str(file), root)).as_posix()
                found.add(name, Item(where, (_name(names[name], label),)))
        return found.source(root, how, "Name another data set, or another task.")
    made = lay_out(Path(cache) / "torchvision" / f"{dataset}-{_mark(root, options)}", _images(splits, dataset))
    for file in sorted(made.rglob("*.png")):
        name, label, _ = file.relative_to(made).parts
        found.add(name, Item(file.relative_to(made).as_posix(), (_name(names[name], int(label)),)))
    return found.source(made, how, "Name another data set, or another task.", [f"{dataset} of {root}, as PNG files"])


def _maker(name: str) -> Any:
    from torchvision import datasets

    kinds = {n: getattr(datasets, n) for n in datasets.__all__ if inspect.isclass(getattr(datasets, n))}
    kinds = {n: kind for n, kind in kinds.items() if "root" in inspect.signature(kind).parameters}
    if name not in kinds:
        lower = {n.lower(): n for n in kinds}
        near = [lower[n] for n in difflib.get_close_matches(name.lower(), lower, 3)]
        guess = f"Did you mean {' or '.join(near)}?" if near else f"It has {', '.join(sorted(kinds))}."
        raise ConfigError(f"data.dataset={name}: torchvision has no such data set.\n{guess}")
    return kinds[name]


def _splits(maker: Any, root: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Our name of a split -> the data set that is it."""
    known = [inspect.signature(kind.__init__).parameters for kind in maker.__mro__]
    if "split" in known[0] and "split" not in options:
        return _by_split(maker, root, options)
    if any("train" in words for words in known) and "train" not in options:
        return {name: _make(maker, root, options | {"train": name == "train"}) for name in ("train", "test")}
    return {UNDIVIDED: _make(maker, root, options)}


def _by_split(maker: Any, root: Path, options: dict[str, Any]) -> dict[str, Any]:
    found, refused = {}, ""
    for name, theirs in SPLITS.items():
        for split in theirs:
            try:
                found[name] = _make(maker, root, options | {"split": split})
                break
            except ValueError as error:  # it has no split of this name
                refused = str(error)
    if "train" not in found:
        raise DataError(
            f"data.dataset={maker.__name__}: it has no split train ({refused}).\n"
            "Set data.options={split: NAME} to the one that is to be divided here."
        )
    return found


def _make(maker: Any, root: Path, options: dict[str, Any]) -> Any:
    loader = {"loader": str} if "loader" in inspect.signature(maker).parameters else {}  # which gives the file's path
    try:
        return maker(str(root), **options, **loader)
    except (RuntimeError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise DataError(
            f"data.dataset={maker.__name__} data.root={root}: torchvision does not find it there ({reason}).\n"
            f"Where there is network, python -c \"from torchvision.datasets import *; {maker.__name__}('{root}', "
            'download=True)" brings most of them.'
        ) from error
    except TypeError as error:
        raise ConfigError(
            f"data.options={options}: {maker.__name__} does not take them ({error}).\nIts words: "
            f"{shorten(list(inspect.signature(maker).parameters), 20)}."
        ) from error


def _pairs(pairs: Any, dataset: str) -> Iterator[Pair]:
    for i in range(len(pairs)):
        image, label = pairs[i]
        if not isinstance(image, str | Image.Image) or isinstance(label, bool) or not hasattr(label, "__index__"):
            raise DataError(
                f"data.dataset={dataset}: gives {type(image).__name__} and {type(label).__name__}, not an image and "
                "the number of its class.\nName a data set of classes, or set data.options so that it is one."
            )
        yield image, int(label)


def _images(splits: Mapping[str, Any], dataset: str) -> Iterator[tuple[str, Image.Image]]:
    for name, pairs in splits.items():
        for i, (image, label) in enumerate(_pairs(pairs, dataset)):
            assert isinstance(image, Image.Image)
            yield f"{name}/{label}/{i:06d}.png", image


def _names(pairs: Any) -> list[str]:
    found = getattr(pairs, "classes", None) or getattr(pairs, "categories", None) or ()
    names = [name if isinstance(name, str) else " ".join(map(str, name)) for name in found]
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} {i}" for i, name in enumerate(names)]  # ImageNet has two cranes


def _name(names: list[str], label: int) -> str:
    return names[label] if 0 <= label < len(names) else str(label)


def _mark(root: Path, options: Mapping[str, Any]) -> str:
    """Changes with the options and with any file below `root`."""
    files = sorted(file for file in root.rglob("*") if file.is_file())
    facts = [(str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(repr((1, os.path.realpath(root), sorted(options.items()), facts)).encode()).hexdigest()[:12]
