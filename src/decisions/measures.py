"""What tells whether probabilities, sets and scores are right, on images with labels."""

from __future__ import annotations

import torch

BINS = 15  # of equal width, as Guo et al. 2017


def ece(confidence: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(N,) each: expected calibration error, the mean gap between them over bins of the confidence."""
    place = (confidence.double() * BINS).ceil().long().clamp(1, BINS) - 1
    gap = torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, right.double() - confidence.double())
    return gap.abs().sum() / len(confidence)


def ece_of_labels(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(N, C) each: of each label's probability, the mean over the labels."""
    p = logits.float().sigmoid()
    return torch.stack([ece(p[:, c], target[:, c]) for c in range(p.shape[1])]).mean()


def aurc(confidence: torch.Tensor, wrong: torch.Tensor) -> torch.Tensor:
    """Area under the risk-coverage curve: the error rate among the surest images, over all shares of them (Geifman et
    al. 2019)."""
    return risk_coverage(confidence, wrong).mean()


def risk_coverage(confidence: torch.Tensor, wrong: torch.Tensor) -> torch.Tensor:
    """(N,): the error rate among the 1, 2, … surest images."""
    order = confidence.argsort(descending=True, stable=True)
    return wrong[order].double().cumsum(0) / torch.arange(1, len(wrong) + 1)
