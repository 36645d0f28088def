"""How long an image takes here, measured: what a budget is planned with."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from functools import partial

import torch

from src.contracts import Run

BATCHES = 4  # timed, after a first one that warms up, and those that loader processes have ready by then


@dataclass(frozen=True)
class Pace:
    """Seconds per image."""

    train: float
    predict: float


def pace(run: Run, device: str, precision: str | None = None) -> Pace:
    """precision: with which the fit will compute; None: trainer.precision."""
    precision = precision or str(run.cfg["trainer"]["precision"])
    kind = torch.bfloat16 if "bf16" in precision else torch.float16
    half = partial(torch.autocast, device, kind, enabled="16" in precision)
    module = run.module(run.network()).to(device)
    seen, seconds = 0, {"train": 0.0, "predict": 0.0}
    began = time.monotonic()
    loader = run.loaders.loader("train", train=True)
    endless = itertools.chain.from_iterable(itertools.repeat(loader))  # there may be fewer batches than are timed
    first = 1 + 2 * loader.num_workers
    for i, batch in enumerate(itertools.islice(endless, first + BATCHES + loader.num_workers)):
        batch = {name: value.to(device) for name, value in batch.items()}
        decoded = time.monotonic()
        module.train()
        for _ in range(module.passes):
            with half():
                loss = module.objective(batch)
            loss.backward()
        _wait(device)
        trained = time.monotonic()
        module.eval()
        with torch.no_grad(), half():
            module.network(batch["image"])
        _wait(device)
        predicted = time.monotonic()
        if i >= first:
            seen += len(batch["image"])
            seconds["train"] += trained - began
            seconds["predict"] += predicted - trained + decoded - began
        began = time.monotonic()
    return Pace(**{name: spent / max(seen, 1) for name, spent in seconds.items()})


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
