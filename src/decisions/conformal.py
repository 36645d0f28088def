"""Split conformal prediction: sets of classes, and intervals of levels and numbers, that hold the truth as often as
stated."""

from __future__ import annotations

import math
from typing import Any

import torch

from src.levels import nearest

OWN = 50  # images of a class from which it gets a threshold of its own: its coverage is then sure to 4 points
FREE, PENALTY = 1, 0.1  # RAPS: ranks without a penalty, and that of each further one


def needed(alpha: float) -> int:
    """Images without which no threshold is finite."""
    return math.ceil(1 / alpha) - 1


def threshold(scores: torch.Tensor, alpha: float) -> float:
    """The ceil((n + 1)(1 - alpha))-th smallest: a new score of the same kind is above it in at most alpha of all cases
    (Vovk et al. 2005; Lei et al. 2018). At least `needed` of them."""
    place = math.ceil((len(scores) + 1) * (1 - alpha) - 1e-9)
    assert place <= len(scores), "too few images for this alpha"
    return float(scores.sort().values[place - 1])


def scores(p: torch.Tensor, method: str, ordered: bool = False) -> torch.Tensor:
    """How little each class conforms, of probabilities (N, K) -> (N, K).

    lac: 1 - p (Sadinle et al. 2019). aps: what is more probable than it, together (Romano et al. 2020), without their
    random number, so that the same image always has the same set. raps: and a penalty for each rank behind the first
    (Angelopoulos et al. 2021). ordered: likewise, of the levels in the order in which an interval grows from what is
    answered, so that those below any threshold are one; lac is then of the worst that it has taken in."""
    order = outwards(p) if ordered else p.argsort(dim=1, descending=True, stable=True)
    ranked = p.gather(1, order)
    if method == "lac":
        found = (
            torch.cat([torch.zeros_like(p[:, :1]), 1 - ranked[:, 1:]], 1).cummax(1).values if ordered else 1 - ranked
        )
    else:
        found = ranked.cumsum(1) - ranked
    if method == "raps":
        found = found + PENALTY * (torch.arange(p.shape[1], device=p.device) - FREE + 1).clamp(min=0)
    return torch.zeros_like(p).scatter(1, order, found)


def outwards(p: torch.Tensor) -> torch.Tensor:
    """(N, K) levels: the one that is answered, then again and again the likelier neighbour of those that are in."""
    low = high = nearest(p)
    order, edged = [low], torch.nn.functional.pad(p, (1, 1), value=-1.0)  # level k stands at k + 1
    for _ in range(p.shape[1] - 1):
        down = edged.gather(1, low[:, None])[:, 0] >= edged.gather(1, high[:, None] + 2)[:, 0]
        low, high = low - down.long(), high + (~down).long()
        order.append(torch.where(down, low, high))
    return torch.stack(order, 1)


def robust(every: torch.Tensor, own: torch.Tensor, alpha: float, blind: float) -> float:
    """The least of the scores `own` (N,) of the classes that are told, below which that of the right class lies with
    1 - alpha, where a part `blind` of what is told is one of all classes by chance: of these a set holds the part which
    it holds of all, `every` (N, K) (Sesia et al. 2023; Penso and Goldberger 2024)."""
    cut, all_ = own.sort().values, every.flatten().sort().values
    told = torch.arange(1, len(cut) + 1) / (len(cut) + 1)
    right = (told - blind * torch.searchsorted(all_, cut, right=True) / len(all_)) / (1 - blind)
    enough = torch.nonzero(right >= 1 - alpha)[:, 0]
    return float(cut[enough[0] if len(enough) else -1])


def fit(
    p: torch.Tensor,
    target: torch.Tensor,
    method: str,
    alpha: float,
    by_class: bool,
    ordered: bool = False,
    blind: float = 0.0,
) -> dict[str, Any]:
    """A threshold for each class, plain. by_class: classes with `OWN` images get theirs from these alone (Vovk 2012),
    the others from what is left. blind: the part of the classes that says nothing; then there is one threshold."""
    every = scores(p, method, ordered)
    own = every.gather(1, target[:, None])[:, 0]
    count = torch.bincount(target, minlength=p.shape[1])
    alone = (count >= max(OWN, needed(alpha))) & (by_class and not blind)
    rest = own[~alone[target]]
    common = threshold(rest if len(rest) >= needed(alpha) else own, alpha)
    common = robust(every, own, alpha, blind) if blind else common
    cut = [threshold(own[target == c], alpha) if alone[c] else common for c in range(p.shape[1])]
    return {"method": method, "alpha": alpha, "threshold": cut, "own": int(alone.sum()), "ordered": ordered}


def sets(p: torch.Tensor, fitted: dict[str, Any]) -> torch.Tensor:
    """(N, K) bool. What is answered is always in: no set is empty, and coverage is only higher for it. So it is for the
    levels between two that are in."""
    ordered = fitted.get("ordered", False)
    inside = scores(p, fitted["method"], ordered) <= torch.tensor(fitted["threshold"], device=p.device)
    inside = inside.scatter(1, (nearest(p) if ordered else p.argmax(1))[:, None], True)
    if not ordered:
        return inside
    return inside.cummax(1).values & inside.flip(1).cummax(1).values.flip(1)


def margin(found: torch.Tensor, target: torch.Tensor, alpha: float) -> list[float]:
    """For each number (N, T) how far to both sides of the prediction the interval goes."""
    return [threshold(error, alpha) for error in (found - target).abs().T]
