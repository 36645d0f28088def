"""Any number of classes per image: the mean average precision chooses the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from src import threshold
from src.contracts import Affine, Head, Task, Weights
from src.stats import by_label
from src.tasks.figures import chances
from src.tasks.linear import Method, crossed, folds, moved, ridge, summed, varying, widened

RIDGE = (0.3, 3.0, 30.0)
DECAY = 3e-2  # of the logistic head's weights
MOST = 5e6  # images × features up to which a logistic head is solved in seconds
CLOSING = 3.0  # ridge strength on features that have seen their targets
ENOUGH = 10  # images of a class in val from which it gets a threshold of its own


def average_precision(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(N, C) each -> (C,), the mean precision at the images of the class, in falling order of their logits; images of
    equal logits count together. NaN for a class without any."""
    order = logits.argsort(0, descending=True)
    ranked, hit = logits.gather(0, order), target.gather(0, order).double()
    last = torch.ones_like(ranked, dtype=torch.bool)
    last[:-1] = ranked[:-1] != ranked[1:]  # of its ties
    found = hit.cumsum(0)
    at_last = torch.where(last, found, 0).cummax(0).values
    before = torch.cat([torch.zeros_like(at_last[:1]), at_last[:-1]])
    precision = found / torch.arange(1, len(logits) + 1, device=logits.device, dtype=found.dtype)[:, None]
    return (torch.where(last, found - before, 0) * precision).sum(0) / hit.sum(0)


def map_macro(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Over the classes that occur."""
    return average_precision(logits, target).nanmean()


def map_micro(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of all pairs of an image and a class."""
    return average_precision(logits.reshape(-1, 1), target.reshape(-1, 1)).nanmean()


def f1(logits: torch.Tensor, target: torch.Tensor, thresholds: Sequence[float], macro: bool) -> torch.Tensor:
    taken = logits.float().sigmoid() > torch.tensor(thresholds, dtype=torch.float64, device=logits.device)
    hit, said, there = ((a.float()).sum(0) for a in (taken & (target > 0), taken, target > 0))
    if not macro:
        return 2 * hit.sum() / (said.sum() + there.sum()).clamp(min=1)
    return (2 * hit / (said + there))[said + there > 0].mean()  # one that is neither tells nothing


def nll(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return bce(logits, target, reduction="none").mean(1)


def solve(
    x: torch.Tensor,
    target: torch.Tensor,
    columns: Mapping[str, slice],
    seed: int,
    groups: torch.Tensor | None = None,
    only: str | None = None,
) -> list[Head]:
    """One against the rest for each class, by ridge and logistic heads; the least cross-entropy first. `only`: see the
    heads of one class; `lda` there is ridge here, its like for several labels."""
    fold = folds((target * torch.arange(1, target.shape[1] + 1)).max(1).values.long(), seed, groups)
    return crossed(x, target, columns, fold, partial(_methods, only=only), _calibration, bce, only)


def _methods(x: torch.Tensor, only: str | None) -> Iterator[Method]:
    name, *strength = (only or "all").partition(" on ")[0].split()
    if name in ("all", "lda", "ridge"):
        yield partial(ridge, strengths=(float(strength[0]),) if strength else RIDGE)
    if name == "logistic" or (name == "all" and x.numel() <= MOST):
        yield logistic


def logistic(x: torch.Tensor, target: torch.Tensor) -> dict[str, Affine]:
    """Cross-entropy of each class with weight decay, by L-BFGS."""
    centre = x.mean(0)
    scale = varying(x.std(0, correction=0), centre)
    inner = (x - centre) / scale
    weight = torch.zeros(target.shape[1], x.shape[1], requires_grad=True)
    bias = _log_odds(target).requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=50, tolerance_grad=1e-4, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = bce(inner @ weight.T + bias, target, reduction="none").sum(1).mean() + DECAY / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    found = weight.detach() / scale
    return {"logistic": (found, bias.detach() - found @ centre)}


def _log_odds(target: torch.Tensor) -> torch.Tensor:
    share = ((target > 0).sum(0) + 0.5) / (len(target) + 1)
    return (share / (1 - share)).log()


def _calibration(logits: torch.Tensor, target: torch.Tensor) -> tuple[float, torch.Tensor]:
    """One factor for all classes and a shift for each (Platt 1999), that minimise the cross-entropy."""
    [size] = _sizes(logits)
    log_factor = torch.zeros((), requires_grad=True)
    shift = _log_odds(target).requires_grad_()
    inner = (logits - logits.mean(0)) / size
    optimizer = torch.optim.LBFGS([log_factor, shift], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = bce(inner * log_factor.exp() + shift, target) + 1e-3 * log_factor.square()
        found.backward()
        return found

    optimizer.step(loss)
    factor = float(log_factor.detach().clamp(-7, 3).exp() / size)
    return factor, shift.detach() - factor * logits.mean(0)


def _sizes(*logits: torch.Tensor) -> torch.Tensor:
    """The usual deviation in each, of the labels that vary in all; 1 where none does, as of a single image."""
    spread = torch.stack([found.std(0, correction=0) for found in logits])
    varied = spread[:, (spread > 1e-6).all(0)]
    return varied.median(1).values if varied.shape[1] else torch.ones(len(logits))


def close(x: torch.Tensor, target: torch.Tensor, column: slice) -> Affine:
    inner = x[:, column]
    head = ridge(inner, target, (CLOSING,))[f"ridge {CLOSING:g}"]
    return widened(moved(head, *_calibration(inner @ head[0].T + head[1], target)), column, x.shape[1])


def weigh(trained: Affine, closing: Affine, x: torch.Tensor, target: torch.Tensor) -> dict[str, Weights]:
    """Both at one size about their means, then as sure as x, images of val, allow."""
    first, second = (1 / _sizes(*(x @ w.T + b for w, b in (trained, closing)))).tolist()
    found = {"": (1.0, 0.0), "closing": (0.0, second), "blend": (first, second)}
    for name in ("closing", "blend"):
        weight, bias = summed(trained, closing, found[name])
        factor, _ = _calibration(x @ weight.T + bias, target)
        found[name] = found[name][0] * factor, found[name][1] * factor
    return found


def mix(trained: Affine, closing: Affine, weights: Weights, target: torch.Tensor) -> Affine:
    """The weighted sum; how frequent the classes are does not change with how sure it is."""
    prior = _log_odds(target)
    weight, bias = summed(trained, closing, weights)
    return weight, bias + (1 - sum(weights)) * prior


def tune(logits: torch.Tensor, target: torch.Tensor) -> dict[str, Any]:
    """{thresholds}: for each class with enough images the probability above which its F1 is best, for the others the
    one that is best for all pairs."""
    p, there = logits.float().sigmoid(), target > 0
    common = threshold.f1(p.reshape(-1), there.reshape(-1))
    own = [threshold.f1(p[:, c], there[:, c]) if there[:, c].sum() >= ENOUGH else common for c in range(p.shape[1])]
    return {"thresholds": own}  # of rare labels all probabilities may be within a rounding


def multilabel(classes: tuple[str, ...], monitor: str, mode: str, separator: str, targets: Any = None) -> Task:
    def metrics(thresholds: Sequence[float] | None = None) -> Any:
        # imported here, since predicting needs no metrics
        from torchmetrics import MetricCollection

        from src.tasks.metrics import Mean, Whole

        cut = thresholds or (0.5,) * len(classes)
        return MetricCollection(
            {
                "map_macro": Whole(map_macro),
                "map_micro": Whole(map_micro),
                "f1_macro": Whole(partial(f1, thresholds=cut, macro=True)),
                "f1_micro": Whole(partial(f1, thresholds=cut, macro=False)),
                "ece": Whole(lambda logits, target: by_label(logits.sigmoid(), target)["ece"].mean()),
                "nll": Mean(nll),
                "brier": Mean(lambda logits, target: (logits.sigmoid() - target).square().mean(1)),
            },
            compute_groups=False,
        )

    def decode(logits: torch.Tensor, thresholds: Sequence[float] | None = None) -> list[dict[str, Any]]:
        cut, rows = thresholds or (0.5,) * len(classes), []
        for p in logits.float().sigmoid().tolist():
            named = list(zip(classes, p, strict=True))
            taken = separator.join(c for (c, chance), t in zip(named, cut, strict=True) if chance > t)
            rows.append({"prediction": taken, **{f"prob/{c}": chance for c, chance in named}})
        return rows

    return Task(
        outputs=len(classes),
        target="labels",
        monitor=monitor,
        mode=mode,
        metrics=metrics,
        decode=decode,
        scores=nll if monitor == "val/nll" else None,
        score={"val/map_macro": map_macro, "val/map_micro": map_micro}.get(monitor),
        skill=map_macro,
        constant=_log_odds,
        solve=solve,
        close=close,
        weigh=weigh,
        mix=mix,
        tune=tune,
        figure=partial(chances, separator=separator),
    )
