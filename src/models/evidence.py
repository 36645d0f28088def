"""Where in an image the evidence for what a network says of it lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import interpolate, pad

from src.models.stages import read, reading

AT_ONCE = 4  # images: the attention of all heads and layers is kept, with its gradients


def evidence(network: Any, image: torch.Tensor, towards: torch.Tensor, signed: bool = False) -> torch.Tensor | None:
    """(B, C, H, W), a direction in the outputs (B, outputs) of each -> (B, H, W) in 0..1, 1 where most moves the answer
    that way; signed: in -1..1, below 0 where it is moved the other way. None where the architecture does not show what
    it sees. In eval mode. What a score of the outputs rests on is found by its gradient in them as the direction: of
    one output 1 there, of a class rather than the others 1 and less for these, of a cosine the other embedding.

    A head reads maps, pooled: the last one, or those of all stages. Gradient x map, summed over channels, is what each
    place adds to the output (HiResCAM, Draelos & Carin 2020, arXiv:2011.08891; of a linear head on mean-pooled maps it
    is Grad-CAM, of two such embeddings the parts of their similarity, Stylianou et al. 2019, arXiv:1901.00536), and
    those of several maps add up. Where a class token is read, what it attended to is followed through the layers
    (gradient-weighted attention rollout, Chefer et al. 2021, arXiv:2103.15679, eqs. 5 and 6).
    """
    if reading(network.backbone) is None:
        return None
    parts = zip(image.split(AT_ONCE), towards.to(image.device).split(AT_ONCE), strict=True)
    found = torch.cat([_both(network, some, there, signed) for some, there in parts]).detach().float()
    found = found if signed else found.clamp(min=0)
    return found / found.abs().amax((1, 2), keepdim=True).clamp(min=1e-12)


def _both(network: Any, image: torch.Tensor, towards: torch.Tensor, signed: bool) -> torch.Tensor:
    """Of the image, and of its mirror image where the network answers by the mean of both; by all backbones."""
    nets = [network.backbone, *([network.frozen] if network.frozen else [])]
    found = torch.stack([_of(network, net, image, towards, signed) for net in nets]).sum(0)
    if not network.mirror:
        return found
    return found + torch.stack([_of(network, net, image.flip(3), towards, signed) for net in nets]).sum(0).flip(2)


def _of(network: Any, net: Any, image: torch.Tensor, towards: torch.Tensor, signed: bool) -> torch.Tensor:
    x, options = network._normalised(image), reading(net)
    assert options is not None

    def score(last: torch.Tensor, between: list[Any]) -> torch.Tensor:
        first, pooled = read(net, last, between)
        seen = torch.cat([first, pooled.to(first.dtype)], 1) if network.stages else first
        if network.frozen:  # the head reads this backbone's part beside the other one's
            seen = pad(seen, (seen.shape[1], 0) if net is network.frozen else (0, seen.shape[1]))
        return (network.head(seen) * towards).sum()

    prefix = getattr(net, "num_prefix_tokens", 0)
    with torch.enable_grad(), _attention(net) as seen:
        last, between = net.forward_intermediates(x.requires_grad_(), **options)
        grid = (between[-1][0] if isinstance(between[-1], tuple) else between[-1]).shape[-2:]
        if prefix and seen and all(a.shape[-1] == last.shape[1] for a in seen):
            direct = [part for stage in between for part in stage] if network.stages else []
            slopes = torch.autograd.grad(score(last, between), [last, *direct, *seen], allow_unused=True)
            found = _followed([last, *direct], seen, slopes, options.get("indices"))
            if signed:  # it is only followed upwards: what moves the answer down is what moves its opposite up
                down = [None if slope is None else -slope for slope in slopes]
                found = found - _followed([last, *direct], seen, down, options.get("indices"))
            return interpolate(found[:, prefix:].unflatten(1, grid)[:, None], image.shape[-2:], mode="bilinear")[:, 0]
        last = last.detach().requires_grad_()
        between = [_leaf(stage) for stage in between]
        maps = [last, *([s[0] if isinstance(s, tuple) else s for s in between] if network.stages else [])]
        slopes = torch.autograd.grad(score(last, between), maps)
    adds = [part * slope for part, slope in zip(maps, slopes, strict=True)]
    adds[0] = _channels_first(net, adds[0], prefix, grid)
    return torch.stack([_spread(part.sum(1, keepdim=True).float(), image.shape[-2:]) for part in adds]).sum(0)


def _followed(
    parts: list[torch.Tensor],
    seen: list[torch.Tensor],
    slopes: Sequence[torch.Tensor | None],
    indices: list[int] | None,
) -> torch.Tensor:
    """(B, N): how much each token of the first layer brings to what is read: the tokens behind the last layer, then of
    each stage, at the layers `indices` (None: at all), its grid and the tokens before it."""
    adds = [part * (0 if slope is None else slope) for part, slope in zip(parts, slopes, strict=False)]
    stages = [
        torch.cat([prefix.sum(2), grid.sum(1).flatten(1)], 1)
        for grid, prefix in zip(adds[1::2], adds[2::2], strict=True)
    ]
    at = dict(zip(range(len(seen)) if indices is None else indices, stages, strict=False))
    brings = adds[0].sum(2).float().clamp(min=0)
    for layer, (attention, slope) in reversed(list(enumerate(zip(seen, slopes[len(parts) :], strict=True)))):
        brings = brings + at[layer].float().clamp(min=0) if layer in at else brings
        if slope is not None:
            brings = brings + torch.einsum("bn,bnm->bm", brings, (attention * slope).clamp(min=0).mean(1).float())
    return brings


@contextmanager
def _attention(net: Any) -> Iterator[list[torch.Tensor]]:
    """Collects the attention (B, heads, N, N) of each layer, which fused kernels would not show."""
    seen: list[torch.Tensor] = []
    layers = [m for m in net.modules() if hasattr(m, "attn_drop") and hasattr(m, "fused_attn")]
    fused = [layer.fused_attn for layer in layers]
    handles = [layer.attn_drop.register_forward_hook(lambda module, given, out: seen.append(out)) for layer in layers]
    for layer in layers:
        layer.fused_attn = False
    try:
        yield seen
    finally:
        for layer, was, handle in zip(layers, fused, handles, strict=True):
            layer.fused_attn = was
            handle.remove()


def _leaf(stage: Any) -> Any:
    return tuple(map(_leaf, stage)) if isinstance(stage, tuple) else stage.detach().requires_grad_()


def _channels_first(net: Any, adds: torch.Tensor, prefix: int, grid: torch.Size) -> torch.Tensor:
    if adds.ndim == 3:
        return adds[:, prefix:].unflatten(1, grid).permute(0, 3, 1, 2)
    return adds.permute(0, 3, 1, 2) if getattr(net, "output_fmt", "NCHW") == "NHWC" else adds


def _spread(adds: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """(B, 1, h, w) -> (B, *size) with the same sum, so that coarse maps count as much as fine ones."""
    share = adds.shape[-2] * adds.shape[-1] / (size[0] * size[1])
    return interpolate(adds, size, mode="bilinear")[:, 0] * share
