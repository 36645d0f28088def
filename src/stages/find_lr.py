"""A learning-rate range test: lr_finder.csv, lr_finder.png, and the rate at which the loss falls fastest."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from src import folder
from src.contracts import Run
from src.stages.fit import begin

UPDATES = 100
RANGE = (1e-3, 1e3)  # times optimizer.lr
SMOOTH = 0.9  # how much of it the running mean of the loss keeps at each update
LOST = 4.0  # times its least value: the loss from which nothing more is learnt (fastai has this, too)
BEGIN = 10  # updates of which the mean still knows too little
WINDOW = 8  # updates, half a decade, over which a slope is taken: that of two is the noise of their batches


class Curve(Callback):
    """(rate, loss, smoothed loss) of each update, until the loss is lost."""

    def __init__(self, rate: Callable[[int], float]) -> None:
        self.at = rate  # update -> optimizer.lr; groups have parts and multiples of it
        self.rows: list[tuple[float, float, float]] = []
        self.mean, self.rate, self.losses = 0.0, 0.0, []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.rate = self.at(trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))  # its part of the mean over this update
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch:
            return
        mine, self.losses = torch.tensor(sum(self.losses), device=pl_module.device), []
        loss = float(trainer.strategy.reduce(mine, reduce_op="mean"))  # so that all ranks stop together
        self.mean = SMOOTH * self.mean + (1 - SMOOTH) * loss
        smooth = self.mean / (1 - SMOOTH ** (len(self.rows) + 1))
        least = min((row[2] for row in self.rows), default=smooth)
        if not math.isfinite(loss) or (len(self.rows) >= BEGIN and smooth > LOST * least):
            trainer.should_stop = True
        else:
            self.rows.append((self.rate, loss, smooth))


def find_lr(run: Run) -> None:
    """Trains a network that is then thrown away, at rates that rise by the same factor at each update (Smith 2017,
    arXiv:1506.01186, section 3.3). Groups keep their ratios: what rises is the factor that the schedule would give."""
    low, high = RANGE

    def factor(step: float) -> float:
        return low * (high / low) ** (step / (UPDATES - 1))

    trainer, module = run.trainer("train"), run.module(run.network())
    curve = Curve(lambda step: run.cfg["optimizer"]["lr"] * factor(step))
    trainer.callbacks.append(curve)
    trainer.fit_loop.epoch_loop.max_steps, trainer.fit_loop.max_epochs, trainer.limit_val_batches = UPDATES, -1, 0
    module.schedule, module.epoch = lambda total: factor, lambda: 0  # images as large, and mixed, as a fit begins
    begin(run, module.loss)
    trainer.fit(module, datamodule=run.loaders)
    run.loaders.trainer = None
    if run.leader:
        _tell(run, curve.rows)


def _tell(run: Run, rows: list[tuple[float, float, float]]) -> None:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerows([("lr", "loss", "smoothed"), *rows])
    folder.write(run.home.path / "lr_finder.csv", out.getvalue())
    found = steepest(rows)
    _draw(rows, found).savefig(run.home.path / "lr_finder.png", dpi=120)
    tried = f"{rows[0][0]:.2g} … {rows[-1][0]:.2g}" if rows else "none"
    if found is None:
        print(f"find_lr  the loss falls at no rate of {tried}", flush=True)
        return
    run.home.update(found_lr=found)
    print(f"find_lr  the loss falls fastest at {found:.2g}, of {tried}: try optimizer.lr={found:.2g}", flush=True)


def steepest(rows: list[tuple[float, float, float]]) -> float | None:
    """The rate, before the least loss, at which the smoothed loss falls fastest over the logarithm of the rate."""
    least = min(range(len(rows)), key=lambda i: rows[i][2], default=0)
    part = rows[BEGIN : least + 1]
    if len(part) < 3:
        return None
    rates, smooth = (np.array(column) for column in (list(zip(*part, strict=True))[i] for i in (0, 2)))
    x = np.log(rates)
    fits = [np.polyfit(x[i : i + WINDOW], smooth[i : i + WINDOW], 1)[0] for i in range(max(len(x) - WINDOW, 0) + 1)]
    first = int(np.argmin(fits))
    return float(np.exp(x[first : first + WINDOW].mean())) if fits[first] < 0 else None


def _draw(rows: list[tuple[float, float, float]], found: float | None) -> Any:
    from matplotlib.figure import Figure

    figure = Figure((6, 4), layout="constrained")
    axes = figure.subplots()
    for i, (label, width) in enumerate((("loss", 0.6), ("smoothed", 1.8)), start=1):
        axes.plot([row[0] for row in rows], [row[i] for row in rows], linewidth=width, label=label)
    if found is not None:
        axes.axvline(found, linestyle="--", color="grey", label=f"falls fastest: {found:.2g}")
    axes.set(xscale="log", xlabel="optimizer.lr", ylabel="loss", title="Learning-rate range test")
    axes.legend()
    return figure
