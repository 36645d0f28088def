"""Auto-PGD: gradient ascent that chooses its own step length (Croce & Hein 2020, arXiv:2003.01690, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

from src.attacks import project, start, steepest

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (logits, target) -> (B,)
RHO, MOMENTUM = 0.75, 0.75  # of its section 3.1


def ce(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits, target, reduction="none")


def dlr(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The difference of logits ratio (eq. 6): it does not change with the scale of the logits, so that a network that
    is very sure hides nothing from it. Three classes or more."""
    order = logits.sort(1, descending=True).values
    own = logits.gather(1, target[:, None])[:, 0]
    other = torch.where(logits.argmax(1) == target, order[:, 1], order[:, 0])
    return -(own - other) / (order[:, 0] - order[:, 2] + 1e-12)


def checkpoints(steps: int) -> list[int]:
    """Where the step length is judged."""
    before, part, found = 0.0, 0.22, [0]
    while part <= 1:
        found.append(math.ceil(round(part * steps, 6)))
        before, part = part, part + max(part - before - 0.03, 0.06)
    return found


def apgd(
    look: Callable[[torch.Tensor, Loss], tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    image: torch.Tensor,
    loss: Loss,
    eps: float,
    norm: str,
    steps: int,
    draw: torch.Generator,
) -> torch.Tensor:
    """-> which of the images (B, C, H, W) were fooled on the way. look: (images, loss) -> loss, gradient, fooled."""
    x = start(image, eps, norm, draw)
    value, slope, fooled = look(x, loss)
    best, best_value, best_slope = x, value.clone(), slope
    length = torch.full((len(image), 1, 1, 1), 2 * eps, device=image.device)
    before, judged = x, checkpoints(steps)
    rises, kept_length, kept_value = torch.zeros_like(value), length.clone(), best_value.clone()
    for k in range(steps):
        if fooled.all():
            break
        step = project(x + length * steepest(slope, norm), image, eps, norm)
        part = MOMENTUM if k else 1.0
        step = project(x + part * (step - x) + (1 - part) * (x - before), image, eps, norm)
        before, x, last = x, step, value
        value, slope, found = look(x, loss)
        fooled, rises = fooled | found, rises + (value > last)
        better = value > best_value
        best = torch.where(_wide(better), x, best)
        best_slope = torch.where(_wide(better), slope, best_slope)
        best_value = torch.where(better, value, best_value)
        if k + 1 in judged[1:]:
            since = k + 1 - judged[judged.index(k + 1) - 1]
            stuck = (length == kept_length).flatten() & (best_value == kept_value)
            halve = (rises < RHO * since) | stuck
            kept_length, kept_value, rises = length.clone(), best_value.clone(), torch.zeros_like(rises)
            length = torch.where(_wide(halve), length / 2, length)
            x, slope = torch.where(_wide(halve), best, x), torch.where(_wide(halve), best_slope, slope)
            value = torch.where(halve, best_value, value)
    return fooled


def _wide(of: torch.Tensor) -> torch.Tensor:
    return of.view(-1, 1, 1, 1)
