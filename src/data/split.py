"""Turns found images into a Source: checks the classes, and divides what the user has not divided."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from src.contracts import UNLABELLED, ConfigError, DataError, Source, Split

NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
UNDIVIDED = "undivided"  # the key under which `assemble` takes items without a split of their own


def stratified(targets: Sequence, fractions: Mapping[str, float], seed: int) -> list[str]:
    """-> for each item "train" or a name of `fractions`; a function of the order of `targets` and the seed alone.

    Of a class with n images, each name gets round(n * fraction), but at least 1; train always keeps 1. A class too
    small for that serves train first, then the names in their order.
    """
    if min(fractions.values(), default=0) < 0 or sum(fractions.values()) >= 1:
        asked = ", ".join(f"{name}_size={part:g}" for name, part in fractions.items())
        raise ConfigError(f"{asked}: leaves nothing for train. Each must be 0 or more, and their sum less than 1.")
    fractions = {name: part for name, part in fractions.items() if part > 0}
    waiting = {}
    for target, n in Counter(targets).items():
        waiting[target] = [name for name, count in _counts(n, fractions).items() for _ in range(count)]
    answer = ["train"] * len(targets)
    for i in np.random.default_rng(seed).permutation(len(targets)).tolist():
        if waiting[targets[i]]:
            answer[i] = waiting[targets[i]].pop()
    return answer


def random_split(n: int, fractions: Mapping[str, float], seed: int) -> list[str]:
    """`stratified` for n items that have no classes."""
    return stratified([None] * n, fractions, seed)


def _counts(n: int, fractions: Mapping[str, float]) -> dict[str, int]:
    counts, room = {}, n - 1
    for later, (name, part) in zip(range(len(fractions) - 1, -1, -1), fractions.items(), strict=True):
        counts[name] = max(min(1, room), min(round(n * part), room - later))
        room -= counts[name]
    return counts


def assemble(
    root: Path,
    found: Mapping[str, Iterable[tuple[str, str]]],
    val_size: float,
    test_size: float,
    split_seed: int,
    empty: Iterable[str] = (),
    notes: Sequence[str] = (),
) -> Source:
    """-> a Source with train and val, and test where there is one; paths are sorted, and so are the classes.

    `found`: train, val, test, or UNDIVIDED alone -> (path, class name) of each image. `empty`: classes known to have
    no image at all. A test split whose class names are all "" has no labels. Raises DataError where the classes of
    train cannot serve for all splits.
    """
    rows = {name: sorted(items) for name, items in found.items()}
    rows = {name: items for name, items in rows.items() if items}
    classes = _classes(root, rows)
    told = [*notes, *_about_empty(empty)]
    divided, more = _divide(rows, val_size, test_size, split_seed)
    index = {name: i for i, name in enumerate(classes)}
    splits = {}
    for name in (name for name in ("train", "val", "test") if name in divided):
        paths, labels = zip(*divided[name], strict=True)
        splits[name] = Split(paths, tuple(index.get(label, UNLABELLED) for label in labels))
    return Source(root, classes, splits, (*told, *more, *_about_missing(classes, splits)))


def _classes(root: Path, rows: Mapping[str, list[tuple[str, str]]]) -> tuple[str, ...]:
    counts = {split: Counter(label for _, label in items if label) for split, items in rows.items()}
    _refuse_lookalikes(root, {label for count in counts.values() for label in count})
    train = counts.get("train") or counts.get(UNDIVIDED)
    if not train:
        raise DataError(
            f"{root}: no images to train on ({_sizes(rows) or 'no images at all'}). Put images into the train split."
        )
    for split, count in counts.items():
        if strange := sorted(set(count) - set(train)):
            listed = ", ".join(f"{label!r} ({count[label]} images)" for label in strange[:10])
            raise DataError(
                f"{root}: {split} has {len(strange)} class(es) of which train has no image: {listed}.\n"
                f"Train has {shorten(sorted(train))}. Add training images of them, or leave them out of {split}."
            )
    if len(train) == 1:
        raise DataError(
            f"{root}: found one class only, {next(iter(train))!r} ({_sizes(rows)}). Telling classes apart needs two."
        )
    return tuple(sorted(train))


def _refuse_lookalikes(root: Path, labels: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for label in sorted(labels):
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", label).casefold())
        if key in seen:
            raise DataError(
                f"{root}: the classes {ascii(seen[key])} and {ascii(label)} differ only in upper and lower case or in "
                "how Unicode writes an accent, so they are probably one. Give them one name, or two clearer ones."
            )
        seen[key] = label


def _divide(
    rows: dict[str, list[tuple[str, str]]], val_size: float, test_size: float, seed: int
) -> tuple[dict[str, list[tuple[str, str]]], list[str]]:
    """Cuts the missing splits out of what there is; -> rows without UNDIVIDED, and notes."""
    notes = []
    if "val" not in rows:
        whole = UNDIVIDED if UNDIVIDED in rows else "train"
        fractions = {"val": val_size, "test": test_size} if whole == UNDIVIDED else {"val": val_size}
        items = rows.pop(whole)
        for name, item in zip(stratified([label for _, label in items], fractions, seed), items, strict=True):
            rows.setdefault(name, []).append(item)
        if "val" not in rows:
            raise DataError(
                f"val_size={val_size:g}: there is no val split, and none could be cut out of {len(items)} images. "
                "Set data.val_size to a part of train (0.15), add images, or bring a val split."
            )
        given = "No splits were given" if whole == UNDIVIDED else "There is no val split"
        notes.append(f"{given}: divided per class with split_seed={seed} into {_sizes(rows)} images.")
    if "test" not in rows:
        notes.append("There is no test split: the results are those of val, which also chose the model.")
    return rows, notes


def _about_empty(empty: Iterable[str]) -> list[str]:
    names = sorted(empty)
    return [f"Left out {len(names)} class(es) without any image: {shorten(names)}."] if names else []


def _about_missing(classes: tuple[str, ...], splits: Mapping[str, Split]) -> list[str]:
    notes = []
    for name, split in splits.items():
        if not split.labelled:
            notes.append(f"{name} has no labels: its {len(split):,} images are predicted, and nothing is measured.")
            continue
        present = set(split.targets)
        if missing := [label for i, label in enumerate(classes) if i not in present]:
            notes.append(f"{name} has no image of {len(missing)} class(es): {shorten(missing)}.")
    return notes


def _sizes(rows: Mapping[str, Sequence]) -> str:
    return ", ".join(f"{name} {len(rows[name])}" for name in ("train", "val", "test", UNDIVIDED) if rows.get(name))


def shorten(names: Sequence[str], most: int = 5) -> str:
    """'a', 'b' and 7 more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
