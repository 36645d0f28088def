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
    to the bit; the seconds already spent count. Resumed with other `seconds`, it goes on from the progress it has made.
    """

    def __init__(self, seconds: float | None = None):
        self.seconds, self.spent, self.progress = seconds, 0.0, 0.0
        self.since = (0.0, 0.0)  # the seconds spent and the progress made when `seconds` was set

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.began = time.monotonic() - self.spent
        if self.seconds is not None:
            planned = pl_module.pace
            pl_module.pace = lambda step: max(planned(step), self.progress * pl_module.plan.total)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.seconds is None:
            return
        self.spent = max(world.gather(time.monotonic() - self.began))  # the ranks must agree
        spent, made = self.since
        part = (self.spent - spent) / (self.seconds - spent)  # of the time that was left then
        self.progress = max(self.progress, min(made + (1 - made) * part, 1.0))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.seconds is not None and self.progress >= 1:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"spent": self.spent, "progress": self.progress, "seconds": self.seconds, "since": list(self.since)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.spent, self.progress = state_dict["spent"], state_dict["progress"]
        same = state_dict.get("seconds", self.seconds) == self.seconds
        self.since = tuple(state_dict.get("since", self.since)) if same else (self.spent, self.progress)
