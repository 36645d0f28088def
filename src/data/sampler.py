"""Training orders in which rare classes come more often; an epoch has as many images as without."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from src import rng
from src.columns import numbers
from src.contracts import ConfigError

POWER = {"balanced": 0.0, "sqrt": 0.5, "group": 0.0}  # of a cell's images, to which its share of an epoch is
# proportional; the cells are classes, or each group within each class


def cells(targets: Sequence[int], groups: Sequence[int], sampler: str) -> np.ndarray:
    """(N,) which cell each image is in, by its number among them; those of a class follow each other."""
    if sampler != "group":
        return np.unique(numbers(targets), return_inverse=True)[1]
    if not groups:
        raise ConfigError(
            "data.sampler=group: no group of these images is known.\n"
            "Set data.group to the column that says it (data=csv), or data.sampler=balanced."
        )
    return np.unique(np.stack([numbers(targets), numbers(groups)], 1), axis=0, return_inverse=True)[1].reshape(-1)


def prior(targets: Sequence[int], groups: Sequence[int], sampler: str, classes: int) -> torch.Tensor:
    """(classes,): the part of an epoch that each class is expected to have."""
    mine = cells(targets, groups, sampler)
    share = np.bincount(mine) ** POWER[sampler]
    first = np.unique(mine, return_index=True)[1]
    found = np.bincount(numbers(targets)[first], share, classes)
    return torch.from_numpy(found / found.sum()).float()


def sampled(targets: Sequence[int], sampler: str, *key: int | str) -> torch.Tensor:
    """As many indices as (N,) targets, a function of `key`. balanced: as many images of every class (the remainder
    falls to classes by chance, so that their expected shares are exact); sqrt: shares as the root of what a class has
    (Mahajan et al. 2018, section 2.2); group: as many of every group of every class, of which `targets` are then the
    cells (Sagawa et al. 2020, arXiv:1911.08731, section 3.3). Of a class, no image comes again before all have come."""
    classes, chosen, n = np.asarray(targets), [], len(targets)
    names, counts = np.unique(classes, return_counts=True)
    share = counts ** POWER[sampler] / (counts ** POWER[sampler]).sum()
    ends = np.floor(np.append(0, np.cumsum(n * share)) + np.random.default_rng(rng.key(*key, "shares")).random())
    ends[0], ends[-1] = 0, n  # whatever was lost to rounding
    for name, wanted in zip(names, np.diff(ends).astype(int), strict=True):
        mine = np.flatnonzero(classes == name)
        rounds = [rng.permutation(len(mine), *key, "class", int(name), i) for i in range(-(-wanted // len(mine)))]
        chosen += [mine[torch.cat(rounds)[:wanted].numpy()]] if wanted else []
    return torch.from_numpy(np.concatenate(chosen))[rng.permutation(n, *key)]


def times(order: torch.Tensor) -> torch.Tensor:
    """(N,) indices -> how often each has come before, which keys its augmentation beside the epoch."""
    place = order.argsort(stable=True)
    count = torch.bincount(order)
    found = torch.empty_like(order)
    found[place] = torch.arange(len(order)) - (count.cumsum(0) - count)[order[place]]
    return found
