"""Several networks are fine-tuned side by side, each as its recipe wants it: after each round the better half on val
goes on from where it is, until one is left. That one ends its fit as the run's own; the others are thrown away.

A network is a run folder below the run's, with a config of its own; what is known is in run.json, so that a contest
that is killed goes on at the fit, and the batch, where it was."""

from __future__ import annotations

import math
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src import folder, halving, networks, resume, world
from src.build import prepare
from src.checkpoint import NonFinite
from src.contracts import ConfigError, Run
from src.data.scan import fingerprint
from src.stages import select
from src.stages.candidates import candidates, parts
from src.stages.fit import survived
from src.stages.predict import measure

LEAST = 3.0  # seconds until the first comparison, below which it would be chance
LOGGERS = ("csv", "tensorboard")  # that write into the run folder; others would be told of runs that are thrown away


def homes(home: folder.RunFolder, names: Sequence[str]) -> list[folder.RunFolder]:
    """A folder for each network; the run's own where there is one network."""
    shutil.rmtree(home.path / folder.CONTEST, ignore_errors=True)  # of a process that was killed before it had decided
    if len(names) < 2:
        return [home]
    places = [
        home.path / folder.CONTEST / f"{i + 1}-{re.sub(r'[^a-zA-Z0-9_.-]', '_', name)}" for i, name in enumerate(names)
    ]
    for place in places:
        place.mkdir(parents=True)
    return [folder.RunFolder(place) for place in places]


def begin(home: folder.RunFolder, own: Sequence[folder.RunFolder], cfgs: Sequence[DictConfig]) -> None:
    """Writes down who takes part."""
    for place, cfg in zip(own, cfgs, strict=True):
        cfg = cfg.copy()
        cfg.run_dir, cfg.resume = str(place.path), None
        OmegaConf.set_struct(cfg, False)
        for name in set(cfg.logger or {}) - set(LOGGERS):
            del cfg.logger[name]
        resume.keep(cfg, place)
    folder.write(home.path / "recipe.md", (own[0].path / "recipe.md").read_text(encoding="utf-8"))  # until one has won
    measured = {"monitor": cfgs[0].task.monitor, "mode": cfgs[0].task.mode}
    home.update(contest={"rivals": [place.path.name for place in own], "scores": {}, **measured})


def refuse(cfgs: Sequence[DictConfig]) -> None:
    """ConfigError where there is nothing to go on from, or a budget leaves no time for several fits."""
    if "last" not in (cfgs[0].callbacks or {}):
        raise ConfigError(
            f"model.top={len(cfgs)} without callbacks.last: each fit stops after a part of it, and goes on from what "
            "that callback has left.\nLeave ~callbacks.last out, or set model.top=1."
        )
    if not cfgs[0].budget or all(_enough(cfg, len(cfgs)) for cfg in cfgs):
        return
    plans = (f"{c.model.name}: {c.trainer.max_epochs} epochs, {_seconds(c) or 0:.0f} s" for c in cfgs)
    raise ConfigError(
        f"model.top={len(cfgs)} budget={cfgs[0].budget}: probes and later stages leave too little to fit {len(cfgs)} "
        f"networks and to compare them after a part of their fits ({'; '.join(plans)}).\n"
        "Set a larger budget, fewer model.candidates, or model.top=1: the best by the probe alone is fitted."
    )


def _enough(cfg: DictConfig, rivals: int) -> bool:
    first = 2 ** -len(halving.ends(rivals, 1))
    return cfg.trainer.max_epochs * first >= 1 and (_seconds(cfg) or 0) * first >= LEAST


def _seconds(cfg: DictConfig) -> float | None:
    """Of a fit; None where the budget leaves the probe alone."""
    return OmegaConf.select(cfg, "callbacks.deadline.seconds")


def going(home: folder.RunFolder, words: Mapping[str, Any]) -> bool:
    """Whether there is a contest to go on with; ConfigError where these stages pass over it."""
    there = (home.path / folder.CONTEST).is_dir()
    if there and "fit" not in words["stages"]:
        raise ConfigError(
            f"stages=[{','.join(words['stages'])}]: {home.path} has several networks (model.top), of which a fit of "
            "each finds the one that goes on.\nAdd fit to the stages."
        )
    return there


def hold(cfg: DictConfig, home: folder.RunFolder) -> None:
    """On every rank. Afterwards the run folder is that of the winner, which has come so far in its fit."""
    said, leader = home.state()["contest"], world.rank() == 0
    scores: dict[str, list[float]] = said["scores"]
    left = list(said["rivals"])
    for turn in range(len(halving.ends(len(left), 1)) if "winner" not in said else 0):
        for name in left:
            if len(scores.get(name, ())) <= turn:
                begun = time.monotonic()
                scores = scores | {name: [*scores.get(name, ()), fitted(cfg, home, name, turn, len(said["rivals"]))]}
                if leader:
                    _keep(home, said | {"scores": scores}, time.monotonic() - begun)
        if all(math.isnan(scores[name][turn]) for name in left):
            raise NonFinite(
                f"None of the networks could be fitted ({', '.join(left)}): no loss stayed finite.\n"
                "Start again with a lower optimizer.lr or trainer.gradient_clip_val=1.0, or look with debug=anomaly."
            )
        left = better(left, {name: scores[name][turn] for name in left}, said["mode"])
    if leader:
        if "winner" not in said:
            data = folder.RunFolder(home.path / folder.CONTEST / left[0]).state()["data"]
            home.update(contest=said | {"scores": scores, "winner": left[0]}, data=data)
        crown(home)
    while (home.path / folder.CONTEST).exists():  # a file and no collective: there may be no other rank yet
        time.sleep(0.1)


def fitted(cfg: DictConfig, home: folder.RunFolder, name: str, turn: int, rivals: int) -> float:
    """Fits a network to the end of this round -> its metric on val."""
    own = folder.RunFolder(home.path / folder.CONTEST / name)
    words = resume.read(cfg, own) | {"select": own.words()["select"]}  # by which all are compared
    end = halving.ends(rivals, words["trainer"]["max_epochs"])[turn]
    words["callbacks"]["pause"] = {"_target_": "src.callbacks.pause.Pause", "epochs": end}
    run = prepare(words, own)
    resume.same_data(own, fingerprint(run.source))  # its own: each leaves out what its own probe doubts
    if run.leader:
        print(f"\ncontest  {words['model']['name']}, to epoch {end} of {words['trainer']['max_epochs']}", flush=True)
    if survived(run, "fit", words["model"]["name"]) is None:
        return math.nan
    score, shipped = worth(run)
    if run.leader:
        print(f"         {run.task.monitor} {score:.4f}, if it were shipped now, as {shipped}", flush=True)
    return score


def worth(run: Run) -> tuple[float, str]:
    """The metric on val, and the name, of what would be shipped if the fit ended here: of the likeliest network (the
    average, where there is one) with the best of its heads. A head that is in the middle of its training says less of
    a network."""
    wanted = select.names(run)
    likeliest = [name for name in wanted if parts(name)[0] == parts(wanted[0])[0]]
    best = select.choose(run, candidates(run, likeliest) or candidates(run, wanted))
    return measure(run, "val", best.logits, best.target)[run.task.monitor], best.name


def better(left: Sequence[str], scores: Mapping[str, float], mode: str) -> list[str]:
    """The better half, in the order in which they came; those that are level, as they came."""
    sign = -1 if mode == "max" else 1
    found = sorted(left, key=lambda name: math.inf if math.isnan(scores[name]) else sign * scores[name])
    return [name for name in left if name in found[: halving.kept(len(left))]]


def _keep(home: folder.RunFolder, said: Mapping[str, Any], seconds: float) -> None:
    spent = home.state().get("seconds", {})
    home.update(contest=said, seconds={**spent, "contest": round(spent.get("contest", 0.0) + seconds, 2)})


def crown(home: folder.RunFolder) -> None:
    """Makes the winner's folder the run's, file by file, so that a kill in between leaves the rest to be done."""
    own = home.path / folder.CONTEST / home.state()["contest"]["winner"]
    config = own / "config.yaml"
    if config.is_file():
        for file in list(own.iterdir()):
            if file.name not in ("config.yaml", "run.json", "metrics.json") and not file.name.startswith("."):
                os.replace(file, home.path / file.name)
        found = _table(home.state())
        recipe = home.path / "recipe.md"
        folder.write(recipe, networks.noted(recipe.read_text(encoding="utf-8"), found))
        words = folder.moved(folder.RunFolder(own).words(), str(own), str(home.path))
        words["logger"] = home.words()["logger"]
        resume.keep(OmegaConf.create(words), home)
        print(networks.screen(found), flush=True)
    shutil.rmtree(home.path / folder.CONTEST)


def _table(state: Mapping[str, Any]) -> list[list[str]]:
    """The networks with what their fits have shown so far."""
    said, rows = state["contest"], state["networks"]
    rounds = range(len(halving.ends(len(said["rivals"]), 1)))
    parts = [f"{said['monitor']} after 1/{2 ** (len(rounds) - turn)}" for turn in rounds]
    fits = {}
    for row, name in zip(rows, said["rivals"], strict=False):
        shown = [f"{score:.4f}" for score in said["scores"].get(name, ())]
        verdict = ["kept" if name == said.get("winner") else ""]
        fits[row["name"]] = [*shown, *[""] * (len(rounds) - len(shown)), *verdict]
    return networks.table(state, fits, [*parts, ""])
