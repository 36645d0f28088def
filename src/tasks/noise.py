"""Which labels are wrong, where every image has one class: by what held-out answers say of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from src.contracts import Head, Noise

MOST = 3e5  # images × classes that the share is fitted on
KEPT = 2  # images that a class keeps at least, whatever the others say of them


def noise(heads: Sequence[Head], target: torch.Tensor) -> Noise | None:
    """By the discriminants under which the labels (N,) are likeliest, given that some may be wrong: images that are
    only hard are unsure of their class, and a lower temperature explains them; an answer that is sure of another class
    is only explained by a wrong label. (So 12 % of clean clothes are contradicted, but less than 1 % is called wrong;
    of 40 % flipped ones, 39 to 42 %.) None without such heads, or where they say nothing: no image held out of a class
    of one is known to the others."""
    if (torch.bincount(target) < 2).all():
        return None
    found = [mixture(h.logits, target) for h in heads if h.logits is not None and h.name.startswith(("lda", "near"))]
    if not found or not all(math.isfinite(loss) for loss, *_ in found):
        return None
    _, blind, sure, p = min(found, key=lambda one: one[0])
    classes, own = p.shape[1], p.gather(1, target[:, None])[:, 0]
    right = own * (1 - blind + blind / classes)  # that the label is that of the image; else it is one of all by chance
    wrong = right < (1 - own) * blind / classes
    for images in (torch.nonzero(target == c)[:, 0] for c in target.unique().tolist()):
        wrong[images[own[images].topk(min(KEPT, len(images))).indices]] = False
    return Noise(share=blind * (classes - 1) / classes, sure=sure, known=float(p.amax(1).mean()), wrong=wrong)


def mixture(logits: torch.Tensor, target: torch.Tensor) -> tuple[float, float, float, torch.Tensor]:
    """The likeliest p(label) = (1 - blind) softmax(factor z) + blind / classes. -> its loss; blind; the standard errors
    by which that is above 0 (the root of twice the ratio of log-likelihoods); softmax(factor z) (N, C)."""
    z = logits.double().clamp(min=-1e3)
    z = z / (z - z.mean(1, keepdim=True)).square().mean().sqrt().clamp(min=1e-6)
    some = slice(None, None, math.ceil(z.numel() / MOST))
    whole, z, target = z, z[some], target[some]

    def fitted(some_wrong: bool) -> tuple[float, float, torch.Tensor]:
        factor, odds = (torch.full((), v, dtype=z.dtype, requires_grad=True) for v in (0.0, -2.0))
        optimizer = torch.optim.LBFGS([factor, odds], max_iter=60, line_search_fn="strong_wolfe")

        def blind() -> torch.Tensor:
            return odds.sigmoid() * some_wrong

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            own = (factor.exp() * z).softmax(1).gather(1, target[:, None])
            value = -((1 - blind()) * own + blind() / z.shape[1]).clamp(min=1e-12).log().mean()
            value.backward()
            return value

        optimizer.step(loss)
        return float(loss().detach()), float(blind().detach()), (factor.detach().exp() * whole).softmax(1)

    (none, _, _), (least, blind, p) = fitted(False), fitted(True)
    return least, blind, max(2 * len(target) * (none - least), 0.0) ** 0.5, p
