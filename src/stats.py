"""Statistics of a finite test set: how far a metric may be from what more images would give."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import torch

from src import rng
from src.contracts import Task

DRAWS = 1000  # of a metric that is no mean over images
PAIRED = 200  # likewise, where only a standard error is wanted
BINS = 15  # of the confidence, of equal width, as Guo et al. 2017


def metric(task: Task, logits: torch.Tensor, target: torch.Tensor) -> float | None:
    """The monitored metric; None where the task only knows it as a torchmetrics object."""
    if task.scores is not None:
        return float(task.scores(logits, target).double().mean())
    return float(task.score(logits, target)) if task.score is not None else None


def interval(task: Task, logits: torch.Tensor, target: torch.Tensor, seed: int) -> tuple[float, float] | None:
    """95 % bootstrap interval of the monitored metric; None where resamples have none."""
    if task.scores is not None:
        return bootstrap(task.scores(logits, target), seed, groups=target if task.by_class else None)
    if task.score is None:
        return None
    score = task.score
    found = resampled(lambda some: score(logits[some], target[some]), len(target), seed, DRAWS)
    if not len(found):
        return None
    low, high = torch.quantile(found, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def gain(task: Task, new: torch.Tensor, old: torch.Tensor, target: torch.Tensor) -> tuple[float, float]:
    """(by how much `new` is better than `old` by the monitored metric, the standard error of that difference)"""
    sign, n = 1 if task.mode == "max" else -1, len(target)
    if task.scores is not None:
        difference = sign * (task.scores(new, target).double() - task.scores(old, target).double())
        return float(difference.mean()), float(difference.std()) / len(difference) ** 0.5
    score = task.score
    assert score is not None
    found = resampled(lambda some: score(new[some], target[some]) - score(old[some], target[some]), n, 0, PAIRED)
    return sign * float(score(new, target) - score(old, target)), float(found.std())


def resampled(score: Callable[[torch.Tensor], torch.Tensor], n: int, seed: int, draws: int) -> torch.Tensor:
    """(draws,) score(indices) of resamples with replacement (Efron 1979); those without a score are left out."""
    generator = torch.Generator().manual_seed(rng.key(seed, "bootstrap"))
    found = [float(score(torch.randint(n, (n,), generator=generator))) for _ in range(draws)]
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
    groups: torch.Tensor | None = None,
    proportion: bool = True,
) -> tuple[float, float]:
    """Percentile interval of the mean of `scores` (N,) over `draws` resamples with replacement (Efron 1979).

    proportion: whether the scores say right or wrong. Where all of these are equal (100 % right) resampling cannot
    vary, so the Wilson interval (1927) is given instead: 60 of 60 right is not certainty. groups (N,): images are
    resampled within theirs, as the parts of a mean over classes need it.
    """
    n, mean = len(scores), float(scores.double().mean())
    alike = all(bool((part == part[0]).all()) for part in _parts(scores, groups))
    if proportion and alike and round(mean, 6) in (0.0, 1.0):
        low, high = wilson(round(mean), n, NormalDist().inv_cdf((1 + level) / 2))
        return max(low, 0.0), min(high, 1.0)
    generator = torch.Generator().manual_seed(rng.key(seed, "bootstrap"))
    means = torch.empty(draws, dtype=torch.float64)
    parts = _parts(scores.double(), groups)
    for i in range(draws):
        drawn = [part[torch.randint(len(part), (len(part),), generator=generator)] for part in parts]
        means[i] = torch.cat(drawn).mean()
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def _parts(scores: torch.Tensor, groups: torch.Tensor | None) -> list[torch.Tensor]:
    return [scores] if groups is None else [scores[groups == group] for group in groups.unique()]


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
