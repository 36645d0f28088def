"""The network at its start, its loss, and the module that trains it, from the words of a config."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch

from src import combined, folder, hardware, resume, rng
from src.check.configs import option
from src.contracts import ConfigError, Task
from src.factory import make
from src.finetune.policy import groups
from src.models.dense import DenseNetwork
from src.models.network import Network, dry_run
from src.models.weights import load_weights
from src.module import Module
from src.stages import probe


def start(
    cfg: dict[str, Any], task: Task, classes: tuple[str, ...], home: folder.RunFolder | None = None
) -> tuple[Network, list[str]]:
    """The network at its starting weights, and what was decided about them."""
    rng.seed(cfg["seed"], "weights")
    file, same = resume.weights(cfg["init_from"], classes) if cfg["init_from"] else (None, True)
    given = {"weights": str(file)} if file and "weights" in cfg["model"] else {}  # so that its input spec is taken too
    fixed = {"head": "linear", "pool": "default"} if task.dense else {} if task.outputs else {"head": "linear"}
    if unread := [f"model.{k}={v}" for k, usual in fixed.items() if (v := cfg["model"].get(k, usual)) != usual]:
        why = "masks have a decoder of their own" if task.dense else "this task begins with the features as they are"
        raise ConfigError(f"{' '.join(unread)}: {why}.\nLeave {' and '.join(f'model.{k}' for k in fixed)} out.")
    backbone = make({**cfg["model"], **given})
    outputs = task.outputs or backbone.features
    network = DenseNetwork(backbone, outputs) if task.dense else Network(backbone, outputs, unit=task.unit)
    if not task.outputs:  # it begins with the features as they are
        network.answer(torch.eye(outputs), torch.zeros(outputs))
    dry_run(network, f"model.name={cfg['model'].get('name', cfg['model']['_target_'])}")
    if file or backbone.weights:
        notes = load_weights(network, file or backbone.weights, backbone.convert, keep_head=same or task.embeds)
    else:
        origin = "timm's pretrained" if cfg["model"].get("pretrained") else "random"
        notes = [f"weights: {origin}; the head is new"]
    network.suit(*hardware.layout(cfg))
    if network.layout is torch.contiguous_format and cfg["trainer"]["channels_last"] == "auto":
        why = "cuDNN builds depthwise convolutions in channels_last anew for each size of a batch"
        notes.append(f"images lie in planes (trainer.channels_last): {why}")
    if cfg["trainer"].get("sync_batchnorm"):  # for which Lightning replaces all of them
        network.unfold()
    if cfg["start"] == "probe" and home:
        network.answer(*probe.read(home).last)
        notes.append("head: solved by the probe")
    return network, notes


def compose(cfg: dict[str, Any], task: Task, said: dict[str, Any], known: dict[str, Any], network: Network) -> Module:
    """known: counts (training images of each class) and images; a loss that waits for them is given what it names."""
    optimizer, policy = make(cfg["optimizer"]), make(cfg["finetune"])
    lr, decay = cfg["optimizer"]["lr"], cfg["optimizer"].get("weight_decay", 0.0)
    loss = loss_of(cfg, task, {**known, "outputs": network.outputs, **({"parts": task.parts} if task.parts else {})})
    told = {"kind": cfg["task"]["_target_"], "classes": said["classes"], "channels": network.spec.channels}
    loss = make(cfg["distill"])(loss=loss, task=task, standard=network.standard, **told)
    places = {"layers": network.layers, "no_decay": network.no_decay}
    chosen = partial(groups, policy, **places, lr=lr, weight_decay=decay, loss=loss, seed=cfg["seed"])
    more: dict[str, Any] = {key: make(cfg[key]) for key in ("mix", "penalty", "adversary")}
    more |= {"clip": cfg["trainer"]["gradient_clip_algorithm"], "progressive": combined.growing(cfg, network, task)}
    more |= {"compiler": hardware.compiler(cfg), "epochs": cfg["trainer"]["max_epochs"]}
    return Module(network, task, loss, chosen, optimizer, make(cfg["scheduler"]), cfg["seed"], said, **more)


def loss_of(cfg: dict[str, Any], task: Task, known: dict[str, Any]) -> Any:
    with rng.keyed(cfg["seed"], "loss"):
        loss = make(cfg["loss"])
        suits(cfg, loss, task)
        if isinstance(loss, partial):
            asked = inspect.signature(loss).parameters
            loss = loss(**{key: value for key, value in known.items() if key in asked})
    return loss


def suits(cfg: dict[str, Any], loss: Any, task: Task) -> None:
    """Raises where the loss is for another kind of target, or other batches: it might train without a word, towards
    nothing."""
    kind = loss.func if isinstance(loss, partial) else loss
    takes = getattr(kind, "takes", task.target)
    name, asked = (option(key, cfg[key]) for key in ("loss", "task"))
    if takes != task.target:
        raise ConfigError(
            f"loss={name} cannot take the targets of task={asked}: it is for {takes}, and they are {task.target}.\n"
            "Leave loss out (the task brings its own), or choose one that is for them."
        )
    if getattr(kind, "several", False) and cfg["data"]["per_class"] < 2:
        raise ConfigError(
            f"loss={name} data.per_class={cfg['data']['per_class']}: it compares images of one class, which would meet "
            "in a batch by chance only.\nSet data.per_class=4, or choose another loss."
        )
    learns = getattr(loss, "spread", None)
    if learns != task.spread:
        raise ConfigError(
            f"task.spread={task.spread}: the loss learns {learns or 'no spread'} of each number, and the task reads "
            "something else.\nLeave task.spread out: it follows loss.quantiles or loss.interval, of task=regression."
        )
