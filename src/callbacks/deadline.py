"""Ends the fit at a given time, with the schedule at its end and not cut off."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from src import world


class Deadline(Callback):
    """After `seconds` of fitting, validations included, the learning rate has come to its end, and the fit stops.

    The schedule goes on by updates, or by time where that is further: a machine that is slower than was planned takes
    fewer updates of the same schedule. seconds: null never stops anything. A run that time has hurried does not resume
    to the bit; the seconds already spent count.
    """

    def __init__(self, seconds: float | None = None):
        self.seconds, self.spent, self.progress = seconds, 0.0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.began = time.monotonic() - self.spent
        if self.seconds is not None:
            pl_module.pace = lambda step: max(step, self.progress * trainer.estimated_stepping_batches)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.seconds is None:
            return
        self.spent = max(world.gather(time.monotonic() - self.began))  # the ranks must agree
        self.progress = max(self.progress, min(self.spent / self.seconds, 1.0))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.seconds is not None and self.progress >= 1:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"spent": self.spent, "progress": self.progress}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.spent, self.progress = state_dict["spent"], state_dict["progress"]
