"""Whether small moves change the answer: mirrored, shifted by some pixels, turned by some degrees."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from src.contracts import Exam, Task

SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0))


class Shifts:
    """pixels, degrees: by how much, in all directions; what comes in at the edges repeats or mirrors what is there."""

    def __init__(self, images: int = 500, pixels: Sequence[int] = (1, 2, 3, 4), degrees: Sequence[float] = (5, 10)):
        self.images, self.pixels, self.degrees = images, tuple(pixels), tuple(degrees)

    def cannot(self, task: Task, channels: int) -> str:
        return ""

    def passes(self) -> int:
        return 2 + 4 * len(self.pixels) + 2 * len(self.degrees)

    def _moves(self, images: torch.Tensor) -> Iterator[tuple[str, list[torch.Tensor]]]:
        yield "mirrored", [images.flip(3)]
        yield "upside_down", [images.flip(2)]
        for n in self.pixels:
            yield f"shift_{n}", [_shifted(images, n * dy, n * dx) for dy, dx in SIDES]
        for angle in self.degrees:
            yield f"turn_{angle:g}", [_turned(images, sign * angle) for sign in (1, -1)]

    def __call__(self, exam: Exam) -> dict[str, Any]:
        found = {}
        for name, several in self._moves(exam.images):
            logits = [exam.logits(images) for images in several]
            found[name] = {"error": sum(map(exam.error, logits)) / len(logits)}
            if exam.task.target in ("class", "labels") and not exam.task.embeds:
                found[name]["same"] = sum(_same(exam.task.target, exam.clean, one) for one in logits) / len(logits)
        return {"shifts": {"clean": exam.error(exam.clean), **found}}

    def lines(self, found: dict[str, Any]) -> list[str]:
        told = dict(found["shifts"])
        rows = [f"shifts: error {told.pop('clean'):.4f} as they are"]
        for name, values in told.items():
            same = f", the same answer to {100 * values['same']:.1f} %" if "same" in values else ""
            rows.append(f"  {name:15} error {values['error']:.4f}{same}")
        return rows


def _same(target: str, one: torch.Tensor, other: torch.Tensor) -> float:
    """The part of images with the same class; of labels, of those that are both on or both off."""
    if target == "class":
        return float((one.argmax(1) == other.argmax(1)).float().mean())
    return float(((one > 0) == (other > 0)).float().mean())


def _shifted(images: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
    height, width = images.shape[-2:]
    n = max(abs(dy), abs(dx))
    wide = pad(images.float(), [n] * 4, mode="replicate")
    return wide[..., n + dy : n + dy + height, n + dx : n + dx + width].to(images.dtype)


def _turned(images: torch.Tensor, angle: float) -> torch.Tensor:
    height, width = images.shape[-2:]
    n = min(math.ceil(max(height, width) * abs(math.sin(math.radians(angle)))), min(height, width) - 1)
    wide = pad(images.float(), [n] * 4, mode="reflect").to(images.dtype)
    return F.center_crop(F.rotate(wide, angle, InterpolationMode.BILINEAR), [height, width])
