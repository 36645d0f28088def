"""An average of the weights over the last part of the run, kept in the checkpoint; `select` weighs it against the rest.

The fit itself never uses it, so nothing has to be swapped, and nothing can be swapped at the wrong moment.
"""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback


class EMA(Callback):
    """Exponential moving average of all weights and buffers, one step per optimizer update.

    decay: null gives the average a memory of the part `memory` of all updates: exp(-1 / (memory × updates)). While
    fewer updates than that have been made, it is their plain mean: min(decay, t / (t + 1)); so the starting weights
    are forgotten at any length of run (a fixed 0.9998 is 93 % starting weights after 375 updates).
    """

    def __init__(self, decay: float | None = None, memory: float = 0.1):
        self.decay, self.memory = decay, memory
        self.average: dict[str, torch.Tensor] = {}
        self.updates = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        state, self.at = _state(pl_module), trainer.global_step
        if self.average:  # resumed
            self.average = {k: v.to(state[k].device) for k, v in self.average.items()}
        else:
            self.average = {k: v.clone() for k, v in state.items()}
        if self.decay is None:
            self.decay = math.exp(-1 / max(self.memory * trainer.estimated_stepping_batches, 1))

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.at:  # gradients are still being accumulated
            return
        self.at, state = trainer.global_step, _state(pl_module)
        assert self.decay is not None
        part = 1 - min(self.decay, self.updates / (self.updates + 1))
        self.updates += 1
        floats = [k for k, v in state.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.average[k] for k in floats], [state[k] for k in floats], part)
        for k in state.keys() - set(floats):
            self.average[k].copy_(state[k])

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average, self.updates = state_dict["average"], state_dict["updates"]


def _state(pl_module: pl.LightningModule) -> dict[str, torch.Tensor]:
    return {k: v.detach() for k, v in pl_module.network.state_dict().items()}


def averaged(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor] | None:
    """The state of the network that a checkpoint's average is; None where the run kept none."""
    found = [state for name, state in checkpoint["callbacks"].items() if name.startswith("EMA")]
    return found[0]["average"] if found and found[0]["average"] else None
