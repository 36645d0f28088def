"""Losses that know that levels are ordered: CORN, and cross-entropy with the expected level."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from src.losses.classes import of_target

Batch = dict[str, torch.Tensor]


class Corn(nn.Module):
    """(logits (B, K), batch with target (B,) int) -> the conditional ordinal loss (Shi et al. 2021, arXiv:2111.08851,
    eq. 6): for each level the chance to be above it, among those that reach it, each level counting the same. The
    paper's K - 1 logits are here the log-odds that a softmax over K implies, so that all else treats it as classes."""

    takes = "class"

    def forward(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        target = batch["target"][:, None]
        log_p = logits.float().log_softmax(1)
        reach = log_p.flip(1).logcumsumexp(1).flip(1)  # log P(level >= k)
        above, here = reach[:, 1:] - reach[:, :-1], log_p[:, :-1] - reach[:, :-1]
        level = torch.arange(logits.shape[1] - 1, device=logits.device)
        reached = (target >= level).float()
        said = torch.where(target > level, above, here)
        per_level = -(reached * said).sum(0) / reached.sum(0).clamp(min=1)
        return per_level.mean()


class ExpectedLevel(nn.Module):
    """(logits (B, K), batch with target (B,) int, or (B, K) of mixed images) -> cross-entropy plus `weight` times the
    squared distance of the expected level from the target, in units of the whole range."""

    takes, soft = "class", True

    def __init__(self, weight: float = 1.0, label_smoothing: float = 0.0):
        super().__init__()
        self.weight, self.label_smoothing = weight, label_smoothing

    def forward(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        levels = torch.linspace(0, 1, logits.shape[1], device=logits.device)
        away = (logits.float().softmax(1) @ levels)[:, None] - levels
        found = cross_entropy(logits, batch["target"], label_smoothing=self.label_smoothing)
        return found + self.weight * of_target(away.square(), batch["target"]).mean() * logits.shape[1]
