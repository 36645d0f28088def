"""One of several ordered levels per image: quadratic kappa chooses the checkpoint."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from src import levels
from src.contracts import Task
from src.tasks.figures import confusion
from src.tasks.heads import close, mix, solve, weigh
from src.tasks.multiclass import doubts, nll, probabilities


def level(logits: torch.Tensor) -> torch.Tensor:
    """(N, levels) -> (N,), what is answered."""
    return levels.nearest(logits.float().softmax(1))


def kappa(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cohen's, with quadratic weights (Cohen 1968): 1 less the squared error over that of the same answers in any
    order."""
    found, true = level(logits).double(), target.double()
    chance = found.var(correction=0) + true.var(correction=0) + (found.mean() - true.mean()).square()
    return 1 - (found - true).square().mean() / chance if chance > 0 else torch.zeros((), dtype=torch.float64)


def distance(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Levels between what is said and what is."""
    return (level(logits) - target).abs().float()


def right(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (level(logits) == target).float()


def constant(target: torch.Tensor, classes: int) -> torch.Tensor:
    """All for the level nearest to the mean."""
    logits = torch.full((classes,), -20.0)
    logits[int(target.double().mean().round())] = 0.0
    return logits


def ordinal(classes: tuple[str, ...], monitor: str, mode: str, targets: Any = None) -> Task:
    n = len(classes)

    def metrics() -> Any:
        # imported here, since predicting needs no metrics
        from torchmetrics import MetricCollection

        from src.tasks.metrics import Mean, Whole

        found = {
            "qwk": Whole(kappa),
            "mae": Mean(distance),
            "acc": Mean(right),
            "nll": Mean(nll),
        }
        return MetricCollection(found, compute_groups=False)

    def decode(logits: torch.Tensor) -> list[dict[str, Any]]:
        means = levels.expected(logits.float().softmax(1)).tolist()
        rows = zip(level(logits).tolist(), means, probabilities(logits, classes), strict=True)
        return [{"prediction": classes[i], "expected": mean, **chances} for i, mean, chances in rows]

    return Task(
        outputs=n,
        target="class",
        monitor=monitor,
        mode=mode,
        metrics=metrics,
        decode=decode,
        scores={"val/mae": distance, "val/acc": right, "val/nll": nll}.get(monitor),
        score=kappa if monitor == "val/qwk" else None,
        skill=kappa,
        constant=partial(constant, classes=n),
        geometric=True,
        ordered=True,
        solve=partial(solve, classes=n, uniform=False),
        close=partial(close, classes=n, uniform=False),
        weigh=weigh,
        mix=partial(mix, uniform=False),
        doubts=partial(doubts, classes=classes),
        figure=confusion,
    )
