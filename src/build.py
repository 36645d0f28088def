"""From the words of a config to a Run: the images, the task, the network, and what makes the rest of them."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from src import buffers, combined, decisions, folder, hardware, origin, resume, screen, world
from src.callbacks.alike import Alike
from src.checkpoint import AtomicCheckpointIO
from src.columns import tensor
from src.contracts import ConfigError, InputSpec, Run, Source, Task
from src.data import masks
from src.data.audit import Audit, audit, leaks, without_leaks
from src.data.audit import card as audit_card
from src.data.audit import table as leak_table
from src.data.learnt import without_learnt
from src.data.loader import Loaders
from src.data.scan import fingerprint, scan
from src.data.suspects import without_suspects
from src.data.table import split_table
from src.factory import SOURCE, TASK, make, make_within
from src.learner import compose, loss_of, start
from src.models.network import Network
from src.models.saved import describe, load_model, save_model
from src.module import Module
from src.optimizers import tried
from src.stages import probe, robustness
from src.stages.candidates import AVERAGED, beside
from src.stats import metric

NOISELESS = (
    "data.suspects=drop: which labels are wrong is found by the probe of a task with one class an image, and this run "
    "has none, or counts rare classes as much as others.\nSet recipe=auto and task.monitor=val/acc, or "
    "data.suspects=keep."
)
# The candidates' networks -> callbacks by which a fit keeps them
WRITERS = {"best": ["best"], "last": ["last"], **{name: ["last", "ema"] for name in AVERAGED}}


def prepare(cfg: dict[str, Any], home: folder.RunFolder) -> Run:
    """The images, the task, the network, and what makes the rest of them."""
    hardware.refuse_impossible(cfg)
    hardware.obey(cfg)
    buffers.folder = Path(cfg["paths"]["cache"])
    source = make_within(cfg["data"]["source"], SOURCE)
    task = task_of(cfg, source)
    names = [f"val/{name}" for name in task.metrics()]
    if task.monitor not in names:
        raise ConfigError(f"task.monitor={task.monitor}: this task measures {', '.join(names)}.\nSet one of these.")
    first, _ = start(cfg, task, source.classes)
    spec, data = first.spec, cfg["data"]
    source = scan(source, spec.channels, data["bad_images"], Path(cfg["paths"]["cache"]), data["scan_limit"])
    source = masks.check(source, data["scan_limit"]) if source.labels.files else source
    found = audit(source, data["scan_limit"])
    pairs = leaks(found)
    if pairs and world.rank() == 0:
        folder.write(home.path / "leaks.csv", leak_table(source, pairs))
    whole = source
    source = without_learnt(without_leaks(source, pairs, data["leak"]), cfg)
    source = without_suspects(source, home.path, data["suspects"])
    changed = any(len(source.splits[name]) < len(split) for name, split in whole.splits.items())
    found = audit(source, data["scan_limit"]) if changed else found
    source = task.check(source) if task.check else source
    said = describe(first, known(cfg, source, spec, task))
    return equipped(cfg, home, source, found, task, spec, said, home.path / "checkpoints")


def equipped(
    cfg: dict[str, Any],
    home: folder.RunFolder,
    source: Source,
    found: Audit,
    task: Task,
    spec: InputSpec,
    said: dict[str, Any],
    checkpoints: Path,
) -> Run:
    data = {k: cfg["data"][k] for k in ("batch_size", "timeout", "resize", "cache_gb", "per_class", "sampler")}
    train = source.splits["train"]
    counted = {"counts": source.labels.counts(train.targets, source.classes), "images": len(train)}
    task = combined.fair(cfg, task, train, partial(loss_of, cfg, task, counted))
    r = Run(
        cfg=cfg,
        home=home,
        source=source,
        audit=found,
        task=task,
        spec=spec,
        network=lambda: start(cfg, task, source.classes, home)[0],
        module=partial(compose, cfg, task, said, counted),
        trainer=partial(trainer, cfg, home, source),
        loaders=Loaders(
            *(source, spec, cfg["seed"], make(cfg["augment"])),
            **data,
            cache=Path(cfg["paths"]["cache"]),
            workers=hardware.workers(cfg),
        ),
        checkpoints=checkpoints,
        fork=lambda name, **more: fork(r, said, name, **more),
        save=lambda net, more: save_model(net, home.path / "model", {**said, **more}),
        load=lambda: load_model(home.path / "model", *hardware.layout(cfg))[0],
        model=home.path / "model",
        decisions=decisions,
        leader=world.rank() == 0,
    )
    return r


def fork(
    r: Run,
    said: dict[str, Any],
    name: str,
    rate: float = 1.0,
    epochs: int | None = None,
    whole: Sequence[int] | None = None,
) -> Run:
    """The same run with checkpoints of its own, below those of `r`: at `rate` times the learning rate; only the first
    `epochs` of the schedule; on train and these images of val together, where nothing can be validated."""
    place, source = r.checkpoints / name, r.source
    cfg = folder.moved(copy.deepcopy(dict(r.cfg)), str(r.checkpoints), str(place))
    cfg["logger"], cfg["callbacks"] = {}, cfg.get("callbacks") or {}
    cfg["optimizer"]["lr"] *= rate
    if epochs:
        cfg["callbacks"]["pause"] = {"_target_": "src.callbacks.pause.Pause", "epochs": epochs}
    if whole is not None:
        both = source.splits["train"].joined(source.splits["val"].only(whole))
        source = replace(source, splits={**source.splits, "train": both})
        cfg["trainer"]["limit_val_batches"] = 0
        cfg["callbacks"] = {k: v for k, v in cfg["callbacks"].items() if "mode" not in v}  # those go by a val metric
    return equipped(cfg, r.home, source, r.audit, r.task, r.spec, said, place)


def build(cfg: dict[str, Any], home: folder.RunFolder) -> Run:
    """Everything that can be wrong is wrong here, before the first batch."""
    r = prepare(cfg, home)
    resume.same_data(home, fingerprint(r.source))
    network, trial, notes = checked(r)
    if r.leader:
        folder.write(home.path / "split.csv", split_table(r.source))
        home.update(images={name: len(split) for name, split in r.source.splits.items()})
        trained = trial.groups if fits(r) else []
        screen.cards(home, r.source, card(r), network, r.spec, notes, trained, cfg)
    return r


def fits(r: Run) -> bool:
    """Whether anything is trained."""
    return bool({"fit", "find_lr"} & {*r.cfg["stages"], *r.home.state().get("done", ())})


def checked(r: Run) -> tuple[Network, Module, list[str]]:
    """The network at its start, the module that trains it, and what was decided about both; ConfigError where these
    words cannot be obeyed on these images."""
    cfg, home = r.cfg, r.home
    if not probe.there(home) and (wants := [k for k in ("start", "select") if str(cfg[k]).startswith("probe")]):
        raise ConfigError(
            f"{wants[0]}={cfg[wants[0]]}: this run has no probe (recipe={cfg['recipe']}, or its weights are random, or "
            "its task has none).\nSet recipe=auto or recipe=probe, with pretrained weights."
        )
    if cfg["data"]["suspects"] == "drop" and not probe.there(home):
        raise ConfigError(NOISELESS)
    if r.task.close is None and ("+closing" in cfg["select"] or "+blend" in cfg["select"]):
        raise ConfigError(
            f"select={cfg['select']}: this task has no closing head.\nSet select=auto, ema, best or last."
        )
    if "+frozen" in cfg["select"] and not beside(r.task):
        raise ConfigError(
            f"select={cfg['select']}: a second backbone is for one class an image, of which none counts more.\n"
            "Set select=auto, ema, best or last."
        )
    if r.task.mix is None and "+blend" in cfg["select"]:
        raise ConfigError(
            f"select={cfg['select']}: two embeddings cannot be added up.\nSet select=auto, or one with +closing."
        )
    network_of, callbacks = cfg["select"].partition("+")[0], cfg.get("callbacks") or {}
    lacking = [name for name in WRITERS.get(network_of, ()) if name not in callbacks]
    if lacking and {"fit", "select"} <= {*cfg["stages"]}:
        raise ConfigError(
            f"select={cfg['select']} without callbacks.{lacking[0]}: it is that callback that keeps this network.\n"
            "Set callbacks=[default], or another select."
        )
    if fits(r):
        r.loaders.refuse_too_few()
    robustness.tests(r)
    network, notes = start(cfg, r.task, r.source.classes, home)
    trial = r.module(network)
    combined.refuse(cfg, trial, r.task)
    tried(trial.stepper, trial.groups)
    return network, trial, [*notes, *((*r.loaders.notes, *getattr(trial.loss, "notes", ())) if fits(r) else ())]


def task_of(cfg: dict[str, Any], source: Source) -> Task:
    """The task, of which the labels know nothing: they were read already."""
    words = {key: value for key, value in cfg["task"].items() if key != "labels"}
    return make_within(words, TASK)(classes=source.classes, targets=source.splits["train"].targets)


def card(r: Run) -> list[str]:
    """What is known of the images, and how good the best answer is that does not look at them."""
    if r.task.dense:  # the masks would have to be read: the test says it
        return audit_card(r.source, r.audit)
    blind = r.task.constant(tensor(r.source.splits["train"].targets))
    told = []
    for name, split in r.source.splits.items():
        if name != "train" and split.labelled:
            target = tensor(split.targets)
            value = metric(r.task, blind.expand(len(target), -1), target)
            told += [] if value is None else [f"{name} {value if abs(value) > 1e-12 else 0.0:.3g}"]
    said = [f"the best blind answer has {r.task.monitor.removeprefix('val/')}: {', '.join(told)}"] if told else []
    return [*audit_card(r.source, r.audit), *said]


def trainer(cfg: dict[str, Any], home: folder.RunFolder, source: Source, split: str | None = None) -> Any:
    """The trainer of the fit; with `split`, one that only predicts: no callbacks, no loggers, that split's limit."""
    words = {key: value for key, value in copy.deepcopy(cfg["trainer"]).items() if key not in hardware.OWN}
    words |= {"gradient_clip_algorithm": "norm"}  # the module clips
    words |= {"inference_mode": False} if cfg["trainer"]["compile"] else {}  # it would be compiled once more
    limits = {name: words[f"limit_{name}_batches"] for name in ("val", "test")}
    limits["train"] = words["limit_train_batches"]
    if split:
        words |= {"profiler": None, "fast_dev_run": False, "overfit_batches": 0.0, "max_time": None}
        words |= {"enable_checkpointing": False, "enable_progress_bar": False, "limit_predict_batches": limits[split]}
        return make(words)(logger=False)
    resumed = resume.step(home)
    loggers = copy.deepcopy(cfg.get("logger")) or {}
    if resumed and "tensorboard" in loggers:
        loggers["tensorboard"]["purge_step"] = resumed + 1
    wanted = dict(cfg.get("callbacks") or {})
    if not loggers:  # Lightning's monitor of learning rates refuses to work for nobody
        wanted.pop("lr_monitor", None)
    if not words["enable_progress_bar"]:
        wanted.pop("progress", None)
    callbacks = [make(node) for node in wanted.values()]
    if hardware.ranks(cfg) > 1:
        own = {"config": hashlib.sha256(json.dumps(cfg, sort_keys=True, default=str).encode()).hexdigest()[:12]}
        callbacks.append(Alike(**own, images=fingerprint(source)[:12], versions=str(origin.versions())))
    return make(words)(
        callbacks=callbacks,
        logger=[make(node) for node in loggers.values()] or False,
        plugins=[AtomicCheckpointIO()],
    )


def known(cfg: dict[str, Any], source: Any, spec: Any, task: Any) -> dict[str, Any]:
    """What model.json says of a network beside its weights."""
    fixed = {
        "candidates": None,
        "top": 1,
        "grad_checkpointing": False,
        "pretrained": False,
        "weights": None,
        "image_size": spec.size[0],
        "in_chans": spec.channels,
    }
    build = {**cfg["model"], **{k: v for k, v in fixed.items() if k in cfg["model"]}}
    return {
        "build": build,
        "task": {key: value for key, value in cfg["task"].items() if key != "labels"},
        "labels": {**cfg["task"].get("labels", {}), "columns": list(source.labels.columns)},
        "monitor": task.monitor,
        "target": task.target,
        "classes": list(source.classes),
        "resize": cfg["data"]["resize"],
        "versions": {"torch": torch.__version__, **origin.versions()},
    }
