"""Which part each image goes to, so that every part gets its share of every class; a function of a seed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from src import buffers
from src.buffers import chunks
from src.contracts import ConfigError


def stratified(targets: Sequence | np.ndarray, fractions: Mapping[str, float], seed: int) -> np.ndarray:
    """-> (N,) the place in ["train", *fractions] of each item's part; a function of the order of `targets` and the seed
    alone.

    Of a class with n images, each name gets round(n * fraction), but at least 1; train always keeps 1. A class too
    small for that serves train first, then the names in their order.
    """
    _refuse(fractions)
    used, n, known = [name for name, part in fractions.items() if part > 0], len(targets), {}
    if not isinstance(targets, np.ndarray):
        targets = np.fromiter((known.setdefault(target, len(known)) for target in targets), np.int64, n)
    classes = np.unique(np.concatenate([targets[:0], *(np.unique(targets[part]) for part in chunks(n))]))
    order, sizes, seen = buffers.empty(n, np.int64), *np.zeros((2, len(classes)), np.int64)
    for part in chunks(n):
        order[part] = np.arange(part.start, part.stop)
        np.add.at(sizes, classes.searchsorted(targets[part]), 1)
    np.random.default_rng(seed).shuffle(order)  # as `permutation` does, whose array would be memory
    counts = [_counts(size, {name: fractions[name] for name in used}) for size in sizes.tolist()]
    ends = np.array([[count[name] for name in reversed(used)] for count in counts]).reshape(len(classes), len(used))
    ends, codes = ends.cumsum(1), np.array([*(1 + list(fractions).index(name) for name in reversed(used)), 0], np.int8)
    answer = buffers.empty(n, np.int8)
    for part in chunks(n):
        mine = classes.searchsorted(targets[order[part]])
        by = mine.argsort(kind="stable")
        place = seen[mine]  # among those of its class, by chance
        place[by] += np.arange(len(by)) - mine[by].searchsorted(mine[by])
        answer[order[part]] = codes[(place[:, None] >= ends[mine]).sum(1)]
        np.add.at(seen, mine, 1)
    return answer


def assigned(
    strata: Sequence[Collection], fractions: Mapping[str, float], seed: int, groups: Sequence[Hashable] | None = None
) -> list[str]:
    """`stratified` where images count for several strata each, or come in groups that must stay together.

    Iterative stratification (Sechidis et al. 2011): the rarest stratum first, its largest groups first, each to the
    part that lacks most of it; train is one of the parts. A part that is left empty so gets groups by chance.
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
            # rounded, since 1 - 0.2 - 0.2 - 0.2 - 0.2 is less than 0.2, and would lose every tie
            name = max(parts, key=lambda name: (round(wanted[name][stratum], 6), round(room[name], 6)))
            found[group], room[name] = name, room[name] - len(members[group])
            for s, n in held[group].items():
                wanted[name][s] -= n
    for name in [name for name in parts if name not in found.values()]:  # all groups are larger than its share of each
        for group in sorted(order, key=place.__getitem__):
            if found[group] == "train" and 2 * room[name] >= len(members[group]):
                found[group], room[name] = name, room[name] - len(members[group])
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


def blocks(values: Sequence[Any], count: int) -> list[int]:
    """-> for each item the number of its block: `count` runs of consecutive values, each of about as many items."""
    found = np.empty(len(values), np.int64)
    found[np.asarray(values).argsort(kind="stable")] = count * np.arange(len(values)) // len(values)
    return found.tolist()
