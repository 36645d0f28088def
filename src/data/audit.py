"""What is known of the images before anything is trained: counts, sizes, and files that occur more than once."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from src import world
from src.buffers import without
from src.contracts import DataError, Source
from src.data.copies import equal
from src.data.images import size_of
from src.data.scan import places

Place = tuple[str, int]  # split, index there


@dataclass(frozen=True)
class Audit:
    images: dict[str, int]  # per split
    counts: tuple[int, ...]  # training images of each class (that has any, if labels are open); () where there is none
    short: tuple[int, ...]  # 10, 50 and 90 % quantile of the short side, in pixels
    aspect: tuple[float, ...]  # likewise of width / height
    looked: int  # images whose sizes were read
    copies: tuple[tuple[Place, ...], ...]  # groups of equal files

    @property
    def each(self) -> float:
        """Training images of a class, on average; of numbers, of a tenth of their range."""
        return sum(self.counts) / len(self.counts) if self.counts else self.images["train"] / 10

    @property
    def imbalance(self) -> float:
        return max(self.counts) / max(min(self.counts), 1) if self.counts else 1.0


def audit(source: Source, limit: int = 100_000) -> Audit:
    """Headers and file sizes are read, and the bytes of files that may be equal; above `limit` images, of a random
    `limit` of them."""
    looked = places(source, limit)
    paths = [source.root / source.splits[name].paths[i] for name, i in looked]
    with ThreadPoolExecutor(world.cores()) as pool:  # Pillow lets go of the GIL
        sizes = [size for size in pool.map(size_of, paths) if size]
    return Audit(
        images={name: len(split) for name, split in source.splits.items()},
        counts=counts(source),
        short=_quantiles([min(size) for size in sizes]),
        aspect=_quantiles([round(width / height, 2) for width, height in sizes]),
        looked=len(sizes),
        copies=tuple(tuple(looked[i] for i in group) for group in equal(paths)),
    )


def counts(source: Source) -> tuple[int, ...]:
    """Training images of each class; where labels are open, of those that have any."""
    return tuple(n for n in _counts(source) if n or not source.labels.open)


def _counts(source: Source) -> tuple[int, ...]:
    return source.labels.counts(source.splits["train"].targets, source.classes)


def _quantiles(values: list) -> tuple:
    ordered = sorted(values)
    return tuple(ordered[round(part * (len(ordered) - 1))] for part in (0.1, 0.5, 0.9)) if ordered else ()


def leaks(found: Audit) -> list[tuple[Place, Place]]:
    """(the copy, the image of a later split that it equals): the copy was learnt, or chosen by, before the other is
    judged. The copy of a test image may be in train or val, that of a val image in train."""
    rank = {"train": 0, "val": 1, "test": 2}
    pairs = []
    for group in found.copies:
        last = max(group, key=lambda place: rank[place[0]])
        pairs += [(place, last) for place in group if rank[place[0]] < rank[last[0]]]
    return pairs


def contradictions(source: Source, found: Audit) -> int:
    """Groups of equal files that have several labels."""
    if source.labels.files:  # of masks the names differ
        return 0
    splits = {name: split for name, split in source.splits.items() if split.labelled}
    told = (
        {source.labels.text(splits[name].targets[i], source.classes) for name, i in group if name in splits}
        for group in found.copies  # as text, since what is unknown is not itself
    )
    return sum(len(several) > 1 for several in told)


def without_leaks(source: Source, pairs: list[tuple[Place, Place]], policy: str) -> Source:
    """error: DataError; warn: a note; drop: the copies leave train (or val). Raises where that would empty a class."""
    if not pairs:
        return source
    told = [" = ".join(f"{path_of(source, place)} ({place[0]})" for place in pair) for pair in pairs[:3]]
    what = f"{len(pairs)} file(s) are also in a later split, such as {'; '.join(told)}"
    if policy == "error":
        raise DataError(
            f"data.leak=error: {what}.\nRemove them, or set data.leak=drop (they leave train or val) or data.leak=warn."
        )
    if policy == "warn":
        return replace(source, notes=(*source.notes, f"LEAK: {what}. data.leak=drop removes them from train and val."))
    return dropped(source, {copy for copy, _ in pairs}, what)


def dropped(source: Source, gone: set[Place], what: str) -> Source:
    """Without these images of train or val; raises DataError where that would empty val or a class of train."""
    splits = {}
    for name, split in source.splits.items():
        lost = [i for where, i in gone if where == name]
        splits[name] = split.only(without(len(split), lost))
    for name in ("train", "val"):
        before, after = (source.labels.counts(s[name].targets, source.classes) for s in (source.splits, splits))
        lost = [label for label, n, m in zip(source.classes, before, after, strict=False) if n and not m]
        if (lost and name == "train") or not len(splits[name]):
            which = f" of {', '.join(map(repr, lost))}" if lost else ""
            raise DataError(
                f"data.leak=drop: {what}; without them {name} would have no image{which}.\n"
                "Add images of it, or set data.leak=warn."
            )
    return replace(source, splits=splits, notes=(*source.notes, f"Dropped, by data.leak=drop: {what}."))


def table(source: Source, pairs: Iterable[tuple[Place, Place]]) -> str:
    """All pairs: split, path, split and path of the image that it equals."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(["split", "path", "equal split", "equal path"])
    for copy, other in pairs:
        rows.writerow(
            [copy[0], source.splits[copy[0]].paths[copy[1]], other[0], source.splits[other[0]].paths[other[1]]]
        )
    return out.getvalue()


def path_of(source: Source, place: Place) -> str:
    return source.splits[place[0]].paths[place[1]]


def card(source: Source, found: Audit) -> list[str]:
    """What the audit says, a sentence a line."""
    sizes = ", ".join(f"{name} {n:,}" for name, n in found.images.items())
    few, many = min(found.counts, default=3), max(found.counts, default=0)
    ratio = f"1 : {found.imbalance:.3g}"
    what = "outputs" if len(source.labels.columns) > 1 else "classes"  # of several columns some are numbers
    classes = f"{len(found.counts)} {what} of {few:,} to {many:,} training images ({ratio})"
    lines = [f"{sizes} images, {classes if found.counts else 'targets: ' + ', '.join(source.classes)}"]
    lines += source.labels.card(source.splits["train"].targets, source.classes)
    if found.short:
        low, middle, high = found.aspect
        lines.append(f"short side {found.short[1]} px, width / height {low:.2f} … {middle:.2f} … {high:.2f}")
    if repeated := sum(len(group) - 1 for group in found.copies):
        wrong = contradictions(source, found)
        lines.append(
            f"{repeated:,} files are copies of others{f', {wrong} of them with another label' if wrong else ''}"
        )
    if few < 3:
        named = zip(source.classes, _counts(source), strict=True)
        rare = [name for name, n in named if n < 3 and (n or not source.labels.open)]
        names = f"{', '.join(rare[:5])}{' and others' if len(rare) > 5 else ''}"
        lines.append(f"{len(rare)} class(es) with fewer than 3 training images: {names}; expect little of them")
    if found.images["val"] < 30:
        lines.append(
            f"{found.images['val']} val images choose almost nothing: the recipe's order of preference decides"
        )
    return lines
