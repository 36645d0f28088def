"""BatchNorm statistics for weights that were never trained as they are: averages, interpolations."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def reestimate(
    network: torch.nn.Module,
    batches: Iterable[dict[str, torch.Tensor]],
    frozen: bool = True,
    within: torch.nn.Module | None = None,
) -> None:
    """Sets the statistics of every BatchNorm to their mean over these batches (Izmailov et al. 2018, section 3.2);
    everything else is in eval mode meanwhile, which torch.optim.swa_utils.update_bn does not do. Batches of one image,
    whose variance would be 0 or NaN, are left out; what has then seen none keeps its statistics.

    frozen: also of those BatchNorms whose own weights do not learn; within: only of those in this part of the network.
    """
    among = (network if within is None else within).modules()
    norms = [m for m in among if isinstance(m, _BatchNorm) and m.track_running_stats]
    norms = [m for m in norms if frozen or not (m.affine and not m.weight.requires_grad and not m.bias.requires_grad)]
    if not norms:
        return
    training = {m: m.training for m in network.modules()}
    momentum = [m.momentum for m in norms]
    before = [{k: v.clone() for k, v in m.named_buffers(recurse=False)} for m in norms]
    network.eval()
    for norm in norms:
        norm.training = True  # not .train(): timm's have activation and dropout within
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean
    device = next(network.parameters()).device
    try:
        for batch in batches:
            if len(batch["image"]) > 1:
                network(batch["image"].to(device))
    finally:
        for module, was in training.items():
            module.training = was
        for norm, was, old in zip(norms, momentum, before, strict=True):
            norm.momentum = was
            if not norm.num_batches_tracked:
                for name, value in norm.named_buffers(recurse=False):
                    value.copy_(old[name])
