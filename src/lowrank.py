"""Low-rank updates beside weights that keep their names: attached to layers, and merged into plain state dicts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import nn

DOWN, UP, SCALE = "lora_down", "lora_up", "lora_scale"


def attach(layer: nn.Module, rank: int, alpha: float, key: int) -> None:
    """layer.weight (out, …) is from now on W + alpha / rank · B A (Hu et al. 2022, section 4.1), of which A (r, in) and
    B (out, r) are new parameters of the layer, beside a W that keeps its name. A convolution's `in` is its fan-in. No
    product needs more than min(out, in) of `rank`.

    B begins with zeros, so that nothing changes, and A as torch begins a linear layer, drawn from `key`. A layer that
    has its update already is left as it is. The weight itself is what changes, not the layer's output: so it also
    holds where a network reads the weight past the layer (fused attention, standardised convolutions).
    """
    if DOWN in dict(layer.named_parameters(recurse=False)):
        return
    weight = layer.get_parameter("weight").detach()
    out, fan_in = weight.flatten(1).shape
    most = min(rank, out, fan_in)
    draw = torch.empty(most, fan_in)
    nn.init.kaiming_uniform_(draw, a=5**0.5, generator=torch.Generator().manual_seed(key))
    layer.register_parameter(DOWN, nn.Parameter(draw.to(weight)))
    layer.register_parameter(UP, nn.Parameter(weight.new_zeros(out, most)))
    layer.register_buffer(SCALE, weight.new_tensor(alpha / rank))
    layer.__class__ = _with_update(type(layer))


@cache
def _with_update(kind: type[nn.Module]) -> type[nn.Module]:
    """The same layer, whose `weight` is read with its update. A property goes before the parameters of a module, which
    are only looked up where an attribute is missing."""

    def weight(self: nn.Module) -> torch.Tensor:
        own = self._parameters
        return updated(own["weight"], own[DOWN], own[UP], self._buffers[SCALE])

    return type(kind.__name__, (kind,), {"weight": property(weight), "__module__": kind.__module__})


def updated(
    weight: torch.Tensor | None, down: torch.Tensor | None, up: torch.Tensor | None, scale: torch.Tensor | None
) -> torch.Tensor:
    assert weight is not None and down is not None and up is not None and scale is not None
    with torch.autocast(weight.device.type, enabled=False):  # a small sum of large terms
        return weight + scale * (up @ down).view(weight.shape)


def merged(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of the plain network: updates are added to their weights, and gone. Others are as they were."""
    plain = dict(state)
    for name in [key.removesuffix(DOWN) for key in state if key.rpartition(".")[2] == DOWN]:
        down, up, scale = (plain.pop(name + part) for part in (DOWN, UP, SCALE))
        weight = plain[f"{name}weight"]
        plain[f"{name}weight"] = updated(weight, down.to(weight.device), up, scale).detach()
    return plain
