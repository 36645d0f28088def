"""The sum of the losses of several heads, each over the images that have its label; weights given, or learnt."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from src.contracts import ConfigError, Part
from src.mixed_labels import known, nearest, own

BALANCES = ("fixed", "uncertainty")


class Multihead(nn.Module):
    """(logits (B, outputs), batch with target (B, outputs), NaN where unknown; see Part) -> the sum over the heads of
    weight × the mean loss of the images that have its label, without those heads of which this batch has none.

    losses: by name; a head has the one that its Part names, or the first that takes its target. balance: uncertainty
    makes each loss L into exp(-s) L + s / 2 and learns s, the log variance of its noise, from 0 on (Kendall et al.
    2018, eq. 10, where L is half a squared error, as huber's near 0, or a cross-entropy).
    """

    takes = "mixed"

    def __init__(
        self,
        losses: Mapping[str, Any],
        balance: str = "fixed",
        parts: Sequence[Part] = (),
        counts: Sequence[int] = (),
        images: int = 0,
    ):
        super().__init__()
        if balance not in BALANCES:
            raise ConfigError(f"loss.balance={balance}: is none of {', '.join(BALANCES)}. Choose one of them.")
        if not any(part.weight for part in parts):
            raise ConfigError("task.heads: every weight is 0, and nothing is learnt. Set one above 0.")
        self.parts = tuple(parts)
        self.each = nn.ModuleList([_loss(part, losses, counts) for part in parts])
        self.log_variance = nn.Parameter(torch.zeros(len(parts))) if balance == "uncertainty" else None

    def forward(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        target, total = batch["target"], logits.sum() * 0.0
        for i, (part, loss) in enumerate(zip(self.parts, self.each, strict=True)):
            rows = known(part, target)
            if not rows.any():
                continue
            value = loss(logits[rows][:, part.columns], {"target": own(part, target[rows])})
            if self.log_variance is not None:
                value = (-self.log_variance[i]).exp() * value + self.log_variance[i] / 2
            total = total + part.weight * value
        return total if self.log_variance is None else total + self.log_variance.sum() * 0.0


def _loss(part: Part, losses: Mapping[str, Any], counts: Sequence[int]) -> nn.Module:
    suited = [name for name, loss in losses.items() if _takes(loss) in (part.target, None)]
    name = part.loss or suited[0]
    if name not in losses:
        raise ConfigError(f"task.heads: {part.name}: no loss {name!r}. {nearest(name, suited)}")
    if name not in suited:
        raise ConfigError(
            f"task.heads: {part.name}: loss={name} cannot take the targets of {part.kind}: it is for "
            f"{_takes(losses[name])}, and they are {part.target}.\nFor them there is: {', '.join(suited)}."
        )
    loss = losses[name]
    if isinstance(loss, partial):
        return loss(counts=counts[part.columns], images=part.known)
    return copy.deepcopy(loss)


def _takes(loss: Any) -> str | None:
    return getattr(getattr(loss, "func", loss), "takes", None)
