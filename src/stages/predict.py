"""What a network answers on one split, in the order of its files, on every rank."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch

from src import folder, world
from src.columns import tensor
from src.contracts import Run
from src.predicting import Predicting

CHUNK = 256  # images of which the rows of a table are in the memory


def predictions(
    run: Run,
    network: torch.nn.Module,
    split: str,
    see: Callable[[torch.Tensor], torch.Tensor] | None = None,
    only: Sequence[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(index (N,), logits (N, outputs), target (N,)); N is the whole split unless its batches are limited.

    see: instead of the logits, another function of the images that belongs to the network; only: of these images."""
    run.loaders.predicted = split, only
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        batches = run.trainer(split).predict(Predicting(network, run.task, see), datamodule=run.loaders)
    mine = {k: torch.cat([b[k] for b in batches]) for k in ("index", "logits", "target")}
    parts = world.gather(mine)
    index, logits, target = (torch.cat([p[k] for p in parts]) for k in ("index", "logits", "target"))
    order = index.argsort()
    return index[order], logits[order], target[order]


def groups(run: Run, split: str, index: torch.Tensor) -> torch.Tensor | None:
    """(N,) of these images; None where each is on its own."""
    found = run.source.splits[split].groups
    return tensor(found)[index.long()] if found else None


def measure(run: Run, split: str, logits: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    """All metrics of the task, from all predictions at once: the same numbers on any number of ranks."""
    metrics = run.task.metrics(**tuned(run))
    for metric in metrics.values():
        metric.distributed_available_fn = lambda: False  # every rank has every prediction already
    metrics.update(logits, target)
    found = {f"{split}/{name}": float(value) for name, value in metrics.compute().items()}
    return found | {f"{split}/images": len(target)}


def table(
    run: Run, split: str, index: torch.Tensor, logits: torch.Tensor, more: Sequence[dict[str, Any]] | None = None
) -> str:
    """path, target (where there is one), prediction, prob/<class>… of these images; more: columns of each, behind
    these."""
    images, labels, out = run.source.splits[split], run.source.labels, io.StringIO()
    rows = _decoded(run, split, index, logits)
    rows = (row | own for row, own in zip(rows, more, strict=True)) if more else rows
    first = next(rows)
    named = [f"target/{column}" for column in labels.columns] if len(labels.columns) > 1 else ["target"]
    writer = csv.DictWriter(out, ["path", *named, *first])
    writer.writeheader()
    for i, row in zip(index.tolist(), chain([first], rows), strict=True):
        told = labels.text(images.targets[i], run.source.classes) if images.labelled else ("",) * len(named)
        writer.writerow({"path": images.paths[i], **dict(zip(named, told, strict=True)), **row})
    return out.getvalue()


def _decoded(run: Run, split: str, index: torch.Tensor, logits: torch.Tensor) -> Iterator[dict[str, Any]]:
    """What the task says of each image, some at a time: of a thousand classes a row is 150 kB."""
    if not len(logits):
        yield from ({} for _ in index)
    elif run.task.embeds:  # which are compared with each other
        yield from (_beside(run, split, index, row) for row in run.task.decode(logits, **tuned(run)))
    else:
        for some in logits.split(CHUNK):
            yield from run.task.decode(some, **tuned(run))


def _beside(run: Run, split: str, index: torch.Tensor, row: dict[str, Any]) -> dict[str, Any]:
    """The image that is nearest, by its path, and its class as the prediction."""
    images, labels = run.source.splits[split], run.source.labels
    i = None if row["nearest"] is None else int(index[row["nearest"]])
    said = "" if i is None or not images.labelled else "; ".join(labels.text(images.targets[i], run.source.classes))
    return {**row, "nearest": "" if i is None else images.paths[i], "prediction": said}


def calibration(run: Run) -> dict[str, Any]:
    """What was fitted for the model in model/; {} where nothing was."""
    return run.decisions.load(run.model, folder.model_json(run.model))


def tuned(run: Run) -> dict[str, Any]:
    """What the task has tuned on val, for its metrics and what it says of an image."""
    return dict(run.home.state().get("tuned", {}))
