"""Metrics that torchmetrics lacks, or gets wrong where a class has no image or a batch's logits all lie in 0..1."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from src.stats import ece


class Mean(Metric):
    """The mean over all images of score(logits (B, C), target (B,)) -> (B,); exact on any number of ranks."""

    full_state_update = False
    total: torch.Tensor
    count: torch.Tensor

    def __init__(self, score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]):
        super().__init__()
        self.score = score
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: torch.Tensor, target: torch.Tensor) -> None:
        self.total += self.score(logits, target).float().sum()  # an mps device has no float64
        self.count += len(target)

    def compute(self) -> torch.Tensor:
        return self.total / self.count


class BalancedAccuracy(Metric):
    """The mean, over the classes that occur in the target, of the part of their images that is right. torchmetrics'
    macro average counts a class without images as 0 as soon as one image is taken for it."""

    full_state_update = False
    right: torch.Tensor
    seen: torch.Tensor

    def __init__(self, classes: int):
        super().__init__()
        self.add_state("right", torch.zeros(classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("seen", torch.zeros(classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: torch.Tensor, target: torch.Tensor) -> None:
        n = len(self.seen)
        self.right += torch.bincount(target[logits.argmax(1) == target], minlength=n)
        self.seen += torch.bincount(target, minlength=n)

    def compute(self) -> torch.Tensor:
        return (self.right / self.seen)[self.seen > 0].mean()


class AUROC(Metric):
    """One class against the rest, the mean over the classes that occur: the chance that an image of the class gets a
    higher probability than another (Hanley & McNeil 1982). Counts in `bins` of the log-odds, which confident and
    unconfident networks use alike (200 equal bins of p are off by 0.04 and more for both); one bin is a tie."""

    full_state_update = False
    counts: torch.Tensor
    bins = 2048

    def __init__(self, classes: int):
        super().__init__()
        self.add_state("counts", torch.zeros(2, classes, self.bins, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: torch.Tensor, target: torch.Tensor) -> None:
        classes = torch.arange(logits.shape[1], device=logits.device)
        log_p = logits.double().log_softmax(1)
        odds = (log_p - (-log_p.expm1()).log()).asinh() / 5  # asinh(74) = 5: finer where most images are
        place = ((odds.nan_to_num().clamp(-1, 1) + 1) / 2 * (self.bins - 1)).round().long()
        own = (target[:, None] == classes).long()
        index = (own * len(classes) + classes) * self.bins + place
        self.counts += torch.bincount(index.flatten(), minlength=self.counts.numel()).view_as(self.counts)

    def compute(self) -> torch.Tensor:
        others, own = self.counts.double()
        below = others.cumsum(1) - others / 2
        pairs = others.sum(1) * own.sum(1)
        return ((own * below).sum(1) / pairs)[pairs > 0].mean().float()


class Total(Metric):
    """score(counts (1, C, C)) -> scalar, of the counts of all images together."""

    full_state_update = False
    counts: torch.Tensor

    def __init__(self, classes: int, score: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.score = score
        self.add_state("counts", torch.zeros(classes, classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, counts: torch.Tensor, target: torch.Tensor) -> None:
        self.counts += counts.sum(0).long()

    def compute(self) -> torch.Tensor:
        return self.score(self.counts[None]).to(self.device, torch.float32)


class Whole(Metric):
    """score(logits (N, …), target (N, …)) -> scalar of all images at once: what is no mean over them."""

    full_state_update = False
    takes_nothing = True  # and must, where a rank has no image: ranks exchange their lists, which may not be missing
    logits: list[torch.Tensor]
    target: list[torch.Tensor]

    def __init__(self, score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]):
        super().__init__()
        self.score = score
        self.add_state("logits", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def update(self, logits: torch.Tensor, target: torch.Tensor) -> None:
        self.logits.append(logits)
        self.target.append(target)

    def compute(self) -> torch.Tensor:
        return self.score(dim_zero_cat(self.logits), dim_zero_cat(self.target)).to(self.device, torch.float32)


class ECE(Whole):
    """Of logits (N, C) and a class each."""

    def __init__(self):
        super().__init__(ece)

    def update(self, logits: torch.Tensor, target: torch.Tensor) -> None:
        confidence, said = logits.softmax(1).max(1)
        super().update(confidence, said == target)
