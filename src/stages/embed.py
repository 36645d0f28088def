"""The features of a frozen network, in eval mode: one pass, kept on disk for later runs."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torchvision.transforms.v2 import Compose, RandomResizedCrop, TrivialAugmentWide

from src import rng
from src.contracts import ConfigError, Run

Change = Callable[[torch.Tensor], torch.Tensor]


def mirrored(image: torch.Tensor) -> torch.Tensor:
    return image.flip(3)


def upside_down(image: torch.Tensor) -> torch.Tensor:
    return image.flip((2, 3))


def grey(image: torch.Tensor) -> torch.Tensor:
    """Luma as in ITU-R BT.601, on all three channels."""
    weight = torch.tensor([0.299, 0.587, 0.114], device=image.device).view(1, 3, 1, 1)
    return (image.float() * weight).sum(1, keepdim=True).round().to(image.dtype).expand_as(image)


def shaken(scale: tuple[float, float], seed: int) -> Change:
    """A random view of each image, as augment=trivial shows it: `scale` of its area, bent and recoloured."""

    def change(images: torch.Tensor) -> torch.Tensor:
        view = Compose([RandomResizedCrop(images.shape[-2:], scale, antialias=True), TrivialAugmentWide()])
        seen = []
        for image in images:
            with rng.keyed(seed, "shaken", zlib.crc32(image.cpu().numpy().tobytes())):
                seen.append(view(image))
        return torch.stack(seen)

    change.__name__ = f"shaken {scale} {seed}"
    return change


def embed(
    run: Run,
    network: Any,
    device: str,
    split: str,
    only: Sequence[int] | None = None,
    resize: str | None = None,
    change: Change | None = None,
) -> torch.Tensor:
    """(N, D): what `network.embed` sees of these images, in their order. `change`: of the batch, before the network."""
    file = _file(run, network, split, only, resize, change, device)
    with suppress(OSError, SafetensorError, KeyError):
        return _finite(run, split, load_file(file)["features"])
    batches = run.loaders.loader(split, only=only, resize=resize)
    features = _finite(run, split, look(network, device, batches, change))
    with suppress(OSError):  # a cache that cannot be written costs time, not the run
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.tmp")
        save_file({"features": features}, part)
        os.replace(part, file)
    return features


def look(network: Any, device: str, batches: Iterable[dict[str, torch.Tensor]], change: Change | None) -> torch.Tensor:
    """What `embed` keeps, by a pass of the network."""
    network.eval().to(device)
    found = []
    with torch.inference_mode():
        for batch in batches:
            image = batch["image"].to(device)
            found.append(network.embed(change(image) if change else image).float().cpu())
    return torch.cat(found)


def kept(run: Run, network: Any, device: str, split: str, only: Sequence[int]) -> bool:
    """Whether `embed` reads these from the cache."""
    return _file(run, network, split, only, None, None, device).is_file()


def _finite(run: Run, split: str, features: torch.Tensor) -> torch.Tensor:
    if blind := int((~features.isfinite()).any(1).sum()):
        raise ConfigError(
            f"model.name={run.cfg['model'].get('name')}: what it sees of {blind} of {len(features)} images of {split} "
            "is not finite.\nIts weights or these images may be damaged: look at model.weights, or at images of floats."
        )
    return features


def _file(run: Run, network: torch.nn.Module, split: str, only: Sequence[int] | None, *what: object) -> Path:
    """Named by everything that the features depend on: weights, input, images, their view."""
    digest = hashlib.sha256(repr((torch.__version__, run.spec, run.cfg["data"]["resize"], run.cfg["model"])).encode())
    for view in what:
        digest.update(getattr(view, "__name__", repr(view)).encode())
    for name, value in network.state_dict().items():
        if name.startswith("backbone."):
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    chosen = run.source.splits[split].paths
    for i in range(len(chosen)) if only is None else only:
        status = (run.source.root / chosen[i]).stat()
        digest.update(repr((chosen[i], status.st_size, status.st_mtime_ns)).encode())
    return Path(run.cfg["paths"]["cache"]) / "features" / f"{digest.hexdigest()}.safetensors"
