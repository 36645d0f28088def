"""What is right alone and wrong together, of the parts of a training: refused before the first batch; and priors that
the loss or the sampler has taken out already, so that they are not taken out twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from src import decisions
from src.contracts import ConfigError, Task
from src.data.sampler import POWER


def fair(cfg: Mapping[str, Any], task: Task, counts: Sequence[int], loss: Callable[[], Any]) -> Task:
    """The task, told which prior its trained head has learnt: `supposes` of the loss, or that of the sampler. Where
    all classes are to count the same (task.monitor=val/balanced_acc) what is left of it is taken out after the fit."""
    if task.mix is None or task.target != "class":
        return task
    learnt, sampler = getattr(loss(), "supposes", None), cfg["data"]["sampler"]
    if sampler in POWER:
        learnt = (torch.tensor(counts).clamp(min=1).float().log() * POWER[sampler]).log_softmax(0)
    return task if learnt is None else replace(task, mix=partial(task.mix, learnt=learnt))


def refuse(cfg: Mapping[str, Any], trial: Any, task: Task) -> None:
    """Raises ConfigError. trial: the module as it would be trained."""
    decisions.suits(cfg["calibrate"], task)
    if trial.mix is not None:
        _mix(cfg, trial, task)
    if cfg["data"]["sampler"] != "shuffled":
        _sampler(cfg, trial, task)
    if cfg["callbacks"].get("ema", {}).get("last") and cfg["callbacks"]["ema"]["decay"] is not None:
        raise ConfigError(
            "callbacks.ema.last and callbacks.ema.decay are two rules for one average.\nSet one of them to null."
        )


def _mix(cfg: Mapping[str, Any], trial: Any, task: Task) -> None:
    name, loss = (cfg[key]["_target_"].rpartition(".")[2] for key in ("mix", "loss"))
    if task.target not in ("class", "labels"):
        raise ConfigError(
            f"mix={name.lower()}: the targets of task={cfg['task']['_target_'].rpartition('.')[2]} are {task.target}, "
            "and the mean of two of them is not what the mixed image shows.\nSet mix=none."
        )
    if not getattr(trial.loss, "soft", False):
        raise ConfigError(
            f"mix={name.lower()}: loss={loss} takes one class an image, and mixed images have parts of two.\n"
            "Set mix=none, or another loss, such as loss=cross_entropy."
        )
    epochs = cfg["trainer"]["max_epochs"]
    if trial.mix.off_epochs and (epochs in (None, -1) or trial.mix.off_epochs >= epochs):
        raise ConfigError(
            f"mix.off_epochs={trial.mix.off_epochs}: of trainer.max_epochs={epochs} no epoch is known to be left that "
            "mixes.\nSet mix.off_epochs to less than trainer.max_epochs, or mix=none."
        )


def _sampler(cfg: Mapping[str, Any], trial: Any, task: Task) -> None:
    said = f"data.sampler={cfg['data']['sampler']}"
    if task.target != "class":
        raise ConfigError(
            f"{said} goes by the class of an image, and the targets of this task are {task.target}.\n"
            "Set data.sampler=shuffled."
        )
    if cfg["data"]["per_class"] > 1:
        raise ConfigError(
            f"{said} with data.per_class={cfg['data']['per_class']}: these are two orders of the same images.\n"
            "Set data.per_class=1, or data.sampler=shuffled."
        )
    if hasattr(trial.loss, "supposes"):
        raise ConfigError(
            f"{said} shows rare classes more often, and loss={cfg['loss']['_target_'].rpartition('.')[2]} makes up for "
            "how rare they are once more: together they count too much.\n"
            "Set data.sampler=shuffled, or a loss that weighs nothing (loss=cross_entropy loss.class_weights=none)."
        )
