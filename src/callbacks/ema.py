"""An average of the weights over the last part of the run, kept in the checkpoint; `select` weighs it against the rest.

The fit itself never uses it, so nothing has to be swapped, and nothing can be swapped at the wrong moment.
"""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from src.fsdp import dealt, local

Place = tuple[dict[str, Any], str]


class EMA(Callback):
    """Exponential moving average of what moves, trained weights and float buffers, one step per optimizer update.

    decay: null gives it a memory of the part `memory` of all updates (null: 0.1): exp(-1 / (memory × updates)).
    While fewer updates than that have been made, it is their plain mean: min(decay, t / (t + 1)), t counted from 0: the
    starting weights are forgotten at any length of run (a fixed 0.9998 is 93 % starting weights after 375 updates;
    TensorFlow's ExponentialMovingAverage starts with (1 + t) / (10 + t) for the same reason).

    last: the plain mean over the last part of the run instead, each update counting the same, as SWA has it (Izmailov
    et al. 2018, arXiv:1803.05407, alg. 1, which takes the weights once a cycle); before, it is the weights themselves.
    By the place in the schedule, so that a deadline, which hurries it, leaves an average, too.

    Held in float32 at least: in bfloat16, a step of less than 1/256 would be rounded away.
    """

    def __init__(self, decay: float | None = None, memory: float | None = None, last: float | None = None):
        self.decay, self.memory, self.last = decay, 0.1 if memory is None else memory, last
        self.average: dict[str, torch.Tensor] = {}
        self.updates = 0
        # key -> its owner's parameters or buffers, and the name there: a buffer may be replaced, and the attribute of a
        # weight may be the weight with its update
        self.moving: dict[str, Place] = {}
        self.still: dict[str, Place] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.at, begun = trainer.global_step, self.average  # not empty: resumed
        self.average, self.moving, self.still = {}, {}, {}
        for key, live in pl_module.network.state_dict(keep_vars=True).items():
            path, _, name = key.rpartition(".")
            learns = live.requires_grad or not isinstance(live, nn.Parameter)
            places = self.moving if learns and live.is_floating_point() else self.still
            owner = pl_module.network.get_submodule(path)
            places[key] = owner._parameters if name in owner._parameters else owner._buffers, name
            dtype = torch.promote_types(live.dtype, torch.float32) if places is self.moving else live.dtype
            begins = dealt(begun.get(key, live), live).detach()
            self.average[key] = begins.to(live.device, dtype, copy=places is self.moving)
        memory = max(self.memory * trainer.estimated_stepping_batches, 1)
        self.most = math.exp(-1 / memory) if self.decay is None else self.decay
        if self.last is not None:
            self.most, self.begins = 1.0, (1 - self.last) * pl_module.plan.total

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.at:  # gradients are still being accumulated
            return
        self.at = trainer.global_step
        part = 1 - min(self.most, self.updates / (self.updates + 1))
        module: Any = pl_module
        if self.last is None or module.pace(self.at) > self.begins:  # by its place in the schedule
            self.updates += 1
        average = [local(self.average[key]) for key in self.moving]
        live = [local(_at(place)) for place in self.moving.values()]
        torch._foreach_lerp_(average, [x.to(a.dtype) for x, a in zip(live, average, strict=True)], part)

    def state_dict(self) -> dict[str, Any]:
        # what does not move is the live tensor itself, so that the file holds it once
        self.average |= {key: _at(place) for key, place in self.still.items()}
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average, self.updates = state_dict["average"], state_dict["updates"]


def _at(place: Place) -> torch.Tensor:
    owner, name = place
    return owner[name].detach()
