"""The pinball loss: several quantiles of each number, so that an interval comes with the prediction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Quantile(nn.Module):
    """(found (B, K x T), batch with target (B, T)) -> the mean; `found` has the T numbers at the first level, then at
    the next. Of what is too low the part q counts, of what is too high 1 - q, and so the least loss is at the quantile
    q (Koenker & Bassett 1978, eq. 2.2)."""

    takes = "numbers"
    levels: torch.Tensor

    def __init__(self, quantiles: Sequence[float] = (0.05, 0.5, 0.95)):
        super().__init__()
        self.spread = tuple(quantiles)
        self.register_buffer("levels", torch.tensor(self.spread)[:, None], persistent=False)

    def forward(self, found: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        error = batch["target"][:, None] - found.float().unflatten(1, (len(self.spread), -1))
        return torch.maximum(self.levels * error, (self.levels - 1) * error).mean()
