"""THE ROAD: decide what is run, build it, go through the stages. A reader meets everything in the order it happens."""

from __future__ import annotations

import copy
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig

from src import folder, hardware, recipe, report_card, resume, rng, signals, world
from src.check import configs
from src.checkpoint import AtomicCheckpointIO
from src.contracts import ConfigError, DataError, Run
from src.data.audit import audit, leaks, without_leaks
from src.data.audit import card as audit_card
from src.data.audit import table as leak_table
from src.data.loader import Loaders
from src.data.scan import fingerprint, scan
from src.data.table import split_table
from src.factory import make
from src.finetune.policy import groups
from src.models.network import Network, describe, dry_run, load_model, save_model
from src.models.weights import load_weights
from src.module import Module
from src.optimizers import tried
from src.stages import probe
from src.stages.fit import fit
from src.stages.pace import pace
from src.stages.report import report
from src.stages.select import select
from src.stages.test import test

STAGES = {stage.__name__: stage for stage in (fit, select, test, report)}


def job(cfg: DictConfig) -> int:
    """One run, from the door: the exit code. Faults are told in a paragraph; DEBUG=1 shows the traceback."""
    home: folder.RunFolder | None = None
    code, state = 1, "failed"
    quiet()
    try:
        signals.install()
        home = resume.open_home(cfg)
        run(cfg, home)
        return 0
    except (ConfigError, DataError) as error:
        code = 2 if isinstance(error, ConfigError) else 3
        _tell(error)
    except signals.Stopped as stop:
        code, state = stop.code, "preempted"
        if home and world.rank() == 0:
            print(f"\nStopped. To go on: {report_card.resume_command(home)}", file=sys.stderr)
    except Exception as error:
        _tell(error)
    finally:
        signals.defer(False)
    if home and home.locked and home.state().get("state") == "running":
        home.update(state=state)
    if home and home.locked and code in (2, 3):
        resume.discard(home)
    return code


def quiet() -> None:
    """Lightning's notes about devices and paid services, and what torch 2.14 says of Lightning 2.6's own code."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
    warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging interval")
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # a resumed run's own


def _tell(error: Exception) -> None:
    if os.environ.get("DEBUG"):
        traceback.print_exc()
    name = "" if isinstance(error, ConfigError | DataError) else f"{type(error).__name__}: "
    hint = "" if isinstance(error, ConfigError | DataError) else "\nDEBUG=1 shows where."
    print(f"\n{name}{error}{hint}", file=sys.stderr)


def run(cfg: DictConfig, home: folder.RunFolder) -> dict[str, float]:
    leader = world.rank() == 0
    with home.lock() if leader else resume.follow(home):
        if leader and not home.config.is_file():
            cfg = decide(cfg, home)
        words = resume.decide(cfg, home) if leader else resume.read(cfg, home)
        if not set(words["stages"]) - set(home.state()["done"]):
            if leader:
                home.update(state="finished")
                print(f"\nThe stages {', '.join(words['stages'])} of {home.path} are done.")
                report_card.last_screen(home)
            return home.metrics()
        r = build(words, home)
        for name in STAGES:
            if name in words["stages"]:
                home.once(STAGES[name], r, r.leader)
        if leader:
            home.update(state="finished", ended=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
            report_card.last_screen(home)
        return home.metrics()


def decide(cfg: DictConfig, home: folder.RunFolder) -> DictConfig:
    """What the user left open: the data are looked at, the frozen network is asked, and the recipe's overrides are
    composed under the user's own, which therefore win."""
    words, typed = resume.plain(cfg), resume.typed()
    if words["recipe"] == "off":
        return cfg
    began, given = time.monotonic(), configs.given(typed)
    left = seconds(words["budget"]) - hardware.startup() if words["budget"] else None
    r = prepare({**words, "start": "random", "select": "last"}, home)  # neither is decided yet
    probed, budget, where = None, None, hardware.accelerator(words)
    device = {"gpu": "cuda"}.get(where, where)
    if words["recipe"] != "fast" and r.task.solve is not None and pretrained(words):
        probed = probe.probe(r, device, questions(r, given), left / 4 if left else None)
    if left:
        speed, images = pace(r, device), len(r.source.splits.get("test", ()))
        budget = recipe.Budget(left, time.monotonic() - began, speed.train, speed.predict, images)
    plan = recipe.plan(replace(facts(r, where, probed), budget=budget), words, given)
    folder.write(home.path / "recipe.md", report_card.recipe(audit_card(r.source, r.audit), plan, typed, probed))
    home.update(seconds={"decide": round(time.monotonic() - began, 2)})
    return resume.absolute(hydra.compose("train", [*(decision.override for decision in plan), *typed]))


def seconds(budget: str) -> float:
    """10m -> 600."""
    return float(budget[:-1]) * {"s": 1, "m": 60, "h": 3600}[budget[-1]]


def questions(r: Run, given: Collection[str]) -> tuple[str, ...]:
    """What is worth asking the frozen network: what the user has not said, of images that can tell."""
    asked = [] if "data.flip" in given else ["mirror"]
    asked += ["grey"] if r.spec.channels == 3 and "augment" not in given else []
    narrow, _, wide = r.audit.aspect or (1.0, 1.0, 1.0)
    asked += ["resize"] if "data.resize" not in given and (narrow < 0.9 or wide > 1.1) else []
    return tuple(asked)


def pretrained(cfg: Mapping[str, Any]) -> bool:
    return bool(cfg["init_from"] or cfg["model"].get("weights") or cfg["model"].get("pretrained", True))


def facts(r: Run, where: str, probed: recipe.Probed | None) -> recipe.Facts:
    network = r.network()
    return recipe.Facts(
        images=len(r.source.splits["train"]),
        val=len(r.source.splits["val"]),
        counts=r.audit.counts,
        size=r.spec.size[0],
        channels=r.spec.channels,
        family=network.family,
        pretrained=pretrained(r.cfg),
        ordered=bool(network.layers),
        device=where,
        bf16=where == "gpu" and torch.cuda.is_bf16_supported(),
        probed=probed,
    )


def prepare(cfg: dict[str, Any], home: folder.RunFolder) -> Run:
    """The images, the task, the network, and what makes the rest of them."""
    hardware.refuse_impossible(cfg)
    source = make(cfg["data"]["source"])
    task = make(cfg["task"])(classes=source.classes)
    names = [f"val/{name}" for name in task.metrics()]
    if task.monitor not in names:
        raise ConfigError(f"task.monitor={task.monitor}: this task measures {', '.join(names)}.\nSet one of these.")
    first, _ = start(cfg, task.outputs, source.classes)
    spec, data = first.spec, cfg["data"]
    source = scan(source, spec.channels, data["bad_images"], Path(cfg["paths"]["cache"]), data["scan_limit"])
    found = audit(source, data["scan_limit"])
    pairs = leaks(found)
    if pairs and world.rank() == 0:
        folder.write(home.path / "leaks.csv", leak_table(source, pairs))
    source = without_leaks(source, pairs, data["leak"])
    found = audit(source, data["scan_limit"]) if pairs and data["leak"] == "drop" else found
    loaders = Loaders(
        source,
        spec,
        cfg["seed"],
        make(cfg["augment"]),
        **{k: data[k] for k in ("batch_size", "num_workers", "timeout", "resize", "cache_gb")},
        cache=Path(cfg["paths"]["cache"]),
    )
    said = describe(first, known(cfg, source, spec, task))
    return Run(
        cfg=cfg,
        home=home,
        source=source,
        audit=found,
        task=task,
        spec=spec,
        network=lambda: start(cfg, task.outputs, source.classes, home)[0],
        module=partial(compose, cfg, task, said),
        trainer=partial(trainer, cfg, home),
        loaders=loaders,
        save=lambda net, more: save_model(net, home.path / "model", {**said, **more}),
        load=lambda: load_model(home.path / "model")[0],
        leader=world.rank() == 0,
    )


def build(cfg: dict[str, Any], home: folder.RunFolder) -> Run:
    """Everything that can be wrong is wrong here, before the first batch."""
    r = prepare(cfg, home)
    resume.same_data(home, fingerprint(r.source))
    if not probe.there(home) and (wants := [k for k in ("start", "select") if str(cfg[k]).startswith("probe")]):
        raise ConfigError(
            f"{wants[0]}={cfg[wants[0]]}: this run has no probe (recipe={cfg['recipe']}, or its weights are random).\n"
            "Set recipe=auto or recipe=probe, with pretrained weights."
        )
    r.loaders.refuse_too_few()
    network, notes = start(cfg, r.task.outputs, r.source.classes, home)
    trial = r.module(network)
    tried(trial.optimizer, trial.groups)
    if r.leader:
        folder.write(home.path / "split.csv", split_table(r.source))
        home.update(images={name: len(split) for name, split in r.source.splits.items()})
        report_card.cards(
            home, r.source, audit_card(r.source, r.audit), network, r.spec, [*notes, *r.loaders.notes], trial, cfg
        )
    return r


def start(
    cfg: dict[str, Any], outputs: int, classes: tuple[str, ...], home: folder.RunFolder | None = None
) -> tuple[Network, list[str]]:
    """The network at its starting weights, and what was decided about them."""
    rng.seed(cfg["seed"], "weights")
    file, same = resume.weights(cfg["init_from"], classes) if cfg["init_from"] else (None, True)
    given = {"weights": str(file)} if file and "weights" in cfg["model"] else {}  # so that its input spec is taken too
    backbone = make({**cfg["model"], **given})
    network = Network(backbone, outputs).to(memory_format=torch.channels_last)  # 1.3–2.6 × on CPU convolutions
    dry_run(network, f"model.name={cfg['model'].get('name', cfg['model']['_target_'])}")
    if file or backbone.weights:
        notes = load_weights(network, file or backbone.weights, backbone.convert, keep_head=same)
    else:
        origin = "timm's pretrained" if cfg["model"].get("pretrained") else "random"
        notes = [f"weights: {origin}; the head is new"]
    if cfg["start"] == "probe" and home:
        network.answer(*probe.read(home).last)
        notes.append("head: solved by the probe")
    return network, notes


def compose(cfg: dict[str, Any], task: Any, said: dict[str, Any], network: Network) -> Module:
    optimizer, policy = make(cfg["optimizer"]), make(cfg["finetune"])
    lr, decay = cfg["optimizer"]["lr"], cfg["optimizer"].get("weight_decay", 0.0)
    chosen = partial(groups, policy, layers=network.layers, no_decay=network.no_decay, lr=lr, weight_decay=decay)
    return Module(network, task, make(cfg["loss"]), chosen, optimizer, make(cfg["scheduler"]), cfg["seed"], said)


def trainer(cfg: dict[str, Any], home: folder.RunFolder, split: str | None = None) -> Any:
    """The trainer of the fit; with `split`, one that only predicts: no callbacks, no loggers, that split's limit."""
    words = copy.deepcopy(cfg["trainer"])
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
    return make(words)(
        callbacks=[make(node) for node in wanted.values()],
        logger=[make(node) for node in loggers.values()] or False,
        plugins=[AtomicCheckpointIO()],
    )


def known(cfg: dict[str, Any], source: Any, spec: Any, task: Any) -> dict[str, Any]:
    """What model.json says of a network beside its weights."""
    fixed = {"pretrained": False, "weights": None, "image_size": spec.size[0], "in_chans": spec.channels}
    build = {**cfg["model"], **{k: v for k, v in fixed.items() if k in cfg["model"]}}
    return {
        "build": build,
        "task": cfg["task"]["_target_"],
        "monitor": task.monitor,
        "classes": list(source.classes),
        "resize": cfg["data"]["resize"],
        "versions": {"torch": torch.__version__, **resume.versions()},
    }
