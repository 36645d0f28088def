"""Statistics of a finite test set: how far a metric may be from what more images would give."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import torch

from src import rng
from src.contracts import Task

DRAWS = 1000  # of a metric that is no mean over images
PAIRED = 200  # likewise, where only a standard error is wanted
FEWEST = 10  # images, or groups of them: if fewer are all better by chance, that is no rarer than three standard errors
BINS = 15  # of the confidence, of equal width, as Guo et al. 2017


def metric(task: Task, logits: torch.Tensor, target: torch.Tensor) -> float | None:
    """The monitored metric; None where the task only knows it as a torchmetrics object."""
    if task.scores is not None:
        return float(task.scores(logits, target).double().mean())
    return float(task.score(logits, target)) if task.score is not None else None


def interval(
    task: Task, logits: torch.Tensor, target: torch.Tensor, seed: int, groups: torch.Tensor | None = None
) -> tuple[float, float] | None:
    """95 % bootstrap interval of the monitored metric; None where resamples have none, and where all images are of one
    group (N,), which tells nothing of others."""
    if groups is not None and len(groups.unique()) < 2:
        return None
    if task.scores is not None:
        strata = target if task.by_class else None
        return bootstrap(task.scores(logits, target), seed, strata=strata, groups=_scored(task, target, groups))
    if task.score is None:
        return None
    score = task.score
    found = resampled(lambda some: score(logits[some], target[some]), len(target), seed, DRAWS, groups)
    if not len(found):
        return None
    low, high = torch.quantile(found, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def gain(
    task: Task, new: torch.Tensor, old: torch.Tensor, target: torch.Tensor, groups: torch.Tensor | None = None
) -> tuple[float, float]:
    """(by how much `new` is better than `old` by the monitored metric, the standard error of that difference: infinite
    where there are too few images, or groups (N,) of them, to tell)"""
    sign, n = 1 if task.mode == "max" else -1, len(target)
    if task.scores is not None:
        difference = sign * (task.scores(new, target).double() - task.scores(old, target).double())
        groups, units, spare = _scored(task, target, groups), difference, 1
        enough = len(difference if groups is None else groups.unique()) >= FEWEST
        if groups is not None and enough:
            units, spare = _units(difference, None, groups), 0
        error = float(units.std(correction=spare)) / len(units) ** 0.5
        return float(difference.mean()), error if enough else math.inf
    score, enough = task.score, (n if groups is None else len(groups.unique())) >= FEWEST
    assert score is not None

    def change(some: torch.Tensor) -> torch.Tensor:
        return score(new[some], target[some]) - score(old[some], target[some])

    better = sign * float(score(new, target) - score(old, target))
    return better, float(resampled(change, n, 0, PAIRED, groups).std()) if enough else math.inf


def _scored(task: Task, target: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor | None:
    """The groups of the images that have a score: of embeddings, those that have another one of their class."""
    return groups[target.bincount()[target] > 1] if groups is not None and task.embeds else groups


def resampled(
    score: Callable[[torch.Tensor], torch.Tensor], n: int, seed: int, draws: int, groups: torch.Tensor | None = None
) -> torch.Tensor:
    """(draws,) score(indices) of resamples with replacement (Efron 1979), of images or of whole groups (n,); those
    without a score are left out."""
    generator = torch.Generator().manual_seed(rng.key(seed, "bootstrap"))
    if groups is None:
        drawn = (torch.randint(n, (n,), generator=generator) for _ in range(draws))
    else:
        parts = [torch.nonzero(groups == group)[:, 0] for group in groups.unique()]
        chosen = (torch.randint(len(parts), (len(parts),), generator=generator).tolist() for _ in range(draws))
        drawn = (torch.cat([parts[i] for i in some]) for some in chosen)
    found = [float(score(some)) for some in drawn]
    return torch.tensor([value for value in found if value == value], dtype=torch.float64)


def confusions(found: torch.Tensor, target: torch.Tensor, classes: int) -> torch.Tensor:
    """Classes of pixels (B, H, W) -> counts (B, classes, classes), truth by answer; a target outside does not count."""
    counts = []
    for answer, truth in zip(found, target, strict=True):
        known = truth < classes
        index = truth[known].long() * classes + answer[known].long()
        counts.append(torch.bincount(index, minlength=classes * classes).view(classes, classes))
    return torch.stack(counts).float() if counts else torch.zeros(0, classes, classes, device=target.device)


def bootstrap(
    scores: torch.Tensor,
    seed: int = 0,
    draws: int = 2000,
    level: float = 0.95,
    strata: torch.Tensor | None = None,
    groups: torch.Tensor | None = None,
    proportion: bool = True,
) -> tuple[float, float]:
    """Percentile interval of the mean of `scores` (N,) over `draws` resamples with replacement (Efron 1979).

    proportion: whether the scores say right or wrong. Where all of these are equal (100 % right) resampling cannot
    vary, so the Wilson interval (1927) is given instead: 60 of 60 right is not certainty. strata (N,): the mean is one
    over these classes, and their sizes do not vary. groups (N,): images of one are alike, and are drawn together.
    """
    mean, scores = float(scores.double().mean()), scores.double()
    plain = strata is None and groups is None
    units = scores if plain else _units(scores, strata, groups)
    if proportion and round(mean, 6) in (0.0, 1.0) and _alike(scores, strata):
        low, high = wilson(round(mean), len(units), NormalDist().inv_cdf((1 + level) / 2))
        return max(low, 0.0), min(high, 1.0)
    generator = torch.Generator().manual_seed(rng.key(seed, "bootstrap"))
    means = torch.empty(draws, dtype=torch.float64)
    for i in range(draws):
        means[i] = units[torch.randint(len(units), (len(units),), generator=generator)].mean()
    if not plain:  # linear in what was drawn, it may leave where a mean can be
        ends = scores.aminmax() if strata is None else (0.0, 1.0) if proportion else (-math.inf, math.inf)
        means = means.clamp(float(ends[0]), float(ends[1]))
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def _alike(scores: torch.Tensor, strata: torch.Tensor | None) -> bool:
    parts = [scores] if strata is None else [scores[strata == stratum] for stratum in strata.unique()]
    return all(bool((part == part[0]).all()) for part in parts)


def _units(scores: torch.Tensor, strata: torch.Tensor | None, groups: torch.Tensor | None) -> torch.Tensor:
    """A value for each group, whose mean is that of the scores (N,) and varies in resamples as that would: the mean,
    and what the group adds to it by its deviations from the mean of each stratum (the linearised cluster bootstrap).
    The squares of n deviations from their own mean are too small by a part of 1 / n, so they are scaled; a stratum of
    one group alone deviates from the mean of all strata instead, as R's survey adjusts a "lonely PSU"."""
    n, each = len(scores), torch.ones_like(scores)
    stratum = torch.zeros(n, dtype=torch.long) if strata is None else strata.unique(return_inverse=True)[1]
    group = torch.arange(n) if groups is None else groups.unique(return_inverse=True)[1]
    (own, member), place = torch.stack([stratum, group]).unique(dim=1, return_inverse=True)
    held, sums = own.bincount(), stratum.bincount(scores)
    usual = place.bincount(each) * (sums / stratum.bincount())[own]
    lone = (held == 1)[own]
    of = torch.where(lone, len(held), held[own])
    deviation = place.bincount(scores) - torch.where(lone, sums.mean(), usual)
    added = member.bincount(deviation * (of / (of - 1).clamp(min=1)).sqrt())
    return scores.mean() + (added - added.mean()) * len(added) / n


def wilson(p: Any, n: Any, z: float) -> tuple[Any, Any]:
    """The bounds of a rate p among n, z standard errors away (Wilson 1927); of numbers, arrays or tensors."""
    centre, spread = p + z * z / (2 * n), z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5
    return (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


def reliability(confidence: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(N,) each -> (3, BINS): of each bin of the confidence how many there are, and the sums of both."""
    confidence, right = confidence.cpu().double(), right.cpu().double()
    place = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    return torch.stack([torch.bincount(place, x, BINS) for x in (torch.ones_like(right), confidence, right)])


def ece(confidence: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(N,) each: expected calibration error, the mean gap between them over bins of the confidence."""
    _, sure, hit = reliability(confidence, right)
    return (hit - sure).abs().sum() / len(confidence)


def by_label(p: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """(N, C) each, probabilities and whether a label is there -> nll, brier and ece (C,) of each label by itself."""
    p, target = p.double(), target.double()
    own = torch.where(target > 0, p, 1 - p).clamp(min=1e-12)
    errors = torch.stack([ece(p[:, c], target[:, c]) for c in range(p.shape[1])])
    return {"nll": -own.log().mean(0), "brier": (p - target).square().mean(0), "ece": errors.to(p.device)}
