"""How the last maps of a network become its features: timm's own ways, by model.pool, and GeM, which it lacks."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import SelectAdaptivePool2d
from torch import nn

from src.contracts import ConfigError, InputSpec

P, LEAST = 3.0, 1e-6


class GeM(nn.Module):
    """Generalised mean (Radenović et al. 2018, eq. 3) with its p = 3, which is not learnt here: a file of weights would
    lack it. Values below 0, which only networks without a ReLU before the pooling have, count as 0."""

    def __init__(self, mean: nn.Module):
        super().__init__()
        self.mean = mean

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mean(x.float().clamp(min=LEAST).pow(P)).pow(1 / P).to(x.dtype)


def pooled(net: Any, pool: str, spec: InputSpec, name: str) -> int:
    """Makes the headless `net` pool so, and returns how many features there are. Refuses a network that cannot, or in
    which nothing changes: by trying, since timm's networks differ in what they do with the word."""
    draw = torch.Generator().manual_seed(0)
    image, training = torch.randn(2, spec.channels, *spec.size, generator=draw), net.training
    net.eval()
    with torch.no_grad():
        before = net(image)
        try:
            net.reset_classifier(0, "avg" if pool == "gem" else pool)
            if pool == "gem":
                _generalise(net)
            after = net(image)
            good = after.ndim == 2 and bool(after.isfinite().all())
            reason = "" if good else f"it answers with {tuple(after.shape)}"
        except (AssertionError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            after, reason = (
                before,
                str(error).strip().splitlines()[0][:160].rstrip(".") if str(error) else type(error).__name__,
            )
    net.train(training)
    if not reason and pool != "avg" and after.shape == before.shape and torch.equal(after, before):
        reason = f"nothing changes at {spec.size[0]} px: its last map has one position there, or it pools otherwise"
    if reason:
        raise ConfigError(
            f"model.pool={pool}: {name} cannot pool so: {reason}.\n"
            "Set model.pool=default, another of avg, max, catavgmax, gem, or another model.name."
        )
    return after.shape[1]


def _generalise(net: nn.Module) -> None:
    places = [name for name, module in net.named_modules() if isinstance(module, SelectAdaptivePool2d)]
    if len(places) != 1:
        raise ValueError(f"it has {len(places) or 'no'} pooling of maps, and GeM would replace one")
    parent, _, own = places[0].rpartition(".")
    setattr(net.get_submodule(parent), own, GeM(net.get_submodule(places[0])))
