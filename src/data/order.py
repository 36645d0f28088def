"""Training orders in which images of one class come side by side, so that they meet in a batch."""

from __future__ import annotations

import torch

from src import rng


def side_by_side(targets: torch.Tensor, each: int, *key: int | str) -> torch.Tensor:
    """-> a permutation of (N,) targets, a function of `key`: runs of `each` images of a class, in random order. What is
    left of a class makes a shorter run, or, alone, joins another; a batch border may cut one run."""
    order = rng.permutation(len(targets), *key)
    order = order[targets[order].argsort(stable=True)]
    own = targets[order]
    count = torch.bincount(own)
    place = torch.arange(len(own)) - (count.cumsum(0) - count)[own]  # within the class
    runs = count // each + (count % each > 1)  # of each class
    run = (place // each).minimum((runs - 1).clamp(min=0)[own])
    _, number = (own * (len(own) + 1) + run).unique(return_inverse=True)
    turn = rng.permutation(int(number.max()) + 1, *key, "runs")
    return order[turn[number].argsort(stable=True)]
