"""BatchNorm whose statistics stand still, as part of the convolution before it: the same numbers, one look less at each
map, and nothing of it kept for the backward pass."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import nn


def fold(net: Any, image: torch.Tensor) -> int:
    """Each convolution that feeds a BatchNorm, and nothing else, takes its scale and shift along while that is in eval
    mode (with frozen statistics it always is), by weights that are made anew in every pass: parameters, state and
    gradients stay what and where they are. In training mode all is as it was. image: one, normalised, to look with.
    -> how many they are. What it saves is measured by benchmarks/folded.py."""
    pairs = _pairs(net, image)
    for conv, norm in pairs:
        conv.forward, norm.forward = partial(_convolved, conv, norm), partial(_rest, norm)
    return len(pairs)


def unfold(net: nn.Module) -> None:
    """All as it was: for what replaces modules, or reads the graph."""
    for module in net.modules():
        if getattr(module.__dict__.get("forward"), "func", None) in (_convolved, _rest):
            del module.forward


def _convolved(conv: nn.Conv2d, norm: Any, x: torch.Tensor) -> torch.Tensor:
    if norm.training:
        return conv._conv_forward(x, conv.weight, conv.bias)
    scale = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
    shift = (0 if norm.bias is None else norm.bias) - norm.running_mean * scale
    shift = shift if conv.bias is None else shift + conv.bias * scale
    return conv._conv_forward(x, conv.weight * scale[:, None, None, None], shift)


def _rest(norm: Any, x: torch.Tensor) -> torch.Tensor:
    """What is left of it behind such a convolution: the activation that timm's has within."""
    if norm.training:
        return type(norm).forward(norm, x)
    for part in ("drop", "act") if isinstance(norm, BatchNormAct2d) else ():
        x = getattr(norm, part)(x)
    return x


def _pairs(net: Any, image: torch.Tensor) -> list[tuple[nn.Conv2d, Any]]:
    """By what autograd has seen of one pass to the end, and of one that shows the stages."""
    norms = [m for m in net.modules() if type(m) in (nn.BatchNorm2d, BatchNormAct2d) and m.track_running_stats]
    if not norms:
        return []
    training = {module: module.training for module in net.modules()}
    try:
        net.eval()
        passes = [net, *([net.forward_intermediates] if hasattr(net, "forward_intermediates") else [])]
        seen = [_seen(net, norms, one, image) for one in passes]
    finally:
        for module, was in training.items():
            module.training = was
    return [(conv, norm) for norm, conv in seen[0].items() if all(other.get(norm) is conv for other in seen)]


def _seen(net: Any, norms: list[Any], forward: Any, image: torch.Tensor) -> dict[Any, nn.Conv2d]:
    """BatchNorm -> the convolution that feeds it and nothing else; each of both is called once."""
    made: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}  # the tensors are kept, so that no other has their id
    read: dict[Any, int] = {}
    called: Counter[Any] = Counter()

    def put_out(conv: Any, given: Any, out: torch.Tensor) -> None:
        called[conv] += 1
        made[id(out)] = conv, out

    def took(norm: Any, given: tuple[torch.Tensor, ...]) -> None:
        called[norm] += 1
        read[norm] = id(given[0])

    handles = [m.register_forward_hook(put_out) for m in net.modules() if type(m) is nn.Conv2d]
    handles += [norm.register_forward_pre_hook(took) for norm in norms]
    try:
        with torch.enable_grad():
            found = forward(image.detach().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    ends = list(_tensors(found))
    shown, used = {id(end) for end in ends}, _used(ends)
    return {
        norm: made[at][0]
        for norm, at in read.items()
        if at in made and at not in shown and used[made[at][1].grad_fn] == called[norm] == called[made[at][0]] == 1
    }


def _tensors(found: Any) -> Any:
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, tuple | list):
        for part in found:
            yield from _tensors(part)


def _used(ends: list[torch.Tensor]) -> Counter[Any]:
    """How often what each node of the graph puts out is taken by another."""
    left, known, used = [end.grad_fn for end in ends], set(), Counter()
    while left:
        node = left.pop()
        if node is None or node in known:
            continue
        known.add(node)
        before = [other for other, _ in node.next_functions]
        used.update(before)
        left += before
    return used
