"""Answers for each pixel in the size of the image: counts against the truth, and a mask as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate

from src import hardware
from src.contracts import Run
from src.stats import confusions


def answer(network: Any, view: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """The evaluation view of an image, uint8 (C, H, W), and the image's own size (h, w) -> the place of each pixel's
    class (h, w)."""
    batch = view[None].contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        logits = network(batch.to(network.mean.device)).float()
        return interpolate(logits, size, mode="bilinear").argmax(1)[0].cpu()


def masks(run: Run, network: Any, split: str) -> torch.Tensor:
    """Writes masks/ for all images of a split; -> (N, C, C) counts, truth by answer, where there is a truth."""
    counts = []
    network.eval().to(hardware.device(dict(run.cfg)))
    for path, size, view, truth in run.loaders.originals(split):
        found = answer(network, view, size)
        file = place(run.home.path / "masks", path)
        file.parent.mkdir(parents=True, exist_ok=True)
        run.loaders.painted(found).save(file)
        if truth is not None:
            counts.append(confusions(found[None], truth, network.outputs))
    return torch.cat(counts) if counts else torch.zeros(0, network.outputs, network.outputs)


def place(folder: Path, path: str) -> Path:
    return (folder / path).with_suffix(".png")
