"""How many labels are wrong, by what is said of images that were not learnt: one class an image."""

from __future__ import annotations

import math

import torch

MOST = 3e5  # images × classes that the share is fitted on
MANY = 0.15  # share of wrong labels that is acted on (in clean sets up to 0.13 are seen), where it is more than none
SURE = 3.0  # by so many standard errors
LIKELY = 1.64  # of val, where those of train are known to be wrong: one-sided 95 %, since val is from the same hands


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
