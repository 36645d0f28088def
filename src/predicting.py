"""The LightningModule that only predicts: a network is all that it takes, whatever it was trained by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import pytorch_lightning as pl
import torch

from src.contracts import Task
from src.stats import confusions


@final
class Predicting(pl.LightningModule):
    """see: (B, C, H, W) -> (B, …), a function that belongs to `network`."""

    def __init__(self, network: Any, task: Task, see: Callable[[torch.Tensor], torch.Tensor] | None = None):
        super().__init__()
        self.network, self.task, self.see = network, task, see or network.__call__

    def predict_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        valid = batch["valid"]
        logits, target = kept(self.task, self.see(batch["image"])[valid].float(), batch["target"][valid])
        return {"index": batch["index"][valid].cpu(), "logits": logits.cpu(), "target": target.cpu()}


def kept(task: Task, logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is measured of a batch; of masks the counts of each image, since all pixels would fill the memory."""
    if not task.dense or logits.ndim != 4 or target.ndim != 3:
        return logits, target
    return confusions(logits.argmax(1), target, task.outputs), torch.zeros(len(target), dtype=torch.long)
