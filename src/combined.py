"""What is right alone and wrong together, of the parts of a training: refused before the first batch; and priors that
the loss or the sampler has taken out already, so that they are not taken out twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from src import decisions
from src.check.configs import option, tree
from src.contracts import ConfigError, Split, Task
from src.data.sampler import POWER, prior
from src.models.network import dry_run
from src.progressive import STEP, Progressive

# Optimizers of timm's that were seen to step with pieces of weights as they do with whole ones. Of the others, some
# know what is not shaped like a weight, and some change weights in ways that torch cannot follow into pieces.
DIVISIBLE = (
    "adabelief adadelta adagrad adam adamax adamw adan adopt adoptw lamb lambw laprop larc lars lion momentum nadam "
    "nadamw radam rmsprop rmsproptf sgd sgdw"
).split()


def fair(cfg: Mapping[str, Any], task: Task, train: Split, loss: Callable[[], Any]) -> Task:
    """The task, told which prior its trained head has learnt: `supposes` of the loss, or that of the sampler. Where
    all classes are to count the same (task.monitor=val/balanced_acc) what is left of it is taken out after the fit."""
    if task.mix is None or task.target != "class":
        return task
    learnt, sampler = getattr(loss(), "supposes", None), cfg["data"]["sampler"]
    if sampler in POWER:
        learnt = prior(train.targets, train.groups, sampler, task.outputs).clamp(min=1e-6).log()
    return task if learnt is None else replace(task, mix=partial(task.mix, learnt=learnt))


def refuse(cfg: Mapping[str, Any], trial: Any, task: Task) -> None:
    """Raises ConfigError. trial: the module as it would be trained."""
    decisions.suits(cfg["calibrate"], tree("calibrate/default"), task)
    if trial.mix is not None:
        _mix(cfg, trial, task)
    if trial.adversary is not None:
        _adversary(cfg, task)
    if cfg["data"]["sampler"] != "shuffled":
        _sampler(cfg, trial, task)
    strategy = cfg["trainer"]["strategy"]
    if isinstance(strategy, Mapping) and strategy["_target_"].startswith("src.fsdp."):
        _divided(cfg, trial)
    ema = cfg["callbacks"].get("ema") or {}
    rules = [f"callbacks.ema.{k}={ema[k]}" for k in ("decay", "memory", "last") if ema.get(k) is not None]
    if len(rules) > 1:
        raise ConfigError(f"{' and '.join(rules)} are two rules for one average.\nSet one of them to null.")


def growing(cfg: Mapping[str, Any], network: Any, task: Task) -> Progressive | None:
    """How large training images are in each epoch; None: always whole."""
    if (start := cfg["data"]["progressive"]) is None:
        return None
    said, epochs, size = f"data.progressive={start}", cfg["trainer"]["max_epochs"], network.spec.size
    if task.dense:
        raise ConfigError(f"{said}: masks would have to shrink with their images.\nSet data.progressive=null.")
    if epochs in (None, -1):
        raise ConfigError(f"{said} goes by epochs, and trainer.max_epochs={epochs}.\nSet trainer.max_epochs.")
    found = Progressive(start, size, epochs, math.lcm(STEP, network.patch))
    if found.at(0) == size:
        raise ConfigError(
            f"{said} trainer.max_epochs={epochs}: all would see whole images of {size[0]}x{size[1]} pixels, since "
            f"the last fifth of the epochs does, and sides are multiples of {found.step}.\n"
            "Set data.progressive to less, trainer.max_epochs to more, or data.progressive=null."
        )
    try:
        dry_run(network, said, found.at(0))
    except ConfigError as error:
        raise ConfigError(
            f"{str(error).splitlines()[0]}\nSet data.progressive=null, or, of a transformer with position embeddings, "
            "model.dynamic=true."
        ) from error
    return found


def _mix(cfg: Mapping[str, Any], trial: Any, task: Task) -> None:
    name, loss, asked = (option(key, cfg[key]) for key in ("mix", "loss", "task"))
    if task.target not in ("class", "labels"):
        raise ConfigError(
            f"mix={name}: the targets of task={asked} are {task.target}, and "
            " the mean of two of them is not what the mixed image shows.\nSet mix=none."
        )
    if not getattr(trial.loss, "soft", False):
        raise ConfigError(
            f"mix={name}: loss={loss} takes one class an image, and mixed images have parts of two.\n"
            "Set mix=none, or another loss, such as loss=cross_entropy."
        )
    epochs = cfg["trainer"]["max_epochs"]
    if trial.mix.off_epochs and (epochs in (None, -1) or trial.mix.off_epochs >= epochs):
        raise ConfigError(
            f"mix.off_epochs={trial.mix.off_epochs}: of trainer.max_epochs={epochs} no epoch is known to be left that "
            "mixes.\nSet mix.off_epochs to less than trainer.max_epochs, or mix=none."
        )


def _adversary(cfg: Mapping[str, Any], task: Task) -> None:
    if task.dense or task.embeds:
        name, asked = (cfg[key]["_target_"].rpartition(".")[2] for key in ("adversary", "task"))
        why = "one answer for each pixel" if task.dense else "a comparison with other images, which change as well"
        raise ConfigError(
            f"adversary={name.lower()} task={asked}: an attack turns the one answer to an image, and this task has "
            f"{why}.\nSet adversary=none."
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
            f"{said} shows rare classes more often, and loss={option('loss', cfg['loss'])} makes up for "
            "how rare they are once more: together they count too much.\n"
            "Set data.sampler=shuffled, or a loss that weighs nothing (loss=cross_entropy loss.class_weights=none)."
        )


def _divided(cfg: Mapping[str, Any], trial: Any) -> None:
    """What of a training needs each weight as a whole, where every rank has a piece of it."""
    words, optimizer = cfg["trainer"], cfg["optimizer"]
    key = "optimizer.base.opt" if "base" in optimizer else "optimizer.opt"
    opt = optimizer.get("base", optimizer).get("opt", "adamw")
    parts = {"network": trial.network, "loss": trial.loss}
    single = [f"{name}.{at}" for name, part in parts.items() for at, p in part.named_parameters() if not p.ndim]
    refused = {
        f"{key}={opt}": opt.lower() not in DIVISIBLE and f"Set {key} to one of {', '.join(DIVISIBLE)}",
        "trainer.gradient_clip_algorithm=agc": trial.clip == "agc"
        and "Set trainer.gradient_clip_algorithm=norm trainer.gradient_clip_val=1.0",
        f"penalty={option('penalty', cfg['penalty'])}": trial.penalty and "Set penalty=none",
        f"trainer.compile={str(words['compile']).lower()}": words["compile"] and "Set trainer.compile=false",
        "trainer.channels_last=true": words["channels_last"] is True and "Set trainer.channels_last=auto",
        f"{', '.join(single)}, a single number that learns": single
        and "Set model.head_scale to a number, if it is that of model.head=cosine; else another model.name or loss",
    }
    for asked, instead in refused.items():
        if instead:
            raise ConfigError(
                f"trainer=fsdp with {asked}: weights are in pieces, one on each rank, and it needs them whole.\n"
                f"{instead}; or trainer=ddp."
            )
