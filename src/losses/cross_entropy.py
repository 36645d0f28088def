"""Cross-entropy with label smoothing and class weights: the default of classification."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from src.contracts import ConfigError
from src.losses.classes import of_target, smoothed

WEIGHTS = ("none", "inverse", "effective", "auto")
UNEVEN = 5  # times as many images of one class as of another, above which `auto` weighs


class CrossEntropy(nn.Module):
    """(logits (B, C), batch with target (B,) int, or (B, C) of mixed images) -> the mean over the batch.

    `label_smoothing` 0.1: about +0.3 points on ImageNet recipes, but it degrades selective classification.
    class_weights: how much an image of class c counts. inverse: 1 / n_c. effective: (1 - beta) / (1 - beta^n_c), the
    inverse of the effective number of its images (Cui et al. 2019, arXiv:1901.05555, eq. 2; beta None: 0.999). auto:
    effective where the largest class has more than five times the images of the smallest, else none. The mean weight of
    the training images is 1, and a batch is divided by its images, not by its weights: each image counts the same in
    any batch.
    """

    takes, soft = "class", True
    weight: torch.Tensor | None

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: str = "none",
        beta: float | None = None,
        counts: Sequence[int] = (),
        images: int = 0,
    ):
        super().__init__()
        if class_weights not in WEIGHTS:
            raise ConfigError(
                f"loss.class_weights={class_weights} is none of {', '.join(WEIGHTS)}.\nChoose one of them."
            )
        if beta is not None and class_weights in ("none", "inverse"):
            raise ConfigError(
                f"loss.beta={beta} loss.class_weights={class_weights}: only the weights `effective` have a beta.\n"
                "Leave it out, or set loss.class_weights=effective."
            )
        beta = 0.999 if beta is None else beta
        if not 0 <= beta < 1:
            raise ConfigError(f"loss.beta={beta} is outside 0 <= beta < 1.\nAt 0 all classes weigh the same.")
        self.label_smoothing, self.notes = label_smoothing, ()
        if class_weights == "auto":
            uneven = max(counts) / max(min(counts), 1)
            class_weights = "effective" if uneven > UNEVEN else "none"
            compared = "above" if uneven > UNEVEN else "not above"
            self.notes = (f"loss.class_weights=auto: {class_weights} (imbalance {uneven:.3g}, {compared} {UNEVEN})",)
        found = None
        if class_weights != "none":
            n = torch.tensor(counts, dtype=torch.float64).clamp(min=1)
            found = 1 / n if class_weights == "inverse" else (1 - beta) / (1 - beta**n)
            found = found * n.sum() / (n * found).sum()
            self.supposes = (n * found / n.sum()).float().log()
        self.register_buffer("weight", None if found is None else found.float(), persistent=False)

    def forward(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if self.weight is None:
            return cross_entropy(logits, batch["target"], label_smoothing=self.label_smoothing)
        each = self.weight * smoothed(logits.float().log_softmax(1), self.label_smoothing)
        return of_target(each, batch["target"]).mean()
