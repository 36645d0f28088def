"""Where to cut a probability, so that F1 is best or the precision is reached."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from src import rng

SURE = 0.9  # how often the precision that is required is reached on new images
DRAWS = 20_000


def f1(p: torch.Tensor, there: torch.Tensor) -> float:
    """(N,) each: the probability above which F1 is best; 0.5 where none is there."""
    if not there.any():
        return 0.5
    ranked, hit = _ranked(p, there)
    score = 2 * hit / (torch.arange(1, len(p) + 1) + hit[-1])
    return _between(ranked, int(score.masked_fill(~_apart(ranked), -1).argmax()))


def precision(p: torch.Tensor, there: torch.Tensor, required: float) -> float | None:
    """The lowest tried from which on the precision is shown to be at least `required`; None where none is. In at most
    1 - SURE of all cases it is less, however many are tried: see `level`."""
    from scipy.special import bdtrc  # here, since predicting needs none

    ranked, hit = _ranked(p, there)
    tried = places(len(p), required)
    if not len(tried):
        return None
    chance = bdtrc(hit.numpy()[tried - 1] - 1, tried, required)  # of so many hits, were the precision `required`
    shown = tried[(chance <= level(len(p), required)) & _apart(ranked).numpy()[tried - 1]]
    return _between(ranked, int(shown[-1]) - 1) if len(shown) else None


def places(n: int, required: float) -> np.ndarray:
    """How many of the n surest images each threshold that is tried takes in: from the first number that can show
    anything, each a tenth more than the one before. They go by n alone, not by what is found."""
    found, at = [], math.log(1 - SURE) / math.log(required)
    while at <= n:
        found.append(math.ceil(at))
        at = max(at * 1.1, at + 1)
    return np.array(found, dtype=np.int64)


@lru_cache
def level(n: int, required: float) -> float:
    """The chance below which a precision counts as shown, so that of all thresholds that are tried at once none is
    called so wrongly with probability `SURE`: that quantile, by simulation, of the least chance over all of them, where
    each image is right with probability `required`. (The min-P adjustment of Westfall & Young 1993.)

    That is the worst case where precision does not rise as the threshold falls: of the images above the last threshold
    that is good, given how many they are, the hits are binomial with `required` at least, and each one below it is
    right with less."""
    from scipy.special import bdtrc

    draw, tried = np.random.default_rng(rng.key(0, "precision")), places(n, required)
    hits = draw.binomial(np.diff(tried, prepend=0), required, (DRAWS, len(tried))).cumsum(1)
    return float(np.sort(bdtrc(hits - 1, tried, required).min(1))[int((1 - SURE) * DRAWS) - 1])


def _ranked(p: torch.Tensor, there: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    ranked, order = p.double().sort(descending=True)
    return ranked, there[order].double().cumsum(0)


def _apart(ranked: torch.Tensor) -> torch.Tensor:
    """Behind which a threshold can be: equal probabilities are decided alike."""
    return torch.cat([ranked[:-1] > ranked[1:], ranked.new_ones(1).bool()])


def _between(ranked: torch.Tensor, last: int) -> float:
    """Half-way between the last that is taken and the first that is not."""
    return float((ranked[last] + (ranked[last + 1] if last + 1 < len(ranked) else 0)) / 2)
