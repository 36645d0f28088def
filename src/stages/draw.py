"""Answers for each pixel in the size of the image: counts against the truth, and a mask as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from src.contracts import Run
from src.data.images import read
from src.data.masks import reader
from src.data.transforms import evaluation
from src.stats import confusions


def answer(network: Any, image: torch.Tensor) -> torch.Tensor:
    """uint8 (C, h, w) -> the place of each pixel's class (h, w)."""
    view = evaluation(network.spec, "squash")(image)[None].contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        logits = network(view.to(network.mean.device)).float()
        return interpolate(logits, image.shape[-2:], mode="bilinear").argmax(1)[0].cpu()


def painted(found: torch.Tensor, values: list[Any]) -> Image.Image:
    """Classes (h, w) -> a picture of the values, or colours, that stand for them."""
    table = np.array([[v] if isinstance(v, int) else list(v) for v in values], dtype=np.int64)
    kind = np.uint8 if table.max() < 256 else np.uint16
    pixels = table.astype(kind)[found.numpy()]
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def masks(run: Run, network: Any, split: str) -> torch.Tensor:
    """Writes masks/ for all images of a split; -> (N, C, C) counts, truth by answer, where there is a truth."""
    items, labels, counts = run.source.splits[split], run.source.labels, []
    truth = reader(run.source.root, labels, run.source.classes)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.eval().to(device)
    for path, target in zip(items.paths, items.targets, strict=True):
        found = answer(network, read(run.source.root / path, network.spec.channels))
        file = place(run.home.path / "masks", path)
        file.parent.mkdir(parents=True, exist_ok=True)
        painted(found, [labels.values[name] for name in run.source.classes]).save(file)
        if items.labelled:
            counts.append(confusions(found[None], truth(target), network.outputs))
    return torch.cat(counts) if counts else torch.zeros(0, network.outputs, network.outputs)


def place(folder: Path, path: str) -> Path:
    return (folder / path).with_suffix(".png")
