"""Numbers per image, in the user's units: the root of the mean squared error chooses the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from src.contracts import Affine, Head, Task, Weights
from src.tasks.figures import scatter
from src.tasks.linear import crossed, folds, ridge, summed, widened

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
    """The part of the variance that is explained, the mean over the numbers; 0 is the mean of these images."""
    found, target = found.double(), target.double()
    around = (target - target.mean(0)).square().sum(0)
    return (1 - (found - target).square().sum(0) / around.clamp(min=1e-30)).mean()


def solve(
    x: torch.Tensor,
    target: torch.Tensor,
    columns: Mapping[str, slice],
    seed: int,
    unit: tuple[torch.Tensor, torch.Tensor],
    groups: torch.Tensor | None = None,
    only: str | None = None,
) -> list[Head]:
    """Ridge heads; the least squared error first, of numbers in units of their spread. `only`: `lda`, the cheap
    method of classes, is all of them here."""
    strength = [float(word) for word in (only or "").partition(" on ")[0].split()[1:]]
    place = target[:, 0].argsort().argsort() * BINS // len(target)

    def methods(inner: torch.Tensor):
        yield partial(ridge, strengths=tuple(strength) or RIDGE)

    def suited(found: torch.Tensor, target: torch.Tensor) -> tuple[float, torch.Tensor]:
        return 1.0, torch.zeros(found.shape[1])

    def risk(found: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ((found - target) / unit[1]).square().mean()

    return crossed(x, target, columns, folds(place, seed, groups), methods, suited, risk, only)


def close(x: torch.Tensor, target: torch.Tensor, column: slice) -> Affine:
    return widened(ridge(x[:, column], target, (CLOSING,))[f"ridge {CLOSING:g}"], column, x.shape[1])


def weigh(
    trained: Affine, closing: Affine, x: torch.Tensor, target: torch.Tensor, unit: tuple[torch.Tensor, torch.Tensor]
) -> dict[str, Weights]:
    """Each, and both by half, drawn towards the mean of the training images, or away from it, as x, images of val, ask
    for it: a ridge is too timid, a network too sure, and where nothing can be told the blind answer remains."""
    found = {}
    for name, (first, second) in {"": (1.0, 0.0), "closing": (0.0, 1.0), "blend": (0.5, 0.5)}.items():
        weight, bias = summed(trained, closing, (first, second))
        said, true = ((y - unit[0]) / unit[1] for y in (x @ weight.T + bias, target))
        size = said.square().mean()
        held = (said * true).sum() + BELIEVED * size  # as if so many images had asked for no change
        part = float((held / ((said.square().sum() + BELIEVED * size).clamp(min=1e-12))).clamp(0, 2))
        found[name] = first * part, second * part
    return found


def mix(trained: Affine, closing: Affine, weights: Weights, target: torch.Tensor) -> Affine:
    weight, bias = summed(trained, closing, weights)
    return weight, bias + (1 - sum(weights)) * target.mean(0)


def doubts(found: torch.Tensor, target: torch.Tensor, names: tuple[str, ...]) -> list[tuple[int, dict[str, Any]]]:
    """What the other images say is further away than errors are."""
    error = found - target
    spread = 1.4826 * (error - error.median(0).values).abs().median(0).values.clamp(min=1e-12)
    far = error.abs() / spread
    rows = torch.nonzero(far.max(1).values > DOUBT)[:, 0].tolist()
    ordered = sorted(rows, key=lambda i: -float(far[i].max()))
    return [
        (i, {"rather": "; ".join(f"{name} {v:.4g}" for name, v in zip(names, found[i].tolist(), strict=True))})
        for i in ordered
    ]


def regression(
    classes: tuple[str, ...], monitor: str, mode: str, targets: Sequence[tuple[float, ...]] | None = None
) -> Task:
    """targets: of the training images, whose mean and spread are the network's unit; without them the task can only
    measure and decode."""
    known = torch.tensor(targets or [[0.0] * len(classes), [2.0] * len(classes)], dtype=torch.float64)
    unit = known.mean(0).float(), known.std(0, correction=0).clamp(min=1e-12).float()

    def metrics() -> Any:
        # imported here, since predicting needs no metrics
        from torchmetrics import MetricCollection

        from src.tasks.metrics import Mean, Whole

        found: dict[str, Any] = {"mae": Mean(absolute), "rmse": Whole(rmse), "r2": Whole(r2)}
        for i, name in enumerate(classes if len(classes) > 1 else ()):
            found[f"{name}/mae"] = Mean(partial(_column, absolute, i))
            found[f"{name}/r2"] = Whole(partial(_column, r2, i))
        return MetricCollection(found, compute_groups=False)

    def decode(found: torch.Tensor) -> list[dict[str, Any]]:
        columns = [f"prediction/{name}" for name in classes] if len(classes) > 1 else ["prediction"]
        return [dict(zip(columns, row, strict=True)) for row in found.tolist()]

    def constant(target: torch.Tensor) -> torch.Tensor:
        return target.median(0).values if monitor == "val/mae" else target.mean(0)

    return Task(
        outputs=len(classes),
        target="numbers",
        monitor=monitor,
        mode=mode,
        metrics=metrics,
        decode=decode,
        scores=absolute if monitor == "val/mae" else None,
        score={"val/rmse": rmse, "val/r2": r2}.get(monitor),
        skill=r2,
        constant=constant,
        geometric=True,
        unit=(tuple(unit[0].tolist()), tuple(unit[1].tolist())),
        solve=partial(solve, unit=unit),
        close=close,
        weigh=partial(weigh, unit=unit),
        mix=mix,
        doubts=partial(doubts, names=classes),
        figure=scatter,
    )


def _column(score: Any, i: int, found: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return score(found[:, i : i + 1], target[:, i : i + 1])
