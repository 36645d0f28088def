"""Activation checkpointing: the backward pass computes the inner layers again, instead of keeping what they put out."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from src.contracts import ConfigError


def recomputed(net: Any, name: str) -> None:
    """As timm does it (Chen et al. 2016, arXiv:1604.06174), with dropout as it was. A BatchNorm that is computed again
    normalises as it did, but does not count the batch a second time, as it would in timm 1.0.31. Raises ConfigError
    where the architecture knows no such thing."""
    try:
        net.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"model.grad_checkpointing=true: {name} cannot compute its layers again: {error}.\n"
            "Leave it out; a smaller data.batch_size with trainer.effective_batch saves memory, too."
        ) from error
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(_hold)
            module.register_forward_hook(_release, always_call=True)  # also where the second pass stops half way


def _hold(norm: Any, _: Any) -> None:
    if norm.training and norm.track_running_stats and torch._C._current_graph_task_id() != -1:  # in a backward pass
        norm.held = norm.momentum, norm.num_batches_tracked.clone()
        norm.momentum = 0.0  # so that the statistics stay, while as much is kept as in the first pass


def _release(norm: Any, *_: Any) -> None:
    if held := norm.__dict__.pop("held", None):
        norm.momentum = held[0]
        norm.num_batches_tracked.copy_(held[1])
