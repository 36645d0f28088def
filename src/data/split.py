"""Turns found images into a Source: asks for their classes, and divides what the user has not divided."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from src.contracts import ConfigError, DataError, Root, Source, Split
from src.labels import Cells, Labels
from src.names import shorten

NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
BLOCKS = 20  # of images that follow each other
UNDIVIDED = "undivided"  # the key under which `assemble` takes items without a split of their own


@dataclass(frozen=True, order=True, slots=True)
class Item:
    """An image as a source finds it."""

    path: str
    cells: Cells  # what its label's columns hold; all "": there is no label
    group: Hashable = None  # images of one group stay together


@dataclass(frozen=True)
class Division:
    """How what the user has not divided is divided. fold of folds: which part of train and val is val."""

    val_size: float = 0.15
    test_size: float = 0.15
    split_seed: int = 0
    fold: int | None = None
    folds: int = 5


def stratified(targets: Sequence, fractions: Mapping[str, float], seed: int) -> list[str]:
    """-> for each item "train" or a name of `fractions`; a function of the order of `targets` and the seed alone.

    Of a class with n images, each name gets round(n * fraction), but at least 1; train always keeps 1. A class too
    small for that serves train first, then the names in their order.
    """
    _refuse(fractions)
    fractions = {name: part for name, part in fractions.items() if part > 0}
    waiting = {}
    for target, n in Counter(targets).items():
        waiting[target] = [name for name, count in _counts(n, fractions).items() for _ in range(count)]
    answer = ["train"] * len(targets)
    for i in np.random.default_rng(seed).permutation(len(targets)).tolist():
        if waiting[targets[i]]:
            answer[i] = waiting[targets[i]].pop()
    return answer


def assigned(
    strata: Sequence[Collection], fractions: Mapping[str, float], seed: int, groups: Sequence[Hashable] | None = None
) -> list[str]:
    """`stratified` where images count for several strata each, or come in groups that must stay together.

    Iterative stratification (Sechidis et al. 2011): the rarest stratum first, its largest groups first, each to the
    part that lacks most of it; train is one of the parts.
    """
    _refuse(fractions)
    parts = {"train": 1 - sum(fractions.values()), **{name: part for name, part in fractions.items() if part > 0}}
    members = defaultdict(list)
    for i, group in enumerate(groups if groups is not None else range(len(strata))):
        members[group].append(i)
    held = {group: Counter(s for i in images for s in strata[i]) for group, images in members.items()}
    having, total = defaultdict(list), Counter[Any]()
    for group, count in held.items():
        total += count
        for stratum in count:
            having[stratum].append(group)
    wanted = {name: Counter({s: n * part for s, n in total.items()}) for name, part in parts.items()}
    room = {name: part * len(strata) for name, part in parts.items()}
    order = list(members)
    place = {order[i]: rank for rank, i in enumerate(np.random.default_rng(seed).permutation(len(order)).tolist())}
    found: dict[Hashable, str] = {}
    for stratum in sorted(having, key=lambda s: (total[s], repr(s))):
        for group in sorted(having[stratum], key=lambda g: (-held[g][stratum], place[g])):
            if group in found:
                continue
            name = max(parts, key=lambda name: (wanted[name][stratum], room[name]))
            found[group], room[name] = name, room[name] - len(members[group])
            for s, n in held[group].items():
                wanted[name][s] -= n
    answer = [""] * len(strata)
    for group, images in members.items():
        for i in images:
            answer[i] = found[group]
    return answer


def _refuse(fractions: Mapping[str, float]) -> None:
    if min(fractions.values(), default=0) < 0 or sum(fractions.values()) >= 1:
        asked = ", ".join(f"{name}_size={part:g}" for name, part in fractions.items())
        raise ConfigError(f"{asked}: leaves nothing for train. Each must be 0 or more, and their sum less than 1.")


def _counts(n: int, fractions: Mapping[str, float]) -> dict[str, int]:
    counts, room = {}, n - 1
    for later, (name, part) in zip(range(len(fractions) - 1, -1, -1), fractions.items(), strict=True):
        counts[name] = max(min(1, room), min(round(n * part), room - later))
        room -= counts[name]
    return counts


def assemble(
    root: Root,
    found: Mapping[str, Iterable[Item]],
    labels: Labels,
    how: Division,
    empty: Iterable[str] = (),
    notes: Sequence[str] = (),
) -> Source:
    """-> a Source with train and val, and test where there is one; paths are sorted.

    `found`: train, val, test, or UNDIVIDED alone -> its images. `empty`: classes known to have no image at all. A test
    split of which no image has a label is only predicted. Raises DataError where what train can teach cannot serve for
    all splits, or where a group lies in several.
    """
    rows = {name: sorted(items, key=lambda item: item.path) for name, items in found.items()}
    rows = {name: items for name, items in rows.items() if items}
    _refuse_spanning(root, rows)
    if not {UNDIVIDED, "train"} & set(rows):
        raise DataError(
            f"{root}: no images to train on ({_sizes(rows) or 'no images at all'}). Put images into the train split."
        )
    unlabelled = "test" in rows and not any(any(item.cells) for item in rows["test"]) and "train" in rows
    known = {name: [i.cells for i in items] for name, items in rows.items() if name != "test" or not unlabelled}
    if UNDIVIDED in known:
        known = {"train": known[UNDIVIDED]}
    classes = labels.classes(str(root), known)
    encode, blank = labels.encoder(classes), labels.blank(classes)
    rows, told = _together(rows, labels, encode)
    divided, more = _divide(rows, labels, encode, how)
    numbers: dict[Hashable, int] = {}
    splits = {}
    for name in (name for name in ("train", "val", "test") if name in divided):
        items, labelled = divided[name], name != "test" or not unlabelled
        targets = tuple(encode(item.cells) if labelled else blank for item in items)
        grouped = tuple(numbers.setdefault(item.group, len(numbers)) for item in items if item.group is not None)
        splits[name] = Split(tuple(item.path for item in items), targets, grouped, labelled)
    missing = _about_missing(classes, splits, labels)
    return Source(root, classes, splits, (*notes, *_about_empty(empty), *told, *more, *missing), labels)


def _refuse_spanning(root: Root, rows: Mapping[str, list[Item]]) -> None:
    where = defaultdict(set)
    for name, items in rows.items():
        for item in items:
            if item.group is not None:
                where[item.group].add(name)
    if torn := sorted(f"{group} ({', '.join(sorted(names))})" for group, names in where.items() if len(names) > 1):
        raise DataError(
            f"{root}: {len(torn)} group(s) of data.group lie in several splits: {shorten(torn, 10)}.\n"
            "Their images are alike, so the result would flatter. Put each into one split, or leave data.group out."
        )


def _together(rows: dict[str, list[Item]], labels: Labels, encode: Any) -> tuple[dict[str, list[Item]], list[str]]:
    """Images that follow each other, as frames of a film do, are put into blocks that stay together."""
    whole = UNDIVIDED if UNDIVIDED in rows else "train"
    items = rows[whole]
    if items[0].group is not None or not labels.serial([encode(item.cells) for item in items]):
        return rows, []
    numbered = zip(items, blocks([item.path for item in items], BLOCKS), strict=True)
    note = (
        f"Neighbours in the order of their names have like targets: {len(items):,} images are taken as {BLOCKS} blocks "
        "that stay together (data.group or data.time would say it better)."
    )
    return {**rows, whole: [replace(item, group=(whole, block)) for item, block in numbered]}, [note]


def _divide(
    rows: dict[str, list[Item]], labels: Labels, encode: Any, how: Division
) -> tuple[dict[str, list[Item]], list[str]]:
    """Cuts the missing splits out of what there is; -> rows without UNDIVIDED, and notes."""
    notes, seed = [], how.split_seed
    cut = how.fold is None and "val" not in rows
    used = {"val_size": cut, "test_size": cut and UNDIVIDED in rows, "split_seed": cut or how.fold is not None}
    idle = [k for k, on in used.items() if not on and getattr(how, k) != getattr(Division, k)]
    if idle:
        said = " ".join(f"data.{k}={getattr(how, k)}" for k in idle)
        notes.append(f"{said}: divides nothing, since the splits are given or the fold decides.")
    if how.fold is not None:
        rows, said = _folded(rows, labels, encode, how)
        notes.append(said)
    elif "val" not in rows:
        whole = UNDIVIDED if UNDIVIDED in rows else "train"
        fractions = {"val": how.val_size, "test": how.test_size} if whole == UNDIVIDED else {"val": how.val_size}
        items = rows.pop(whole)
        apart = _apart(items, labels, rows)
        for name, item in zip(_cut(items, labels, encode, fractions, seed, apart=apart), items, strict=True):
            rows.setdefault(name, []).append(item)
        if "val" not in rows:
            raise DataError(
                f"val_size={how.val_size:g}: there is no val split, and none could be cut out of {len(items)} images. "
                "Set data.val_size to a part of train (0.15), add images, or bring a val split."
            )
        given = "No splits were given" if whole == UNDIVIDED else "There is no val split"
        together = ", groups kept together," if items[0].group is not None else " per class"
        together = " by whole classes (task.labels.apart)" if apart else together
        notes.append(f"{given}: divided{together} with split_seed={seed} into {_sizes(rows)} images.")
    if "test" not in rows:
        notes.append("There is no test split: the results are those of val, which also chose the model.")
    return rows, notes


def _folded(
    rows: dict[str, list[Item]], labels: Labels, encode: Any, how: Division
) -> tuple[dict[str, list[Item]], str]:
    """Of all images but those of test, fold `how.fold` is val."""
    assert how.fold is not None
    test = rows.pop("test", [])
    items = sorted((item for split in rows.values() for item in split), key=lambda item: item.path)
    names = [f"{i}" for i in range(how.folds)]
    fractions = dict.fromkeys(names[1:], 1 / how.folds)
    apart = _apart(items, labels, {"test": test})
    answers = _cut(items, labels, encode, fractions, how.split_seed, exact=True, apart=apart)
    divided: dict[str, list[Item]] = {"train": [], "val": []}
    for name, item in zip(answers, items, strict=True):
        divided["val" if name.replace("train", "0") == str(how.fold) else "train"].append(item)
    if not divided["val"] or not divided["train"]:
        raise DataError(
            f"data.fold={how.fold} data.folds={how.folds}: this fold of {len(items)} images is empty.\n"
            "Set fewer folds, or bring more groups."
        )
    divided |= {"test": test} if test else {}
    return divided, f"Fold {how.fold} of {how.folds} is val (split_seed={how.split_seed}): {_sizes(divided)} images."


def _apart(items: list[Item], labels: Labels, rows: Mapping[str, list[Item]]) -> bool:
    """Whether whole classes are held out; groups that the user gave come first."""
    test = [item.cells for item in rows.get("test", ())]
    return items[0].group is None and labels.holds_out_classes([item.cells for item in items], test)


def _cut(
    items: list[Item],
    labels: Labels,
    encode: Any,
    fractions: Mapping[str, float],
    seed: int,
    exact: bool = False,
    apart: bool = False,
) -> list[str]:
    if apart:
        names = sorted({item.cells for item in items})
        part = dict(zip(names, stratified([0] * len(names), fractions, seed), strict=True))
        return [part[item.cells] for item in items]
    strata = labels.strata([encode(item.cells) for item in items])
    if items[0].group is not None:
        return assigned(strata, fractions, seed, [item.group for item in items])
    if exact or any(len(stratum) != 1 for stratum in strata):
        return assigned(strata, fractions, seed)
    return stratified([stratum[0] for stratum in strata], fractions, seed)


def _about_empty(empty: Iterable[str]) -> list[str]:
    names = sorted(empty)
    return [f"Left out {len(names)} class(es) without any image: {shorten(names)}."] if names else []


def _about_missing(classes: tuple[str, ...], splits: Mapping[str, Split], labels: Labels) -> list[str]:
    notes = []
    for name, split in splits.items():
        if not split.labelled:
            notes.append(f"{name} has no labels: its {len(split):,} images are predicted, and nothing is measured.")
            continue
        counts = () if labels.open else labels.counts(split.targets, classes)
        if missing := [label for label, n in zip(classes, counts, strict=False) if not n]:
            notes.append(f"{name} has no image of {len(missing)} class(es): {shorten(missing)}.")
    return notes


def _sizes(rows: Mapping[str, Sequence]) -> str:
    return ", ".join(f"{name} {len(rows[name])}" for name in ("train", "val", "test", UNDIVIDED) if rows.get(name))


def blocks(values: Sequence[Any], count: int) -> list[int]:
    """-> for each item the number of its block: `count` runs of consecutive values, each of about as many items."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    found = [0] * len(values)
    for place, i in enumerate(order):
        found[i] = math.floor(count * place / len(values))
    return found
