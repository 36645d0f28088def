"""Where to cut a probability, so that F1 is best or the precision is reached."""

from __future__ import annotations

from statistics import NormalDist

import torch

from src.stats import wilson

SURE = 0.9  # of the bound at one threshold; of all that are tried the lowest is taken, so that it holds less often


def f1(p: torch.Tensor, there: torch.Tensor) -> float:
    """(N,) each: the probability above which F1 is best; 0.5 where none is there."""
    if not there.any():
        return 0.5
    ranked, hit = _ranked(p, there)
    score = 2 * hit / (torch.arange(1, len(p) + 1) + hit[-1])
    return _between(ranked, int(score.masked_fill(~_apart(ranked), -1).argmax()))


def precision(p: torch.Tensor, there: torch.Tensor, required: float) -> float | None:
    """The lowest from which on the precision is at least `required`, by the lower bound of Wilson (1927) at `SURE`;
    None where it is nowhere."""
    ranked, hit = _ranked(p, there)
    said, z = torch.arange(1, len(p) + 1).double(), NormalDist().inv_cdf(SURE)
    low, _ = wilson(hit / said, said, z)
    reached = torch.nonzero((low >= required) & _apart(ranked))[:, 0]
    return _between(ranked, int(reached[-1])) if len(reached) else None


def _ranked(p: torch.Tensor, there: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    ranked, order = p.double().sort(descending=True)
    return ranked, there[order].double().cumsum(0)


def _apart(ranked: torch.Tensor) -> torch.Tensor:
    """Behind which a threshold can be: equal probabilities are decided alike."""
    return torch.cat([ranked[:-1] > ranked[1:], ranked.new_ones(1).bool()])


def _between(ranked: torch.Tensor, last: int) -> float:
    """Half-way between the last that is taken and the first that is not."""
    return float((ranked[last] + (ranked[last + 1] if last + 1 < len(ranked) else 0)) / 2)
