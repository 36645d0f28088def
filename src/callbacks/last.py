"""The checkpoint to go on from: at each epoch's end, every few minutes within one, and when the run is told to stop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from src import signals
from src.history import History


class Last(Checkpoint):
    """Writes `file` (and keeps its predecessor) only where a resumed run can take over to the bit: between two
    optimizer updates, and never between the last step before a validation and that validation, which Lightning
    would not repeat. A save that falls due there waits for the end of the validation."""

    def __init__(self, file: str, every_minutes: float | None = 10.0, every_n_train_steps: int | None = None):
        self.file, self.minutes, self.steps = Path(file), every_minutes, every_n_train_steps
        self.saved = time.monotonic()
        self.due = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.saved = time.monotonic()
        signals.install()  # Lightning has just put its own handlers there
        signals.defer(True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stop, self.due = self._agree(trainer)
        every, counted = trainer.val_check_batch, batch_idx
        if trainer.check_val_every_n_epoch is None:  # then Lightning counts batches over all epochs
            counted = trainer.fit_loop.total_batch_idx
        validates = trainer.is_last_batch or (every is not None and (counted + 1) % every == 0)
        halfway = (batch_idx + 1) % trainer.accumulate_grad_batches != 0
        if (self.due or stop) and not validates and not halfway:
            self._save(trainer)
            self._leave(stop)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stop, _ = self._agree(trainer)
        self._save(trainer)
        self._leave(stop)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        checkpoint["should_stop"] = trainer.should_stop  # early stopping may have decided already
        checkpoint["history_rows"] = [h.rows for h in trainer.loggers if isinstance(h, History)]

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        trainer.should_stop = checkpoint["should_stop"]
        histories = [h for h in trainer.loggers if isinstance(h, History)]
        for history, rows in zip(histories, checkpoint["history_rows"], strict=False):
            history.rewind(rows)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        signals.defer(False)

    def _agree(self, trainer: pl.Trainer) -> tuple[int, bool]:
        """(exit code or 0, whether a save is due): the same on all ranks, whichever of them noticed."""
        waited = self.minutes is not None and time.monotonic() - self.saved > 60 * self.minutes
        stepped = self.steps is not None and trainer.global_step % self.steps == 0
        if trainer.world_size == 1:
            return signals.wanted(), self.due or waited or stepped
        said = torch.tensor([signals.wanted(), int(self.due or waited or stepped)], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX)
        stop, due = said.tolist()
        return stop, bool(due)

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.file, weights_only=False)
        self.saved, self.due = time.monotonic(), False

    def _leave(self, stop: int) -> None:
        if stop:
            raise signals.Stopped(stop)
