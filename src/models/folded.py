"""BatchNorm whose statistics stand still, as part of the convolution before it: the same numbers, one look less at each
map, and nothing of it kept for the backward pass."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import nn

NORM, FOLDED = "norm_behind", "folded"  # beside the modules of each, so that nothing is registered twice
LIGHT = 8  # a convolution's weights for each value that it puts out of one image, at the most: where they are more, to
# make them anew in each pass costs more than it saves


class _Conv2d(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = self.__dict__.get(NORM)
        if norm is None or norm.training:
            return super().forward(x)
        scale = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
        shift = (0 if norm.bias is None else norm.bias) - norm.running_mean * scale
        shift = shift if self.bias is None else shift + self.bias * scale
        return self._conv_forward(x, self.weight * scale[:, None, None, None], shift)


class _BatchNorm2d(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if self.training or FOLDED not in self.__dict__ else x


class _BatchNormAct2d(BatchNormAct2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """timm's has an activation within, which is left."""
        if self.training or FOLDED not in self.__dict__:
            return super().forward(x)
        rest: Any = self
        return rest.act(rest.drop(x))


KINDS = {nn.Conv2d: _Conv2d, nn.BatchNorm2d: _BatchNorm2d, BatchNormAct2d: _BatchNormAct2d}
CONVS, NORMS = (nn.Conv2d, _Conv2d), (nn.BatchNorm2d, _BatchNorm2d, BatchNormAct2d, _BatchNormAct2d)


def fold(net: Any, image: torch.Tensor) -> int:
    """Each convolution that feeds a BatchNorm, and nothing else, takes its scale and shift along while that is in eval
    mode (with frozen statistics it always is), by weights that are made anew in every pass: parameters, state and
    gradients stay what and where they are. In training mode all is as it was. image: one, normalised, to look with.
    -> how many they are. What it saves is measured by benchmarks/folded.py."""
    pairs = _pairs(net, image)
    for conv, norm in pairs:
        for module in (conv, norm):
            module.__class__ = KINDS.get(type(module), type(module))
        conv.__dict__[NORM], norm.__dict__[FOLDED] = norm, True
    return len(pairs)


def unfold(net: nn.Module) -> None:
    """All as it was: for what replaces modules, divides them, or reads the graph."""
    for module in net.modules():
        for word in (NORM, FOLDED):
            module.__dict__.pop(word, None)


def _pairs(net: Any, image: torch.Tensor) -> list[tuple[nn.Conv2d, Any]]:
    """By what autograd has seen of one pass to the end, and of one that shows the stages."""
    norms = [m for m in net.modules() if type(m) in NORMS and m.track_running_stats]
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
    made: dict[int, tuple[nn.Conv2d, torch.Tensor, int]] = {}  # the tensors are kept, so that no other has their id
    read: dict[Any, int] = {}
    called: Counter[Any] = Counter()

    def put_out(conv: Any, given: Any, out: torch.Tensor) -> None:
        called[conv] += 1
        if conv.weight.numel() <= LIGHT * out.numel():
            made[id(out)] = conv, out, out._version

    def took(norm: Any, given: tuple[torch.Tensor, ...]) -> None:
        called[norm] += 1
        if made.get(id(given[0]), (0, 0, 0))[2] == given[0]._version:  # nothing has been done to it in place
            read[norm] = id(given[0])

    handles = [m.register_forward_hook(put_out) for m in net.modules() if type(m) in CONVS]
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
