"""What a person sees while it trains: rich's bar on a terminal, one plain line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar


def progress(monitor: str, every_seconds: float = 15.0, bar: str | bool = "auto") -> ProgressBar:
    """bar: true | false | auto (a bar if standard output is a terminal)."""
    wanted = sys.stdout.isatty() if bar == "auto" else bool(bar)
    return RichProgressBar(refresh_rate=10, leave=True) if wanted else Lines(monitor, every_seconds)


class Lines(ProgressBar):
    """One line an epoch, and one every `every_seconds` within it: epoch, loss, metric, images per second, ETA."""

    def __init__(self, monitor: str, every_seconds: float):
        super().__init__()
        self.monitor, self.every = monitor, every_seconds

    def disable(self) -> None:
        self.every = float("inf")
        self.print_line = lambda *_: None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = self.shown = time.monotonic()
        self.first = trainer.global_step
        self.images = 0

    def on_train_batch_end(self, trainer, pl_module, outputs: Any, batch: Any, batch_idx: int) -> None:
        now = time.monotonic()
        self.images += len(batch["index"]) * trainer.world_size
        if now - self.shown > self.every and not trainer.is_last_batch:
            self.print_line(trainer, f"step {batch_idx + 1}/{trainer.num_training_batches}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = trainer.callback_metrics
        parts = [f"{name} {float(found[name]):.4f}" for name in ("train/loss", self.monitor) if name in found]
        self.print_line(trainer, "  ".join(parts))

    def print_line(self, trainer: pl.Trainer, said: str) -> None:
        now = time.monotonic()
        done, total = trainer.global_step - self.first, trainer.estimated_stepping_batches - self.first
        eta = (now - self.start) / max(done, 1) * max(total - done, 0)
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        print(
            f"epoch {trainer.current_epoch + 1}/{epochs}  {said}  "
            f"{self.images / max(now - self.start, 1e-9):.0f} images/s  ETA {int(eta) // 60}:{int(eta) % 60:02d}",
            flush=True,
        )
        self.shown = now
