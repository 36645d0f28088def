"""Logit-adjusted cross-entropy and, at tau = 1, balanced softmax: rare classes are not crowded out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from src.contracts import ConfigError
from src.losses.classes import log_prior, of_target, smoothed


class LogitAdjusted(nn.Module):
    """(logits (B, C), batch with target (B,) int, or (B, C) of mixed images) -> the mean cross-entropy of
    logits + tau log pi, where pi is how frequent the classes are in training (Menon et al. 2021, arXiv:2007.07314,
    eq. 10). The logits themselves then suppose that all classes are equally frequent; at tau = 0 it is cross-entropy.
    """

    takes, soft = "class", True
    shift: torch.Tensor

    def __init__(self, tau: float = 1.0, label_smoothing: float = 0.0, counts: Sequence[int] = (), images: int = 0):
        super().__init__()
        if tau < 0:
            raise ConfigError(f"loss.tau={tau} is below 0, which would favour frequent classes.\nSet it to 0 … 2.")
        self.label_smoothing = label_smoothing
        prior = log_prior(counts)
        self.register_buffer("shift", tau * prior, persistent=False)
        if tau:
            self.supposes = ((1 - tau) * prior).log_softmax(0)

    def forward(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        log_p = (logits.float() + self.shift).log_softmax(1)
        return of_target(smoothed(log_p, self.label_smoothing), batch["target"]).mean()


class BalancedSoftmax(LogitAdjusted):
    """-log(n_y exp(z_y) / sum_j n_j exp(z_j)), the mean over the batch (Ren et al. 2020, arXiv:2007.10740, eq. 4)."""

    def __init__(self, label_smoothing: float = 0.0, counts: Sequence[int] = (), images: int = 0):
        super().__init__(1.0, label_smoothing, counts, images)
