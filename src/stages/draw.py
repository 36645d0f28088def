"""Answers for each pixel in the size of the image: counts against the truth, and a mask as PNG."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import interpolate

from src import folder, hardware
from src.contracts import Run
from src.stats import confusions


def answer(network: Any, view: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """The evaluation view of an image, uint8 (C, H, W), and the image's own size (h, w) -> the place of each pixel's
    class (h, w)."""
    return _logits(network, view, size).argmax(1)[0].cpu()


def _logits(network: Any, view: torch.Tensor, size: torch.Size) -> torch.Tensor:
    batch = view[None].contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return interpolate(network(batch.to(network.mean.device)).float(), size, mode="bilinear")


def masks(run: Run, network: Any, split: str) -> tuple[torch.Tensor, torch.Tensor, list[dict[str, Any]]]:
    """Writes masks/ for the images of a split; -> (N,) which; (N, C, C) counts, truth by answer, where there is a
    truth; and of each image {sure: the mean probability of what is said of its pixels}."""
    counts, rows, limit = [], [], run.cfg["trainer"][f"limit_{split}_batches"]
    index = run.loaders.dealt(split, limit)
    if len(index) and limit is not None:
        most = limit * run.loaders.batch_size if isinstance(limit, int) else math.ceil(limit * len(index))
        index = sorted(index[:most])
    network.eval().to(hardware.device(dict(run.cfg)))
    files = folder.pictures(run.home.path / "masks", run.source.splits[split].paths)
    for i, (size, view, truth) in zip(index, run.loaders.originals(split, index), strict=True):
        logits = _logits(network, view, size)
        found = logits.argmax(1)[0].cpu()
        rows.append({"sure": round(float(logits.softmax(1).amax(1).mean()), 6)})
        files[i].parent.mkdir(parents=True, exist_ok=True)
        run.loaders.painted(found).save(files[i])
        if truth is not None:
            counts.append(confusions(found[None], truth, network.outputs))
    none = torch.zeros(0, network.outputs, network.outputs)
    return torch.tensor(index), torch.cat(counts) if counts else none, rows
