"""One class per image: accuracy chooses the checkpoint."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy, one_hot

from src.contracts import Task
from src.tasks.figures import confusion
from src.tasks.heads import close, mix, solve, weigh
from src.tasks.noise import noise


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


def constant(target: torch.Tensor, classes: int) -> torch.Tensor:
    """The log of how frequent the classes are."""
    return (torch.bincount(target, minlength=classes).clamp(min=0.5) / len(target)).log()


def probabilities(logits: torch.Tensor, classes: tuple[str, ...]) -> list[dict[str, float]]:
    return [{f"prob/{c}": v for c, v in zip(classes, row, strict=True)} for row in logits.float().softmax(1).tolist()]


def doubts(
    logits: torch.Tensor, target: torch.Tensor, classes: tuple[str, ...], also: torch.Tensor | None = None
) -> list[tuple[int, dict[str, Any]]]:
    """Another class is more likely than the images of that class are on average (confident learning, Northcutt et al.
    2021, eq. 1). also (N,): where others are to be listed, too. The only image of a class is contradicted by nothing:
    no other image could have spoken for it."""
    p = logits.float().softmax(1)
    own = p[torch.arange(len(p)), target]
    sure = torch.stack(
        [p[target == c, c].mean() if (target == c).any() else torch.tensor(2.0) for c in range(p.shape[1])]
    )
    above = torch.where(p >= sure, p, 0.0)
    other = above.argmax(1)
    listed = (above.max(1).values > 0) & (other != target) & (torch.bincount(target)[target] > 1)
    if also is not None:
        other = torch.where(listed, other, p.scatter(1, target[:, None], -1.0).argmax(1))
        listed = listed | also
    found = torch.nonzero(listed)[:, 0]
    rows = []
    for i in sorted(found.tolist(), key=lambda i: float(own[i] - p[i, other[i]])):
        rather, chance = classes[int(other[i])], f"{p[i, other[i]]:.4f}"
        rows.append((i, {"rather": rather, "probability/label": f"{own[i]:.4f}", "probability/rather": chance}))
    return rows


def multiclass(classes: tuple[str, ...], monitor: str, mode: str, targets: Any = None) -> Task:
    n = len(classes)

    def metrics() -> Any:
        # imported here, since predicting needs no metrics
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

        from src.tasks.metrics import AUROC, ECE, BalancedAccuracy, Mean

        # logits go in, so nothing here may be rounded first
        return MetricCollection(
            {
                "acc": MulticlassAccuracy(n, average="micro", validate_args=False),
                "balanced_acc": BalancedAccuracy(n),
                "f1_macro": MulticlassF1Score(n, average="macro", validate_args=False),
                "auroc": AUROC(n),
                "ece": ECE(),
                "nll": Mean(nll),
                "brier": Mean(brier),
            },
            compute_groups=False,
        )

    def decode(logits: torch.Tensor) -> list[dict[str, Any]]:
        best = logits.argmax(1).tolist()
        rows = zip(best, probabilities(logits, classes), strict=True)
        return [{"prediction": classes[i], **row} for i, row in rows]

    scores = {"val/acc": right, "val/balanced_acc": balanced, "val/nll": nll, "val/brier": brier}.get(monitor)
    good = balanced if monitor == "val/balanced_acc" else right
    heads = {"classes": n, "uniform": monitor == "val/balanced_acc"}
    return Task(
        outputs=n,
        target="class",
        monitor=monitor,
        mode=mode,
        metrics=metrics,
        decode=decode,
        scores=scores,
        skill=lambda logits, target: good(logits, target).mean(),
        constant=partial(constant, classes=n),
        by_class=monitor == "val/balanced_acc",
        solve=partial(solve, **heads),
        close=partial(close, **heads),
        weigh=weigh,
        mix=partial(mix, uniform=heads["uniform"]),
        doubts=partial(doubts, classes=classes),
        noise=None if heads["uniform"] else noise,  # the others always contradict a rare class
        figure=confusion,
    )
