"""Writes the model card, and to TensorBoard what a fit cannot know: the recipe with all candidates, a picture of the
predictions, and the settings beside the final metric."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger

from src import tables
from src.contracts import Run


def tensorboard(run: Run) -> None:
    if "tensorboard" not in (run.cfg.get("logger") or {}):
        return
    logger = TensorBoardLogger(run.home.path, name="tensorboard", version="", default_hp_metric=False)
    metrics, words = run.home.metrics(), dict(_flat({k: run.cfg[k] for k in SETTINGS}))
    final = {k: v for k, v in metrics.items() if k.startswith("test/") and v is not None}
    logger.log_hyperparams(words, final, step=int(metrics.get("fit/updates", 0)))
    recipe, predictions = (run.home.path / name for name in ("recipe.md", "predictions.csv"))
    if recipe.is_file():
        logger.experiment.add_text("recipe", recipe.read_text(encoding="utf-8"))
    if run.task.figure and predictions.is_file() and run.source.splits["test"].labelled:
        picture = run.task.figure(tables.read(predictions), run.source.classes)
        logger.experiment.add_figure("test/predictions", picture, metrics.get("fit/updates", 0))
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
