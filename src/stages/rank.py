"""How much a frozen network knows of these images, to compare networks by: the probe, and the nearest images."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize, one_hot

from src.contracts import Run, Task
from src.stages import pixels, probe

NEIGHBOURS = (1, 5, 20)  # of which the best number is taken: with few images a class, 20 are mostly of other classes
MOST = 5_000  # images that are compared with each other: a second
CHUNK = 1024


def rank(run: Run, device: str, seconds: float | None = None) -> tuple[float, float | None]:
    """The skill of the best head, cross-validated, and that of the nearest images (of masks: None, since pixels have no
    neighbours that would be found in time); of fewer images where they would take longer than `seconds`."""
    if run.task.dense:
        return pixels.rank(run, device, seconds), None
    network = run.network()
    x, target, chosen, _ = probe.features(run, network, device, seconds)
    views, groups = probe.columns(network, x), probe.grouped(run, chosen)
    assert run.task.solve is not None
    best = run.task.solve(x, target, views, run.cfg["seed"], groups=groups)[0]
    return probe.held_out(run, best, target), knn(run, x[:, views["last"]], target, groups)


def knn(run: Run, x: torch.Tensor, target: torch.Tensor, groups: torch.Tensor | None = None) -> float:
    """The skill of the mean of the nearest images' targets, weighted by their cosine. Each image is left out of its own
    neighbours, and with it those of its group. x (N, D): the features that the network's own head reads.

    k-NN on cached features foresees better than 23 metrics of transferability which network will be the best after a
    fine-tune (arXiv:2503.18528: 42,000 runs, 16 data sets). But neither it nor a probe nor a list of networks does so
    reliably: what found the best on 19 tasks was to try some that come first (arXiv:2010.06402).
    """
    some = probe.sample(len(x), MOST, run.cfg["seed"])
    x, target, groups = x[some], target[some], None if groups is None else groups[some]
    if run.task.embeds:  # whose skill is the class of the nearest image already
        return float(run.task.skill(x, target))
    values = answers(run.task, target)
    cosine, near = nearest(x, torch.arange(len(x)) if groups is None else groups, max(NEIGHBOURS))
    found = (logits(run.task, _mean(values, cosine[:, :k], near[:, :k])) for k in NEIGHBOURS if k <= near.shape[1])
    return max(float(run.task.skill(said, target)) for said in found)


def nearest(x: torch.Tensor, own: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(cosines (N, k), which images (N, k)) of those that do not share `own` (N,); -inf where there are no more."""
    x, found = normalize(x.float(), dim=1), []
    for some, mine in zip(x.split(CHUNK), own.split(CHUNK), strict=True):
        found.append((some @ x.T).masked_fill(mine[:, None] == own, -torch.inf).topk(min(k, len(x)), 1))
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def _mean(values: torch.Tensor, cosine: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """(N, C); of the known ones, and where there are none, that of all images."""
    there = values[near]
    weight = torch.where(there.isnan(), 0.0, cosine.clamp(min=0)[:, :, None])
    mean = (there.nan_to_num() * weight).sum(1) / weight.sum(1)
    return torch.where(mean.isnan(), values.nanmean(0), mean)


def answers(task: Task, target: torch.Tensor) -> torch.Tensor:
    """Targets as one column an output (N, C), NaN where unknown."""
    return (one_hot(target, task.outputs) if task.target == "class" else target).float()


def logits(task: Task, mean: torch.Tensor) -> torch.Tensor:
    """What an output would have to be to say `mean` (N, C): the log of a class' share, the log odds of a label's, a
    number itself, and nothing of how far off it may be."""
    if task.parts:
        return torch.cat([_said(part.target, mean[:, part.columns]) for part in task.parts], 1)
    if task.target == "numbers":
        return mean.repeat(1, task.outputs // mean.shape[1])
    return _said(task.target, mean)


def _said(kind: str, mean: torch.Tensor) -> torch.Tensor:
    if kind == "numbers":
        return mean
    share = mean.clamp(1e-4, 1 - 1e-4)
    return share.log() if kind == "class" else share.logit()
