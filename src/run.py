"""THE ROAD: decide what is run, build it, go through the stages. A reader meets everything in the order it happens."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import hydra
import torch
from omegaconf import DictConfig

from src import combined, doors, folder, hardware, recipe, resume, screen, signals, world
from src.build import build, card, prepare
from src.check import configs
from src.contracts import ConfigError, DataError, Run
from src.factory import make
from src.facts import Budget, Facts, Probed, Ranked
from src.pages.report import report
from src.settle import settle
from src.stages import pixels, probe
from src.stages.calibrate import calibrate
from src.stages.find_lr import find_lr
from src.stages.fit import fit
from src.stages.pace import pace
from src.stages.refit import refit
from src.stages.robustness import robustness
from src.stages.select import select
from src.stages.test import test

STAGES = {stage.__name__: stage for stage in (find_lr, fit, select, calibrate, refit, test, robustness, report)}


def job(cfg: DictConfig) -> int:
    """One run, from the door: the exit code. Faults are told in a paragraph; DEBUG=1 shows the traceback."""
    home: folder.RunFolder | None = None
    code, state = 1, "failed"
    quiet()
    try:
        signals.install()
        world.end_with_parent()
        home = resume.open_home(cfg)
        run(cfg, home)
        return 0
    except signals.Stopped as stop:
        # Lightning's launcher would kill rank 0, which may still be saving, when another one ends with a code
        code, state = 0 if world.launched() else stop.code, "preempted"
        if home and world.rank() == 0:
            print(f"\nStopped. To go on: {screen.resume_command(home)}", file=sys.stderr)
    except (ConfigError, DataError) as error:
        code = doors.told(error)
    except Exception as error:
        code = doors.told(error, _why(error, home) if home else "")
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


def _why(error: Exception, home: folder.RunFolder) -> str:
    """What is behind a fault that lies in no word of the user; '' where that is not known."""
    if lost := world.lost(error):
        again = screen.resume_command(home)
        return f"{lost}\nWhat that one has said is above, or it was killed. To go on, with as many ranks: {again}"
    return hardware.too_large(error, home.words()) if home.config.is_file() else ""


def run(cfg: DictConfig, home: folder.RunFolder) -> dict[str, float]:
    leader = world.rank() == 0
    with home.lock() if leader else resume.follow(home):
        if leader and not home.config.is_file():
            cfg = settle(decide(cfg, home), home)
        words = resume.decide(cfg, home) if leader else resume.read(cfg, home)
        if not set(words["stages"]) - set(home.state()["done"]):
            if leader:
                home.update(state="finished")
                print(f"\nThe stages {', '.join(words['stages'])} of {home.path} are done.")
                screen.last_screen(home)
            return home.metrics()
        r = build(words, home)
        for name in STAGES:
            if name in words["stages"]:
                home.once(STAGES[name], r, r.leader)
        if leader:
            home.update(state="finished", ended=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
            screen.last_screen(home)
        return home.metrics()


def decide(cfg: DictConfig, home: folder.RunFolder) -> DictConfig:
    """What the user left open: the data are looked at, the frozen network is asked, and the recipe's overrides are
    composed under the user's own, which therefore win."""
    words, typed = resume.plain(cfg), [word for word in resume.typed() if word != "augment=auto"]
    if words["recipe"] == "off":
        return cfg
    began, given = time.monotonic(), configs.given(typed)
    left = seconds(words["budget"]) - hardware.startup() if words["budget"] else None
    where, device = hardware.accelerator(words), hardware.device(words)
    r, ranked = best_of([prepare(cfg, home) for cfg in contenders(words)], device, left)
    words, probed, budget = {**words, "model": r.cfg["model"]}, None, None
    possible(r, given)
    if words["recipe"] != "fast" and r.task.solve is not None and pretrained(words):
        probed = (pixels if r.task.dense else probe).probe(r, device, questions(r, given), left / 4 if left else None)
    if left:
        speed, images = pace(r, device), len(r.source.splits.get("test", ()))
        budget = Budget(left, time.monotonic() - began, speed.train, speed.predict, images)
    plan = recipe.plan(replace(facts(r, where, probed), budget=budget, ranked=ranked), words, given)
    folder.write(home.path / "recipe.md", screen.recipe(card(r), plan, typed, probed))
    home.update(seconds={"decide": round(time.monotonic() - began, 2)})
    return resume.absolute(hydra.compose("train", [*(decision.override for decision in plan), *typed]))


def possible(r: Run, given: Collection[str]) -> None:
    """Refuses what cannot be trained before the probe takes its time; how many epochs there will be is still open."""
    epochs = r.cfg["trainer"]["max_epochs"] if "trainer.max_epochs" in given else sys.maxsize
    trainer = {**r.cfg["trainer"], "max_epochs": epochs}
    combined.refuse({**r.cfg, "trainer": trainer}, r.module(r.network()), r.task)


def contenders(words: dict[str, Any]) -> list[dict[str, Any]]:
    """The config as it is, or with each of model.candidates in turn; what the recipe has yet to decide is left out."""
    words = {**words, "start": "random", "select": "last", "augment": dict(words["augment"])}
    if words["augment"].get("policy") == "auto":
        words["augment"]["policy"] = None
    wanted = words["model"].get("candidates") or {}
    wanted = wanted if isinstance(wanted, dict) else dict.fromkeys(wanted)
    models = [{**words["model"], "name": name, "weights": file} for name, file in wanted.items()]
    return [{**words, "model": model} for model in models or [words["model"]]]


def best_of(runs: list[Run], device: str, left: float | None) -> tuple[Run, tuple[Ranked, ...]]:
    """The run whose frozen network knows most of these images, and all of them in that order."""
    if len(runs) == 1:
        return runs[0], ()
    share, ranked = left / 4 / len(runs) if left else None, []
    for r in runs:
        begun, cost = time.monotonic(), sum(p.numel() for p in r.network().parameters()) / 1e6
        score = (pixels if r.task.dense else probe).rank(r, device, share)
        ranked.append(Ranked(r.cfg["model"]["name"], r.cfg["model"]["weights"], score, cost, time.monotonic() - begun))
    order = sorted(range(len(runs)), key=lambda i: (-ranked[i].score, i))
    return runs[order[0]], tuple(ranked[i] for i in order)


def seconds(budget: str) -> float:
    """10m -> 600."""
    return float(budget[:-1]) * {"s": 1, "m": 60, "h": 3600}[budget[-1]]


def questions(r: Run, given: Collection[str]) -> tuple[str, ...]:
    """What is worth asking the frozen network: what the user has not said, of images that can tell."""
    asked = [] if "data.flip" in given else ["mirror"]
    upright = r.task.target == "class" and not r.task.geometric
    asked += ["turn"] if upright and not {"augment", "data.colour"} & set(given) else []
    asked += ["grey"] if r.spec.channels == 3 and not {"augment", "data.colour"} & set(given) else []
    narrow, _, wide = r.audit.aspect or (1.0, 1.0, 1.0)
    asked += ["resize"] if not r.task.dense and "data.resize" not in given and (narrow < 0.9 or wide > 1.1) else []
    return tuple(asked)


def pretrained(cfg: Mapping[str, Any]) -> bool:
    return bool(cfg["init_from"] or cfg["model"].get("weights") or cfg["model"].get("pretrained", True))


def facts(r: Run, where: str, probed: Probed | None) -> Facts:
    network = r.network()
    return Facts(
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
        ranks=hardware.ranks(r.cfg),
        probed=probed,
        dense=r.task.dense,
        embeds=r.task.embeds,
        geometric=r.task.geometric,
        rate=make(r.cfg["finetune"]).rate,
    )
