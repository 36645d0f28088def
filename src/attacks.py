"""The worst image nearby: gradient ascent in a ball around each image (PGD, Madry et al. 2018, arXiv:1706.06083)."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch

from src.contracts import ConfigError

NORMS = ("linf", "l2")
Slope = Callable[[torch.Tensor], torch.Tensor]  # image (B, C, H, W) -> the gradient there of what is to grow


def radius(name: str, eps: float | str, norm: str) -> float:
    """A number, or a fraction as 4/255, in units in which an image goes from 0 to 1."""
    if norm not in NORMS:
        raise ConfigError(f"{name.rpartition('.')[0]}.norm={norm} is none of {', '.join(NORMS)}.\nChoose one of them.")
    try:
        found = float(Fraction(str(eps)))
    except (ValueError, ZeroDivisionError):
        found = -1.0
    if not (0 <= found <= 1 if norm == "linf" else found >= 0):
        raise ConfigError(
            f"{name}={eps} is no distance of an image whose values go from 0 to 1.\n"
            f"Set {name} to a number or a fraction, such as {'4/255' if norm == 'linf' else '0.5'}."
        )
    return found


def start(image: torch.Tensor, eps: float, norm: str, draw: torch.Generator) -> torch.Tensor:
    """A random image of the ball: uniform in its cube; for l2 in a random direction, at a uniform part of the radius.
    Drawn on the CPU, so that all devices have the same."""
    noise = torch.empty(image.shape)
    if norm == "linf":
        noise.uniform_(-eps, eps, generator=draw)
    else:
        noise.normal_(generator=draw)
        noise = _unit(noise) * torch.rand(len(image), 1, 1, 1, generator=draw) * eps
    return (image + noise.to(image)).clamp(0, 1)


def project(found: torch.Tensor, image: torch.Tensor, eps: float, norm: str) -> torch.Tensor:
    """The nearest point of the ball around `image`, then of the cube of images."""
    change = found - image
    if norm == "linf":
        return (image + change.clamp(-eps, eps)).clamp(0, 1)
    return (image + change * (eps / length(change).clamp(min=1e-12)).clamp(max=1)).clamp(0, 1)


def steepest(slope: torch.Tensor, norm: str) -> torch.Tensor:
    """The step of length 1 that ascends most."""
    return slope.sign() if norm == "linf" else _unit(slope)


def pgd(
    image: torch.Tensor, slope: Slope, eps: float, norm: str, steps: int, step: float, draw: torch.Generator
) -> torch.Tensor:
    """image (B, C, H, W), float in 0..1 -> the same, after `steps` steps of length `step` from a random start."""
    found = start(image, eps, norm, draw)
    for _ in range(steps):
        found = project(found + step * steepest(slope(found), norm), image, eps, norm)
    return found


def length(change: torch.Tensor) -> torch.Tensor:
    """(B, 1, 1, 1)"""
    return change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _unit(change: torch.Tensor) -> torch.Tensor:
    return change / length(change).clamp(min=1e-12)
