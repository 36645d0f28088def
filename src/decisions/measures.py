"""What tells whether probabilities, sets and decisions are right, on images with labels, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.functional import one_hot

from src import stats
from src.decisions import conformal
from src.decisions.columns import decided, scaled
from src.decisions.scaling import loss
from src.stats import ece

Scores = dict[str, torch.Tensor]  # metric -> (N,), of which it is the mean
Wholes = dict[str, Callable[[torch.Tensor], torch.Tensor]]  # metric -> (indices -> its value on these images)


def risk_coverage(confidence: torch.Tensor, wrong: torch.Tensor) -> torch.Tensor:
    """(N,): the error rate among the 1, 2, … surest images; its mean is the AURC (Geifman et al. 2019)."""
    order = confidence.argsort(descending=True, stable=True)
    return wrong[order].double().cumsum(0) / torch.arange(1, len(wrong) + 1)


def measure(saved: Mapping[str, Any], logits: torch.Tensor, target: torch.Tensor, seed: int) -> dict[str, float]:
    """What the decisions promise: names without their split; bounds of 95 % end in /low and /high. logits: as the
    network puts them out."""
    kind, found, logits = saved["kind"], dict[str, float](), logits.float().cpu()
    means: Scores = {}
    wholes: Wholes = {}
    if kind != "numbers":
        now = scaled(saved, logits)
        means, wholes = _probabilities(now, target, kind)
        before = _probabilities(logits, target, kind)
        everything = torch.arange(len(target))
        found |= {f"{name}/uncalibrated": float(values.double().mean()) for name, values in before[0].items()}
        found["ece/uncalibrated"] = float(before[1]["ece"](everything))
        if saved.get("sets"):
            inside = conformal.sets(now.softmax(1), saved["sets"])
            size = inside.sum(1)
            means |= {"coverage": inside.gather(1, target[:, None])[:, 0], "set_size": size}
            found["unsure"] = float((size > 1).double().mean())
        if saved.get("decision"):
            more = _decided(saved["decision"], decided(saved["decision"], now.softmax(1)), target)
            means, wholes = means | more[0], wholes | more[1]
    elif saved.get("margin"):
        margin = torch.tensor(saved["margin"])
        means["coverage"] = ((logits - target).abs() <= margin).double().mean(1)
        found["interval_width"] = float(2 * margin.mean())
    for name, values in means.items():
        found[name] = float(values.double().mean())
        counted = name not in ("nll", "brier", "set_size", "decision/cost")
        bounds = stats.bootstrap(values.double(), seed, proportion=counted)
        found[f"{name}/low"], found[f"{name}/high"] = bounds
    for name, score in wholes.items():
        found |= _bounded(name, score, len(target), seed)
    return found


def _probabilities(logits: torch.Tensor, target: torch.Tensor, kind: str) -> tuple[Scores, Wholes]:
    """Brier 1950 is summed over classes; of labels everything is the mean over them."""
    if kind == "labels":
        p = logits.sigmoid()
        means = {"nll": loss(logits, target, kind), "brier": (p - target).square().mean(1)}
        labels = range(p.shape[1])
        return means, {"ece": lambda i: torch.stack([ece(p[i, c], target[i, c]) for c in labels]).mean()}
    p = logits.softmax(1)
    confidence, said = p.max(1)
    wrong = said != target
    surest = confidence.argsort(descending=True, stable=True)[: max(round(0.8 * len(p)), 1)]
    brier = (p - one_hot(target, p.shape[1])).square().sum(1)
    means = {"nll": loss(logits, target, kind), "brier": brier, "risk_at_80": wrong[surest]}
    return means, {
        "ece": lambda i: ece(confidence[i], ~wrong[i]),
        "aurc": lambda i: risk_coverage(confidence[i], wrong[i]).mean(),
    }


def _decided(fitted: Mapping[str, Any], said: torch.Tensor, target: torch.Tensor) -> tuple[Scores, Wholes]:
    if fitted["method"] == "cost":
        return {"decision/cost": torch.tensor(fitted["cost"], dtype=torch.float64)[target, said]}, {}
    hit = ((said == 1) & (target == 1)).double()
    means = {"decision/precision": hit[said == 1], "decision/recall": hit[target == 1]}
    both = (said == 1).double() + (target == 1).double()
    f1 = {"decision/f1": lambda i: 2 * hit[i].sum() / both[i].sum().clamp(min=1)}
    return {name: values for name, values in means.items() if len(values)}, f1


def _bounded(name: str, score: Callable[[torch.Tensor], torch.Tensor], n: int, seed: int) -> dict[str, float]:
    """Resamples of a calibration error are worse than the images are: their excess is taken off the bounds."""
    value, drawn = float(score(torch.arange(n))), stats.resampled(score, n, seed, stats.DRAWS)
    if not len(drawn):
        return {name: value}
    bounds = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64)) - (drawn.mean() - value)
    low, high = bounds.clamp(min=0).tolist()
    return {name: value, f"{name}/low": min(low, value), f"{name}/high": max(high, value)}
