"""Logits times a factor, plus a shift, so that the probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import cross_entropy

from src import rng

Scaling = dict[str, Any]  # method, factor and shift: a number, or one for each class
Fit = Callable[[torch.Tensor, torch.Tensor, str, float], Scaling]
FOLDS = 5
EACH = 50  # images a class from which vector scaling is tried: with 9 to 26 it was worse on test in three of four sets,
# though better out of fold in three (docs/calibration.md)
NONE: Scaling = {"method": "none", "factor": 1.0, "shift": 0.0}


def loss(logits: torch.Tensor, target: torch.Tensor, kind: str, blind: float = 0.0) -> torch.Tensor:
    """(N,) the negative log-likelihood of each image; of labels their mean. blind: the part of the classes that says
    nothing, being one of all by chance: src/mixture.py."""
    if kind == "labels":
        return bce(logits, target.float(), reduction="none").mean(1)
    risk = cross_entropy(logits, target, reduction="none")
    return -((1 - blind) * (-risk).exp() + blind / logits.shape[1]).log() if blind else risk


def scaled(scaling: Scaling, logits: torch.Tensor) -> torch.Tensor:
    factor, shift = (torch.tensor(scaling[k], device=logits.device) for k in ("factor", "shift"))
    return logits.float() * factor + shift


def temperature(logits: torch.Tensor, target: torch.Tensor, kind: str, blind: float = 0.0) -> Scaling:
    """One factor for all, 1 / T, of the least loss (Guo et al. 2017, section 4.2): no order of classes changes. It is
    drawn to 1 as if by one more image: where all are right, the least loss is at no finite factor."""
    log_factor = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def objective() -> torch.Tensor:
        found = logits.double() * log_factor.clamp(-7, 7).exp()
        return loss(found, target, kind, blind).mean() + log_factor.square() / len(logits)

    _minimise([log_factor], objective)
    return {"method": "temperature", "factor": float(log_factor.detach().clamp(-7, 7).exp()), "shift": 0.0}


def vector(logits: torch.Tensor, target: torch.Tensor, kind: str, blind: float = 0.0) -> Scaling:
    """A factor and a shift for each class (Guo et al. 2017), drawn to the one factor as if by one more image."""
    start, n = temperature(logits, target, kind, blind), len(logits)
    more = torch.zeros(2, logits.shape[1], dtype=torch.float64, requires_grad=True)

    def objective() -> torch.Tensor:
        found = logits.double() * start["factor"] * more[0].clamp(-3, 3).exp() + more[1]
        return loss(found, target, kind, blind).mean() + more.square().sum() / n

    _minimise([more], objective)
    factor, shift = more.detach()
    factors = start["factor"] * factor.clamp(-3, 3).exp()
    return {"method": "vector", "factor": factors.tolist(), "shift": shift.tolist()}


def _minimise(parameters: list[torch.Tensor], objective: Callable[[], torch.Tensor]) -> None:
    optimizer = torch.optim.LBFGS(parameters, max_iter=100, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        value = objective()
        value.backward()
        return value

    optimizer.step(step)


METHODS: dict[str, Fit] = {
    "none": lambda logits, target, kind, blind: NONE,
    "temperature": temperature,
    "vector": vector,
}


def crossed(fit: Fit, logits: torch.Tensor, target: torch.Tensor, kind: str, seed: int, blind: float) -> torch.Tensor:
    """The logits of each image, scaled by what was fitted without it."""
    order = rng.permutation(len(logits), seed, "calibrate")
    if kind == "class":  # dealt out by class
        order = order[target[order].argsort(stable=True)]
    fold = torch.empty(len(logits), dtype=torch.long)
    fold[order] = torch.arange(len(logits)) % FOLDS
    found = torch.empty(logits.shape)
    for held in (fold == f for f in range(FOLDS)):
        found[held] = scaled(fit(logits[~held], target[~held], kind, blind), logits[held])
    return found


def choose(
    logits: torch.Tensor, target: torch.Tensor, kind: str, method: str, seed: int, blind: float = 0.0
) -> tuple[Scaling, torch.Tensor]:
    """-> (what is fitted on all images, their logits out of fold). auto: nothing (the heads that are solved have their
    size from val), then the temperature, then the vector, each left for the next where its loss out of fold is higher
    by more than the standard error of their difference."""
    if method != "auto":
        other = crossed(METHODS[method], logits, target, kind, seed, blind)
        return METHODS[method](logits, target, kind, blind), other
    best, found = "none", logits.float()
    for name in ("temperature", "vector") if len(logits) >= EACH * logits.shape[1] else ("temperature",):
        other = crossed(METHODS[name], logits, target, kind, seed, blind)
        gain = loss(found, target, kind, blind) - loss(other, target, kind, blind)
        if float(gain.mean()) > float(gain.std()) / len(gain) ** 0.5:
            best, found = name, other
    return METHODS[best](logits, target, kind, blind), found
