"""BatchNorm statistics for weights that were never trained as they are: averages, interpolations."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def reestimate(network: torch.nn.Module, batches: Iterable[dict[str, torch.Tensor]]) -> None:
    """Sets the statistics of every BatchNorm to their mean over these batches (Izmailov et al. 2018, section 3.2);
    everything else is in eval mode meanwhile. Batches of one image, whose variance would be 0 or NaN, are left out."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    training, momentum = network.training, [m.momentum for m in norms]
    network.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean
    device = next(network.parameters()).device
    for batch in batches:
        if len(batch["image"]) > 1:
            network(batch["image"].to(device))
    for norm, was in zip(norms, momentum, strict=True):
        norm.momentum = was
    network.train(training)
