"""The Square attack: random squares, kept where they help; it asks for logits alone (Andriushchenko et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable

import torch

HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries: arXiv:1912.00049, section 4.1
PART = 0.8  # of the image's area, at first


def margin(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(B,); below 0 the image is fooled."""
    own = logits.gather(1, target[:, None])[:, 0]
    return own - logits.scatter(1, target[:, None], -torch.inf).amax(1)


def square(
    ask: Callable[[torch.Tensor], torch.Tensor],
    image: torch.Tensor,
    eps: float,
    queries: int,
    draw: torch.Generator,
) -> torch.Tensor:
    """-> which of the images (B, C, H, W) were fooled, within a largest change of eps. ask: images -> margins (B,)."""
    batch, channels, height, width = image.shape
    stripes = _signs((batch, channels, 1, width), draw).to(image) * eps
    best = (image + stripes).clamp(0, 1)
    lowest = ask(best)
    for i in range(queries - 1):
        if (lowest < 0).all():
            break
        side = max(round((PART / 2 ** sum(i * 10_000 / queries > n for n in HALVED) * height * width) ** 0.5), 1)
        high, wide = min(side, height), min(side, width)
        rows = torch.randint(height - high + 1, (batch, 1), generator=draw) + torch.arange(high)
        columns = torch.randint(width - wide + 1, (batch, 1), generator=draw) + torch.arange(wide)
        inside = torch.zeros(batch, 1, height, width, dtype=torch.bool)
        inside[torch.arange(batch)[:, None, None], 0, rows[:, :, None], columns[:, None]] = True
        change = (image + _signs((batch, channels, 1, 1), draw).to(image) * eps).clamp(0, 1)
        tried = torch.where(inside.to(image.device), change, best)
        found = ask(tried)
        better = found < lowest
        best, lowest = torch.where(better.view(-1, 1, 1, 1), tried, best), torch.where(better, found, lowest)
    return lowest < 0


def _signs(shape: tuple[int, ...], draw: torch.Generator) -> torch.Tensor:
    return torch.randint(2, shape, generator=draw) * 2.0 - 1
