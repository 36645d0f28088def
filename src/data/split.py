"""Turns found images into a Source: asks for their classes, and divides what the user has not divided."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product, repeat
from pathlib import PurePosixPath

import numpy as np

from src import buffers
from src.columns import column, texts
from src.contracts import DataError, Root, Source, Split
from src.data.copies import equal
from src.data.rows import Item, Rows, gathered
from src.data.strata import assigned, blocks, stratified
from src.labels import Labels
from src.names import shorten

NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
BLOCKS = 20  # of images that follow each other
FEW = 4  # numbers that may be in names and targets by chance
COMPARED = 100_000  # images up to which equal files are looked for before they are divided
MEMO = 2**16  # cells whose target is remembered
UNDIVIDED = "undivided"  # the key under which `assemble` takes items without a split of their own


@dataclass(frozen=True)
class Division:
    """How what the user has not divided is divided. fold of folds: which part of train and val is val."""

    val_size: float = 0.15
    test_size: float = 0.15
    split_seed: int = 0
    fold: int | None = None
    folds: int = 5


def assemble(
    root: Root,
    found: Mapping[str, Iterable[Item] | Rows],
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
    rows = {name: gathered(items).in_order() for name, items in found.items()}
    rows = {name: items for name, items in rows.items() if len(items)}
    _refuse_spanning(root, rows)
    if not {UNDIVIDED, "train"} & set(rows):
        raise DataError(
            f"{root}: no images to train on ({_sizes(rows) or 'no images at all'}). Put images into the train split."
        )
    unlabelled = "test" in rows and not rows["test"].labelled and "train" in rows
    known = {name: items.cells for name, items in rows.items() if name != "test" or not unlabelled}
    if UNDIVIDED in known:
        known = {"train": known[UNDIVIDED]}
    classes = labels.classes(str(root), known)
    splits = _encoded(rows, labels, classes, unlabelled)
    splits, told = _together(splits if how.fold is None else _undivided(splits), labels)
    divided, more = _divide(root, splits, labels, how)
    splits = _numbered({name: divided[name] for name in ("train", "val", "test") if name in divided})
    missing = _about_missing(classes, splits, labels)
    return Source(root, classes, splits, (*notes, *_about_empty(empty), *told, *more, *missing), labels)


def _refuse_spanning(root: Root, rows: Mapping[str, Rows]) -> None:
    groups = {name: set(items.groups) for name, items in rows.items()}
    where = {g: [name for name in groups if g in groups[name]] for g in set().union(*groups.values())}
    if torn := sorted(f"{group} ({', '.join(sorted(names))})" for group, names in where.items() if len(names) > 1):
        raise DataError(
            f"{root}: {len(torn)} group(s) of data.group lie in several splits: {shorten(torn, 10)}.\n"
            "Their images are alike, so the result would flatter. Put each into one split, or leave data.group out."
        )


def _encoded(rows: Mapping[str, Rows], labels: Labels, classes: tuple[str, ...], unlabelled: bool) -> dict[str, Split]:
    """With targets in place of cells, and numbers in place of groups."""
    encode, splits, known = lru_cache(MEMO)(labels.encoder(classes)), {}, {}
    for name, items in rows.items():
        blank = unlabelled and name == "test"
        targets = repeat(labels.blank(classes), len(items)) if blank else map(encode, items.cells)
        groups = (known.setdefault(group, len(known)) for group in items.groups)
        splits[name] = Split(items.paths, column(targets), column(groups), not blank)
    return splits


def _numbered(splits: Mapping[str, Split]) -> dict[str, Split]:
    """Groups by numbers in the order in which they come."""
    known: dict[int, int] = {}
    told = {name: column(known.setdefault(g, len(known)) for g in split.groups) for name, split in splits.items()}
    return {name: replace(split, groups=told[name]) for name, split in splits.items()}


def _undivided(splits: Mapping[str, Split]) -> dict[str, Split]:
    """All images but those of test as one split, in the order of their names: folds divide them anew."""
    first, *others = (split for name, split in splits.items() if name != "test")
    for other in others:
        first = first.joined(other)
    kept = {"test": splits["test"]} if "test" in splits else {}
    return {UNDIVIDED: first.only(texts(first.paths).order()), **kept}


def _together(splits: dict[str, Split], labels: Labels) -> tuple[dict[str, Split], list[str]]:
    """Images that follow each other, as frames of a film do, are put into blocks that stay together."""
    whole = UNDIVIDED if UNDIVIDED in splits else "train"
    items = splits[whole]
    if items.groups or not labels.serial(items.targets):
        return splits, []
    if _tell(items.paths, items.targets):
        return splits, [
            "Files are named by their target: neighbours in the order of their names are taken for no film."
        ]
    numbered = replace(items, groups=[-1 - block for block in blocks(range(len(items)), BLOCKS)])  # no other group is
    note = (
        f"Neighbours in the order of their names have like targets: {len(items):,} images are taken as {BLOCKS} blocks "
        "that stay together (data.group or data.time would say it better)."
    )
    return {**splits, whole: numbered}, [note]


def _tell(paths: Sequence[str], targets: Sequence[tuple[float, ...]]) -> bool:
    """Whether files are named by a number of their target, as 25_0_1.jpg is by an age: they are in its order then."""
    some = range(0, len(paths), max(len(paths) // 100, 1))
    said = [[float(n) for n in re.findall(r"\d+(?:\.\d+)?", PurePosixPath(paths[i]).stem)] for i in some]
    true = [targets[i] for i in some]
    for place, i in product(range(min(map(len, said))), range(len(true[0]))):
        right = sum(n[place] == t[i] for n, t in zip(said, true, strict=True))
        if right > 0.9 * len(some) and len({n[place] for n in said}) > FEW:
            return True
    return False


def _divide(root: Root, splits: dict[str, Split], labels: Labels, how: Division) -> tuple[dict[str, Split], list[str]]:
    """Cuts the missing splits out of what there is; -> splits without UNDIVIDED, and notes."""
    notes, seed = [], how.split_seed
    cut = how.fold is None and "val" not in splits
    used = {"val_size": cut, "test_size": cut and UNDIVIDED in splits, "split_seed": cut or how.fold is not None}
    idle = [k for k, on in used.items() if not on and getattr(how, k) != getattr(Division, k)]
    if idle:
        said = " ".join(f"data.{k}={getattr(how, k)}" for k in idle)
        notes.append(f"{said}: divides nothing, since the splits are given or the fold decides.")
    if how.fold is not None:
        splits, said = _folded(root, splits, labels, how)
        notes += said
    elif "val" not in splits:
        whole = UNDIVIDED if UNDIVIDED in splits else "train"
        fractions = {"val": how.val_size, "test": how.test_size} if whole == UNDIVIDED else {"val": how.val_size}
        items = splits.pop(whole)
        apart = _apart(items, labels, splits)
        codes, told = _cut(root, items, labels, fractions, seed, apart=apart)
        splits |= _parts(items, codes, ["train", *fractions])
        if "val" not in splits:
            raise DataError(
                f"val_size={how.val_size:g}: there is no val split, and none could be cut out of {len(items)} images. "
                + " ".join([*told, "Set data.val_size to a part of train (0.15), add images, or bring a val split."])
            )
        given = "No splits were given" if whole == UNDIVIDED else "There is no val split"
        together = ", groups kept together," if items.groups else f" {labels.divided}"
        together = " by whole classes (task.labels.apart)" if apart else together
        notes += [f"{given}: divided{together} with split_seed={seed} into {_sizes(splits)} images.", *told]
    if "test" not in splits:
        notes.append("There is no test split: the results are those of val, which also chose the model.")
    return splits, notes


def _parts(items: Split, codes: np.ndarray, names: Sequence[str]) -> dict[str, Split]:
    """codes: the place in `names` of the part of each image. -> those that have any."""
    places = {name: buffers.where(len(items), lambda part, i=i: codes[part] == i) for i, name in enumerate(names)}
    return {name: items.only(kept) for name, kept in places.items() if len(kept)}


def _folded(root: Root, splits: dict[str, Split], labels: Labels, how: Division) -> tuple[dict[str, Split], list[str]]:
    """Of all images but those of test, fold `how.fold` is val."""
    assert how.fold is not None
    test = {"test": splits["test"]} if "test" in splits else {}
    items = splits[UNDIVIDED]
    fractions = {f"{i}": 1 / how.folds for i in range(1, how.folds)}
    apart = _apart(items, labels, test)
    folds, told = _cut(root, items, labels, fractions, how.split_seed, exact=True, apart=apart)
    divided = _parts(items, folds == how.fold, ["train", "val"])
    if len(divided) < 2:
        raise DataError(
            f"data.fold={how.fold} data.folds={how.folds}: this fold of {len(items)} images is empty.\n"
            "Set fewer folds, or bring more groups."
        )
    divided |= test
    said = f"Fold {how.fold} of {how.folds} is val (split_seed={how.split_seed}): {_sizes(divided)} images."
    return divided, [said, *told]


def _apart(items: Split, labels: Labels, splits: Mapping[str, Split]) -> bool:
    """Whether whole classes are held out; groups that the user gave come first."""
    test = splits["test"].targets if "test" in splits else ()
    return not items.groups and labels.holds_out_classes(items.targets, test)


def _cut(
    root: Root,
    items: Split,
    labels: Labels,
    fractions: Mapping[str, float],
    seed: int,
    exact: bool = False,
    apart: bool = False,
) -> tuple[np.ndarray, list[str]]:
    """-> (N,) the place in ["train", *fractions]; notes."""
    if apart:
        classes = sorted(set(items.targets))
        part = dict(zip(classes, stratified([0] * len(classes), fractions, seed).tolist(), strict=True))
        return np.fromiter((part[target] for target in items.targets), np.int32, len(items)), []
    copies, told = ([], []) if items.groups else _copies(root, items)
    strata = labels.strata(items.targets)
    if isinstance(strata, np.ndarray) and not items.groups and not exact:
        if not copies:
            return stratified(strata, fractions, seed), told
        others = [i for _, *rest in copies for i in rest]
        codes, firsts = np.zeros(len(items), np.int8), np.delete(np.arange(len(items)), others)
        strata = labels.strata(items.only(firsts).targets)  # anew, since bins of numbers have fewer images now
        codes[firsts] = stratified(np.asarray(strata), fractions, seed)
        for first, *rest in copies:
            codes[rest] = codes[first]
        return codes, told
    strata = [(stratum,) for stratum in strata.tolist()] if isinstance(strata, np.ndarray) else strata
    together = {i: first for first, *rest in copies for i in rest}
    groups = items.groups or ([together.get(i, i) for i in range(len(items))] if copies else None)
    names = {name: i for i, name in enumerate(["train", *fractions])}
    return np.array([names[name] for name in assigned(strata, fractions, seed, groups)], np.int32), told


def _copies(root: Root, items: Split) -> tuple[list[list[int]], list[str]]:
    """-> places of equal files, which would flatter where they were cut apart; notes."""
    if len(items) > COMPARED:
        asked = f"Of more than {COMPARED:,} images equal files are not looked for, and may be cut apart"
        return [], [f"{asked} (data.group keeps together what it names)."]
    found = equal([root / path for path in items.paths])
    told = f"{sum(map(len, found)) - len(found):,} of them are copies of others, and stay with these."
    return found, [told] if found else []


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


def _sizes(rows: Mapping[str, Sized]) -> str:
    return ", ".join(f"{name} {len(rows[name])}" for name in ("train", "val", "test", UNDIVIDED) if rows.get(name))
