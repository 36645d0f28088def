"""Ends a fit after some epochs of a schedule that is planned for more; resumed without it, the fit goes on."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback


class Pause(Callback):
    """A deadline may hurry the schedule through several epochs in one: it is the schedule's that count."""

    def __init__(self, epochs: int):
        self.epochs = epochs

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        # the schedule has been made already, for all of them
        trainer.fit_loop.max_epochs = trainer.current_epoch if pl_module.epoch() >= self.epochs else self.epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if pl_module.epoch() >= self.epochs:
            trainer.fit_loop.max_epochs = trainer.current_epoch + 1
