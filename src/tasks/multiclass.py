"""One class per image: accuracy chooses the checkpoint."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy, one_hot
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from src.contracts import Task
from src.tasks.heads import close, mix, solve, weigh
from src.tasks.metrics import AUROC, ECE, BalancedAccuracy, Mean


def right(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (logits.argmax(1) == target).float()


def balanced(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Each image weighs as much as its class is rare: the mean is the balanced accuracy."""
    count = torch.bincount(target, minlength=logits.shape[1])
    return right(logits, target) * len(target) / (count[target] * (count > 0).sum())


def nll(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits.float(), target, reduction="none")


def brier(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Brier 1950, summed over classes: 0 best, 2 worst."""
    return (logits.float().softmax(1) - one_hot(target, logits.shape[1])).square().sum(1)


def multiclass(classes: tuple[str, ...], monitor: str, mode: str) -> Task:
    n = len(classes)

    def metrics() -> MetricCollection:
        # logits go in, so nothing here may be rounded first; the calibration error uses 15 bins as Guo et al. 2017
        return MetricCollection(
            {
                "acc": MulticlassAccuracy(n, average="micro", validate_args=False),
                "balanced_acc": BalancedAccuracy(n),
                "f1_macro": MulticlassF1Score(n, average="macro", validate_args=False),
                "auroc": AUROC(n),
                "ece": ECE(n, n_bins=15, validate_args=False),
                "nll": Mean(nll),
                "brier": Mean(brier),
            },
            compute_groups=False,
        )

    def decode(logits: torch.Tensor) -> list[dict[str, Any]]:
        p = logits.float().softmax(1)
        rows = zip(p.argmax(1).tolist(), p.tolist(), strict=True)
        return [
            {"prediction": classes[best]} | {f"prob/{c}": v for c, v in zip(classes, row, strict=True)}
            for best, row in rows
        ]

    scores = {"val/acc": right, "val/balanced_acc": balanced, "val/nll": nll, "val/brier": brier}.get(monitor)
    heads = {"classes": n, "uniform": monitor == "val/balanced_acc"}
    return Task(
        outputs=n,
        monitor=monitor,
        mode=mode,
        metrics=metrics,
        scores=scores,
        decode=decode,
        by_class=monitor == "val/balanced_acc",
        solve=partial(solve, **heads),
        close=partial(close, **heads),
        weigh=weigh,
        mix=partial(mix, uniform=heads["uniform"]),
    )
