"""What the user left open: the images are looked at, the frozen network is asked, the recipe decides."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import hydra
import torch
from omegaconf import DictConfig

from src import combined, contest, folder, hardware, networks, recipe, resume, screen, secret
from src.build import NOISELESS, card, checked, prepare
from src.check import configs
from src.check.kinds import seconds
from src.contracts import ConfigError, Run
from src.data.audit import audit
from src.data.suspects import without_suspects
from src.factory import make
from src.facts import Budget, Facts, Probed, Ranked
from src.settle import settle
from src.stages import pixels, probe
from src.stages.pace import Pace, pace

VARIED = 10  # images a class from which it is asked whether they bear to be bent: fewer need all the variety there is


def decide(cfg: DictConfig, home: folder.RunFolder) -> DictConfig:
    """What the user left open: the data are looked at, the frozen network is asked, and the recipe's overrides are
    composed under the user's own, which therefore win. Of several networks each gets a config of its own."""
    words, typed = resume.plain(cfg), [word for word in resume.typed() if word != "augment=auto"]
    if words["recipe"] == "off":
        return settle(cfg, home)
    began, given = time.monotonic(), configs.given(typed)
    left = seconds(words["budget"]) - hardware.startup() if words["budget"] else None
    where, device = hardware.accelerator(words), hardware.device(words)
    found = ranked(words, given, home, device, left)
    chosen = found[: words["model"].get("top", 1)]
    homes = contest.homes(home, [r.cfg["model"].get("name", "") for r, _ in chosen])
    share = left / 4 / len(chosen) if left else None
    asked: list[tuple[Run, Probed | None, Pace | None]] = []
    for (r, _), own in zip(chosen, homes, strict=True):
        r, probed, speed = ask(replace(r, home=own), words, given, device, share, asked[0][1] if asked else None)
        asked.append((learnt(r, probed), probed, speed))
    spent, cfgs = time.monotonic() - began, []
    for i, ((_, row), (r, probed, speed)) in enumerate(zip(chosen, asked, strict=True)):
        budget, tested = None, len(r.source.splits.get("test", ()))
        if left and speed:
            budget = Budget(left, spent, speed.train, speed.predict, tested)
        more = {"chosen": row, "place": f"{i + 1} of {len(found)}", "rivals": len(chosen)}
        known = replace(facts(r, where, probed), budget=budget, **more)
        plan = recipe.plan(known, {**words, "model": r.cfg["model"]}, given)
        images = [*card(r), *(note for note in r.source.notes if note.startswith("LEAK"))]
        text = screen.recipe(images, plan, secret.words(typed), probed, known.chosen and known.chosen.name)
        folder.write(r.home.path / "recipe.md", networks.noted(text, networks.table(home.state())))
        composed = hydra.compose("train", [*(decision.override for decision in plan), *typed])
        cfgs.append(settle(resume.absolute(composed), r.home))
    screen.yours(typed)
    if len(cfgs) > 1:
        contest.refuse(cfgs)
        for own, settled in zip(homes, cfgs, strict=True):
            checked(prepare(resume.plain(settled), own))
        contest.begin(home, homes, cfgs)
    home.update(seconds={"decide": round(time.monotonic() - began, 2)})
    return cfgs[0]


def ranked(
    words: dict[str, Any], given: Collection[str], home: folder.RunFolder, device: str, left: float | None
) -> list[tuple[Run, Ranked | None]]:
    """The run, or that of each candidate, the best first."""
    runs = [prepare(cfg, home) for cfg in networks.contenders(words, given)]
    if not words["model"].get("candidates"):
        return [(runs[0], None)]
    found = networks.ranked(runs, device, left / 4 if left else None)
    home.update(networks=networks.record([row for _, row in found]))
    print(networks.screen(networks.table(home.state())), flush=True)
    return list(found)


def ask(
    r: Run, words: dict[str, Any], given: Collection[str], device: str, share: float | None, first: Probed | None
) -> tuple[Run, Probed | None, Pace | None]:
    """What the frozen network knows, and how fast it is where there is a budget. What is asked of the images is asked
    once, of the first network: it has answered for the others, too."""
    possible(r, given)
    probed, probes = None, words["recipe"] != "fast" and r.task.solve is not None and pretrained(r.cfg)
    refuse_noiseless(r, words, given, probes)
    if probes:
        asked = questions(r, given, words)
        known = [one for one in asked if first and one != "labels"]
        wanted = tuple(one for one in asked if one not in known)
        probed = (pixels if r.task.dense else probe).probe(r, device, wanted, share)
        if first:
            own = {key: getattr(probed, key) for key in ("head", "score", "last", "noise", "wrong")}
            note = [f"what was asked of the first network holds for this one: {', '.join(known)}"] if known else []
            probed = replace(first, **own, notes=(*probed.notes, *note))
    half = "bf16-mixed" if bf16(device) and "trainer.precision" not in given else None  # as the recipe decides
    return r, probed, pace(r, device, half) if words["budget"] else None


def possible(r: Run, given: Collection[str]) -> None:
    """Refuses what cannot be trained before the probe takes its time; how many epochs there will be is still open."""
    epochs = r.cfg["trainer"]["max_epochs"] if "trainer.max_epochs" in given else sys.maxsize
    trainer = {**r.cfg["trainer"], "max_epochs": epochs}
    combined.refuse({**r.cfg, "trainer": trainer}, r.module(r.network()), r.task)


def refuse_noiseless(r: Run, words: Mapping[str, Any], given: Collection[str], probes: bool) -> None:
    """ConfigError where wrong labels shall be left out and no probe can tell them."""
    rare = r.audit.imbalance > recipe.RARE and "task.monitor" not in given
    if words["data"]["suspects"] == "drop" and (r.task.noise is None or not probes or rare):
        raise ConfigError(NOISELESS)


def questions(r: Run, given: Collection[str], words: Mapping[str, Any]) -> tuple[str, ...]:
    """What is worth asking the frozen network: what the user has not said and the run needs, of images that tell."""
    typed = "stages" in given and "fit" in words["stages"]
    alone = words["recipe"] == "probe" and not typed  # nothing is trained, or augmented
    asked = [] if "data.flip" in given or (alone and "select" not in given) else ["mirror"]
    rare = r.audit.imbalance > recipe.RARE  # whose images the others would always contradict
    asked += ["labels"] if words["data"]["suspects"] == "drop" or not (rare or "data.suspects" in given) else []
    free = not alone and not {"augment", "data.colour"} & set(given)
    asked += ["turn"] if free and r.task.target == "class" and not r.task.geometric else []
    varied = r.audit.each >= VARIED and r.spec.channels in (1, 3)  # TrivialAugment changes their colours
    asked += ["bend"] if "turn" in asked and varied else []
    asked += ["grey"] if free and r.spec.channels == 3 else []
    narrow, _, wide = r.audit.aspect or (1.0, 1.0, 1.0)
    asked += ["resize"] if not r.task.dense and "data.resize" not in given and (narrow < 0.9 or wide > 1.1) else []
    return tuple(asked)


def pretrained(cfg: Mapping[str, Any]) -> bool:
    return bool(cfg["init_from"] or cfg["model"].get("weights") or cfg["model"].get("pretrained", True))


def learnt(r: Run, probed: Probed | None) -> Run:
    """The run on what is learnt: without the images that the probe has just found to be labelled wrongly."""
    if not (probed and probed.wrong):
        return r
    source = without_suspects(r.source, r.home.path, "drop")
    return replace(r, source=source, audit=audit(source, r.cfg["data"]["scan_limit"]))


def bf16(device: str) -> bool:
    """Whether the recipe will have the fit compute in bf16."""
    return device == "cuda" and torch.cuda.is_bf16_supported()


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
        bf16=bf16(hardware.device(r.cfg)),
        ranks=hardware.ranks(r.cfg),
        probed=probed,
        dense=r.task.dense,
        embeds=r.task.embeds,
        geometric=r.task.geometric,
        rate=make(r.cfg["finetune"]).rate,
    )
