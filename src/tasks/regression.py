"""Numbers per image, in the user's units: the root of the mean squared error chooses the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from src.contracts import Affine, Head, Task, Weights
from src.tasks.figures import scatter
from src.tasks.linear import crossed, folds, ridge, summed, widened
from src.tasks.spread import Nothing, Spread, margin, spread_of, widened_by

RIDGE = (0.1, 1.0, 10.0, 100.0)
CLOSING = 1.0  # ridge strength on features that have seen their targets
BELIEVED = 20  # images of val that it takes to doubt a head
BINS = 10  # by which images are dealt out to folds
DOUBT = 4.0  # robust standard deviations of the error from which a target is looked at again


def absolute(found: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of the mean over the numbers of an image."""
    return (found - target).abs().mean(1)


def rmse(found: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Over images, then the mean over the numbers."""
    return (found - target).double().square().mean(0).sqrt().mean()


def r2(found: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The part of the variance that is explained, the mean over the numbers; 0 is the mean of these images. Of a number
    that is always the same, 1 where it is said exactly, else 0."""
    found, target = found.double(), target.double()
    error, around = ((target - by).square().sum(0) for by in (found, target.mean(0)))
    same = (target == target[:1]).all(0)
    return torch.where(same, (error == 0).double(), 1 - error / around).mean()


def solve(
    x: torch.Tensor,
    target: torch.Tensor,
    columns: Mapping[str, slice],
    seed: int,
    unit: Affine,
    spread: Spread,
    groups: torch.Tensor | None = None,
    only: str | None = None,
) -> list[Head]:
    """Ridge heads; the least squared error first, of numbers in units of their deviation. How far off they may be is
    how far off they are out of fold. `only`: `lda`, the cheap method of classes, is all of them here."""
    strength = [float(word) for word in (only or "").partition(" on ")[0].split()[1:]]
    place = target[:, 0].argsort().argsort() * BINS // len(target)

    def methods(inner: torch.Tensor):
        yield partial(ridge, strengths=tuple(strength) or RIDGE)

    def suited(found: torch.Tensor, target: torch.Tensor) -> tuple[float, torch.Tensor]:
        return 1.0, torch.zeros(found.shape[1])

    def risk(found: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ((found - target) / unit[1]).square().mean()

    heads = crossed(x, target, columns, folds(place, seed, groups), methods, suited, risk, only)
    return [spread.opened_head(head, target) for head in heads]


def close(x: torch.Tensor, target: torch.Tensor, column: slice, spread: Spread) -> Affine:
    """The numbers; how far off they may be cannot be told by images whose targets the features have seen."""
    head = widened(ridge(x[:, column], target, (CLOSING,))[f"ridge {CLOSING:g}"], column, x.shape[1])
    return spread.opened(head, torch.zeros(len(spread.follows), 1))


def weigh(
    trained: Affine, closing: Affine, x: torch.Tensor, target: torch.Tensor, unit: Affine, spread: Spread
) -> dict[str, Weights]:
    """Each, and both by half, drawn towards the mean of the training images, or away from it, as x, images of val, ask
    for it: a ridge is too timid, a network too sure, and where nothing can be told the blind answer remains."""
    found, rows = {}, spread.rows(len(trained[1]))
    for name, (first, second) in {"": (1.0, 0.0), "closing": (0.0, 1.0), "blend": (0.5, 0.5)}.items():
        weight, bias = summed(trained, closing, (first, second))
        said, true = ((y - unit[0]) / unit[1] for y in (x @ weight[rows].T + bias[rows], target))
        size = said.square().mean()
        held = (said * true).sum() + BELIEVED * size  # as if so many images had asked for no change
        part = float((held / ((said.square().sum() + BELIEVED * size).clamp(min=1e-12))).clamp(0, 2))
        found[name] = first * part, second * part
    return found


def mix(trained: Affine, closing: Affine, weights: Weights, target: torch.Tensor, spread: Spread) -> Affine:
    """The numbers as they were weighed; how far off they may be is what was trained."""
    weight, bias = summed(trained, closing, weights)
    rows = spread.rows(len(bias))
    bias = bias[rows] + (1 - sum(weights)) * target.mean(0)
    if spread == Nothing():
        return weight, bias
    moved = spread.opened((weight[rows] - trained[0][rows], bias - trained[1][rows]), torch.zeros(len(trained[1]), 1))
    return trained[0] + moved[0], trained[1] + moved[1]


def doubts(found: torch.Tensor, target: torch.Tensor, names: tuple[str, ...]) -> list[tuple[int, dict[str, Any]]]:
    """What the other images say is further away than errors are."""
    error = found - target
    spread = 1.4826 * (error - error.median(0).values).abs().median(0).values.clamp(min=1e-12)
    far = error.abs() / spread
    rows = torch.nonzero(far.max(1).values > DOUBT)[:, 0].tolist()
    told = names if len(names) > 1 else [""]
    ordered = sorted(rows, key=lambda i: -float(far[i].max()))
    return [
        (i, {"rather": "; ".join(f"{name} {v:.4g}".strip() for name, v in zip(told, found[i].tolist(), strict=True))})
        for i in ordered
    ]


def regression(
    classes: tuple[str, ...],
    monitor: str,
    mode: str,
    spread: Sequence[float] | float | None = None,
    targets: Sequence[tuple[float, ...]] | None = None,
) -> Task:
    """spread: see spread_of. targets: of the training images, whose mean and deviation are the network's unit; without
    them the task can only measure and decode."""
    known = torch.from_numpy(np.array(targets or [[0.0] * len(classes), [2.0] * len(classes)], dtype=np.float64))
    unit = known.mean(0).float(), known.std(0, correction=0).clamp(min=1e-12).float()
    how = spread_of(spread)
    shift, scale = how.unit(*unit)

    def of_middle(score: Any) -> Any:
        return lambda found, target: score(how.middle(found), target)

    def decode(found: torch.Tensor, margin: Sequence[float] | None = None) -> list[dict[str, Any]]:
        said = widened_by(how.said(found), margin)
        columns = [column for name in said for column in _columns(name, classes)]
        return [dict(zip(columns, row, strict=True)) for row in torch.cat(list(said.values()), 1).tolist()]

    def undo(rows: Sequence[Mapping[str, str]], margin: Sequence[float] | None = None) -> torch.Tensor:
        names = dict.fromkeys(how.said(torch.zeros(1, len(shift))))
        said = {n: torch.tensor([[float(row[c]) for c in _columns(n, classes)] for row in rows]) for n in names}
        return how.heard(widened_by(said, [-more for more in margin] if margin else None))

    def constant(target: torch.Tensor) -> torch.Tensor:
        middle = target.median(0).values if monitor == "val/mae" else target.mean(0)
        return how.opened((middle[:, None], middle), how.about(target - middle))[1]

    def tune(found: torch.Tensor, target: torch.Tensor) -> dict[str, Any]:
        return {"margin": margin(how.said(found), target, how.part)}

    return Task(
        outputs=len(shift),
        target="numbers",
        monitor=monitor,
        mode=mode,
        metrics=partial(_metrics, how, classes),
        decode=decode,
        undo=undo,
        scores=of_middle(absolute) if monitor == "val/mae" else None,
        score={"val/rmse": of_middle(rmse), "val/r2": of_middle(r2)}.get(monitor),
        skill=of_middle(r2),
        constant=constant,
        geometric=True,
        unit=(tuple(shift.tolist()), tuple(scale.tolist())),
        spread=spread if spread is None or isinstance(spread, int | float) else tuple(spread),
        solve=partial(solve, unit=unit, spread=how),
        close=partial(close, spread=how),
        weigh=partial(weigh, unit=unit, spread=how),
        mix=partial(mix, spread=how),
        tune=None if how == Nothing() else tune,
        doubts=lambda found, target: doubts(how.middle(found), target, classes),
        figure=scatter,
    )


def _columns(name: str, classes: tuple[str, ...]) -> list[str]:
    """Of predictions.csv."""
    return [f"{name}/{number}" for number in classes] if len(classes) > 1 else [name]


def _metrics(how: Spread, classes: tuple[str, ...], margin: Sequence[float] | None = None) -> Any:
    # imported here, since predicting needs no metrics
    from torchmetrics import MetricCollection

    from src.tasks.metrics import Mean, Whole

    def within(found: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        said = widened_by(how.said(found), margin)
        return ((said["low"] <= target) & (target <= said["high"])).float()

    def width(found: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        said = widened_by(how.said(found), margin)
        return said["high"] - said["low"]

    def of(score: Any, i: slice) -> Any:
        return lambda found, target: score(how.middle(found)[:, i], target[:, i])

    def mean(score: Any, i: slice) -> Any:
        return lambda found, target: score(found, target)[:, i].mean(1)

    found, every = {}, slice(None)
    parts = {f"{name}/": slice(i, i + 1) for i, name in enumerate(classes)} if len(classes) > 1 else {}
    for name, i in {"": every, **parts}.items():
        found |= {f"{name}mae": Mean(of(absolute, i)), f"{name}r2": Whole(of(r2, i))}
        if how != Nothing():
            found |= {f"{name}coverage": Mean(mean(within, i)), f"{name}interval_width": Mean(mean(width, i))}
    return MetricCollection({**found, "rmse": Whole(of(rmse, every))}, compute_groups=False)
