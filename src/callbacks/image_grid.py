"""Writes a grid of augmented training images to TensorBoard: look at it before you believe a result."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from torchvision.utils import make_grid


class ImageGrid(Callback):
    """The first batch of the fit, at most `images` of it, as the network gets it."""

    def __init__(self, images: int = 32):
        self.images = images

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int):
        if trainer.global_step > 0:
            return
        shown = batch["image"][: self.images].cpu()
        shown = shown[:, :3] if shown.shape[1] >= 3 else shown[:, :1]
        if shown.dtype != torch.uint8:
            shown = (shown * 255).round().clamp(0, 255).to(torch.uint8)
        grid = make_grid(shown, nrow=8, padding=2, pad_value=255)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("train/images", grid, 0)
