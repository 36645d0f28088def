"""Writes to TensorBoard what a fit cannot know: the recipe with all candidates, the pictures of the report, and the
settings beside the final metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pytorch_lightning.loggers import TensorBoardLogger

from src import tables
from src.contracts import Run
from src.pages.blocks import Drawing, Gallery, Section
from src.pages.facts import by_label
from src.pages.sheets import sheet, stacked


def tensorboard(run: Run, sections: Sequence[Section]) -> None:
    """sections: of the report."""
    if "tensorboard" not in (run.cfg.get("logger") or {}):
        return
    logger = TensorBoardLogger(run.home.path, name="tensorboard", version="", default_hp_metric=False)
    metrics, words = run.home.metrics(), dict(_flat({k: run.cfg[k] for k in SETTINGS}))
    told = {k: v for k, v in metrics.items() if k.startswith("test/") and v is not None}
    aside = by_label(run)
    final = {k: v for k, v in told.items() if k.removeprefix("test/") not in aside}
    step = int(metrics.get("fit/updates", 0))
    logger.log_hyperparams(words, final, step=step)
    recipe, predictions = (run.home.path / name for name in ("recipe.md", "predictions.csv"))
    if recipe.is_file():
        logger.experiment.add_text("recipe", recipe.read_text(encoding="utf-8"))
    if run.task.figure and predictions.is_file() and run.source.splits["test"].labelled:
        picture = run.task.figure(tables.read(predictions), run.source.classes)
        logger.experiment.add_figure("test/predictions", picture, step)
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Drawing) and block.figure:
                logger.experiment.add_figure(f"report/{section.title}/{block.name.strip()}", block.figure, step)
        if galleries := [block for block in section.blocks if isinstance(block, Gallery) and block.cards]:
            picture = np.asarray(stacked([sheet(gallery) for gallery in galleries]))
            logger.experiment.add_image(f"report/{section.title}", picture, step, dataformats="HWC")
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
