"""Ends a fit after some epochs of a schedule that is planned for more; resumed without it, the fit goes on."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback


class Pause(Callback):
    def __init__(self, epochs: int):
        self.epochs = epochs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.fit_loop.max_epochs = self.epochs  # the schedule has been made already, for all of them
