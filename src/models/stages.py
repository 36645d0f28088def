"""What a network sees on its way: the features of all its stages, pooled, beside those that its head reads."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

# Blocks of one width (transformers, mixers) are no stages; of those, this many are read, at equal distances.
READ = 4


def stages(net: Any) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None:
    """-> normalised images (B, C, H, W) -> (what the head reads (B, features), all stages pooled (B, widths)).

    A stage is pooled to the mean and the standard deviation over its positions, and its class token where it has one:
    early stages know textures and colours that the last one has forgotten (Head2Toe, Evci et al. 2022). None where
    timm cannot give the stages of this architecture.
    """
    options = reading(net)
    if options is None:
        return None

    def see(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return read(net, *net.forward_intermediates(image, **options))

    return see


def seen_by(net: Any, see: Any, image: torch.Tensor) -> torch.Tensor:
    """(B, features + widths): both, of normalised images; what the head reads alone where there is no `see`."""
    if see is None:
        return net(image)
    last, pooled = see(image)
    return torch.cat([last, pooled.to(last.dtype)], 1)


def reading(net: Any) -> dict[str, Any] | None:
    """What `forward_intermediates` is asked for, to give what `read` takes; None where it cannot be."""
    if not hasattr(net, "forward_intermediates") or not hasattr(net, "forward_head"):
        return None
    options: dict[str, Any] = {}
    count = len(getattr(net, "feature_info", None) or ())
    if count > 6:
        options["indices"] = [count * (i + 1) // READ - 1 for i in range(READ)]
    tokens = "return_prefix_tokens" in inspect.signature(net.forward_intermediates).parameters
    if tokens and getattr(net, "num_prefix_tokens", 0):
        options["return_prefix_tokens"] = True
    return options


def read(net: Any, last: torch.Tensor, between: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The last map and those of the stages -> (what the head reads, all stages pooled)."""
    return net.forward_head(last, pre_logits=True), torch.cat([_pooled(stage) for stage in between], 1)


def stage_of(net: Any) -> dict[str, int]:
    """Parameter name -> the stage that it is registered in, or before: the stem is in stage 0, what follows the last
    stage in that one. Of blocks of one width each READ-th part is a stage. {} where timm names no stages."""
    ends = [info["module"] for info in getattr(net, "feature_info", None) or ()]
    if len(ends) > 6:
        ends = [ends[len(ends) * (i + 1) // READ - 1] for i in range(READ)]
    order = {name: i for i, (name, _) in enumerate(net.named_modules())}
    if not ends or not set(ends) <= set(order):
        return {}
    last = [max(i for name, i in order.items() if f"{name}.".startswith(f"{end}.")) for end in ends]
    place = {name: order[name.rpartition(".")[0]] for name, _ in net.named_parameters()}
    found = {name: min(sum(end < i for end in last), len(ends) - 1) for name, i in place.items()}
    filled = {stage: i for i, stage in enumerate(sorted(set(found.values())))}  # one may have no parameters
    return {name: filled[stage] for name, stage in found.items()}


def maps(net: Any) -> Callable[[torch.Tensor], list[torch.Tensor]] | None:
    """-> normalised images -> the maps of its stages, fine ones first; of blocks of one width the last of each READ-th
    part. None where timm cannot give them."""
    if not hasattr(net, "forward_intermediates"):
        return None
    count = len(getattr(net, "feature_info", None) or ())
    options = {"indices": [count * (i + 1) // READ - 1 for i in range(READ)]} if count > 6 else {}

    def see(image: torch.Tensor) -> list[torch.Tensor]:
        return list(net.forward_intermediates(image, intermediates_only=True, **options))

    return see


def _pooled(stage: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    grid, prefix = stage if isinstance(stage, tuple) else (stage, None)
    positions = grid.flatten(2).float()
    parts = [positions.mean(2), positions.std(2, correction=0)]
    return torch.cat(parts if prefix is None else [prefix[:, 0].float(), *parts], 1)


def family(net: torch.nn.Module) -> str:
    """batchnorm | attention | other: what sets apart how networks are fine-tuned. A hybrid with attention trains as
    a transformer does."""
    kinds = {type(module).__name__ for module in net.modules()}
    if any("ttention" in kind and "Pool" not in kind for kind in kinds):  # CLIP's ResNets pool by attention alone
        return "attention"
    batch = any(isinstance(module, _BatchNorm) for module in net.modules())
    return "batchnorm" if batch else "other"
