"""Stops the run on a NaN or infinite loss, before it reaches the weights, and names the images of the batch."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback

from src.checkpoint import NonFinite


class NonFiniteGuard(Callback):
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int):
        self.index = batch["index"]

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        finite = torch.isfinite(loss.detach()).int()
        mine = bool(finite)
        if trainer.world_size > 1:  # all ranks stop together; one that raised alone would leave the others waiting
            torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
        if bool(finite):
            return
        if mine:
            raise NonFinite("The loss of another rank is not finite; its message names the images.")
        train = trainer.datamodule.source.splits["train"]
        images = ", ".join(train.paths[i] for i in self.index[:4].tolist())
        rates = sorted({g["lr"] for g in trainer.optimizers[0].param_groups})
        raise NonFinite(
            f"The loss is {float(loss.detach())} in epoch {trainer.current_epoch}, step {trainer.global_step} "
            f"(learning rate {rates[-1]:.3g}).\nThe update was not made; the last good checkpoint is kept.\n"
            f"The batch has {len(self.index)} images: {images}, …\n"
            "Lower optimizer.lr, set trainer.gradient_clip_val=1.0, or look with debug=anomaly."
        )
