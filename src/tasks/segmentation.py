"""The class of each pixel: the mean intersection over union of the whole split chooses the checkpoint."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from src.contracts import Task
from src.tasks.heads import solve


def overlaps(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, C, C) truth by answer -> (hit, answered, there), pixels of each class (C,) of all images together."""
    total = counts.double().sum(0)
    return total.diagonal(), total.sum(0), total.sum(1)


def miou(counts: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
    """The mean over the classes that are there, or answered, of intersection over union (Jaccard 1901)."""
    hit, answered, there = overlaps(counts)
    union = answered + there - hit
    return (hit / union)[union > 0].mean()


def dice(counts: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
    """The mean over the same classes of 2 x intersection over both (Dice 1945)."""
    hit, answered, there = overlaps(counts)
    both = answered + there
    return (2 * hit / both)[both > 0].mean()


def accuracy(counts: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
    hit, _, there = overlaps(counts)
    return hit.sum() / there.sum()


def segmentation(classes: tuple[str, ...], monitor: str, mode: str, targets: Any = None) -> Task:
    def metrics() -> Any:
        # imported here, since predicting needs no metrics
        from torchmetrics import MetricCollection

        from src.tasks.metrics import Total

        scores: dict[str, Any] = {"miou": miou, "dice": dice, "pixel_acc": accuracy}
        scores |= {f"iou/{name}": partial(_iou, i=i) for i, name in enumerate(classes)}
        found = {name: Total(len(classes), score) for name, score in scores.items()}
        return MetricCollection(found, compute_groups=False)

    def constant(counts: torch.Tensor) -> torch.Tensor:
        """Of an image's pixels by class (C,), all taken for the most frequent class."""
        found = torch.zeros(len(classes), len(classes))
        found[:, int(counts.argmax())] = counts
        return found

    return Task(
        outputs=len(classes),
        target="mask",
        monitor=monitor,
        mode=mode,
        metrics=metrics,
        decode=lambda counts: [{"iou": float(miou(one[None]))} for one in counts],
        score={"val/miou": miou, "val/dice": dice, "val/pixel_acc": accuracy}.get(monitor),
        skill=miou,
        constant=constant,
        dense=True,
        solve=partial(solve, classes=len(classes), uniform=False),  # on pixels
    )


def _iou(counts: torch.Tensor, i: int) -> torch.Tensor:
    hit, answered, there = overlaps(counts)
    return hit[i] / (answered[i] + there[i] - hit[i])
