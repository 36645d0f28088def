"""Writes to TensorBoard what a fit cannot know: the recipe with all candidates, the confusion matrix, and the settings
beside the final metric."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers import TensorBoardLogger

from src.contracts import Run


def report(run: Run) -> None:
    if not run.leader or "tensorboard" not in (run.cfg.get("logger") or {}):
        return
    logger = TensorBoardLogger(run.home.path, name="tensorboard", version="", default_hp_metric=False)
    metrics, words = run.home.metrics(), dict(_flat({k: run.cfg[k] for k in SETTINGS}))
    final = {k: v for k, v in metrics.items() if k.startswith("test/") and v is not None}
    logger.log_hyperparams(words, final, step=int(metrics.get("fit/updates", 0)))
    recipe, predictions = (run.home.path / name for name in ("recipe.md", "predictions.csv"))
    if recipe.is_file():
        logger.experiment.add_text("recipe", recipe.read_text(encoding="utf-8"))
    if predictions.is_file() and run.source.splits["test"].labelled:
        counts = confusion(predictions, run.source.classes)
        logger.experiment.add_figure(
            "test/confusion", _picture(counts, run.source.classes), metrics.get("fit/updates", 0)
        )
    logger.finalize("success")


SETTINGS = ("seed", "model", "finetune", "loss", "optimizer", "scheduler", "augment")


def _flat(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """TensorBoard's table wants one level: optimizer = AdamW, optimizer/lr = 0.001."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}/{key}".lstrip("/"))
        elif key == "_target_":
            yield prefix, value.rpartition(".")[2]
        elif key != "_partial_":
            yield f"{prefix}/{key}".lstrip("/"), value if isinstance(value, int | float | str | bool) else str(value)


def confusion(predictions: Path, classes: tuple[str, ...]) -> torch.Tensor:
    """(C, C) counts: row = the truth, column = what was predicted."""
    place = {c: i for i, c in enumerate(classes)}
    counts = torch.zeros(len(classes), len(classes), dtype=torch.long)
    with predictions.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            counts[place[row["target"]], place[row["prediction"]]] += 1
    return counts


def _picture(counts: torch.Tensor, classes: tuple[str, ...]):
    """Rows are normalised for the colour, counts are written where they can be read (25 classes at the most)."""
    from matplotlib.figure import Figure

    n, share = len(classes), counts / counts.sum(1, keepdim=True).clamp(min=1)
    side = min(max(4.0, 0.5 * n + 2), 20)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    every = max(1, -(-n // 50))  # more than 50 labels on an axis cannot be read
    ticks = range(0, n, every)
    axes.set_xticks(ticks, [classes[i][:24] for i in ticks], rotation=90)
    axes.set_yticks(ticks, [classes[i][:24] for i in ticks])
    axes.set(xlabel="predicted", ylabel="true", title="Test images by true and predicted class")
    for i, j in ((i, j) for i in range(n) for j in range(n) if n <= 25 and counts[i, j]):
        colour = "white" if share[i, j] > 0.5 else "black"
        axes.text(j, i, str(int(counts[i, j])), ha="center", va="center", color=colour)
    return figure
