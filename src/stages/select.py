"""Chooses the model on val, among all that the run has made, and writes model/, all that predict needs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from src import checkpoint, folder, world
from src.contracts import Affine, ConfigError, Run
from src.stages import probe
from src.stages.embed import mirrored
from src.stages.predict import measure, predictions

SETTLE = 1_000  # training images that BatchNorm statistics are estimated on again
MANY = 200  # images a class from which the head that was trained knows something that the closing head does not
PREFIX = "network."


@dataclass(frozen=True)
class Candidate:
    name: str  # NETWORK[+closing|+blend][+mirror]
    head: Affine  # on what `embed` sees
    logits: torch.Tensor  # of val (N, outputs)
    target: torch.Tensor


def select(run: Run) -> None:
    wanted = names(run)
    found = {
        c.name: c for network in dict.fromkeys(_parts(name)[0] for name in wanted) for c in _made(run, network, wanted)
    }
    candidates = [found[name] for name in wanted if name in found]
    chosen = choose(run, candidates)
    if run.leader:
        _ship(run, chosen)
        run.home.add_metrics(measure(run, "val", chosen.logits, chosen.target) if len(chosen.target) else {})
        if run.cfg["recipe"] != "off":
            _tell(run, candidates, chosen)
    world.gather(None)  # the other ranks must not look for the model before it is there


def names(run: Run) -> list[str]:
    """The candidates, the likeliest first. Mirrored ones come before their like: they are seldom worse."""
    asked = str(run.cfg["select"])
    if asked != "auto":
        return [asked]
    each = len(run.source.splits["train"]) / max(len(run.source.classes), 1)
    closed = ["ema+closing", "ema+blend"] if each <= MANY else ["ema+blend", "ema+closing"]
    order = [*(closed if run.task.close else []), "ema", "last", "best"]
    order += ["probe"] if probe.there(run.home) else []
    mirror = (True, False) if run.cfg["data"]["flip"] else (False,)
    return [name + ("+mirror" if both else "") for name in order for both in mirror]


def _parts(name: str) -> tuple[str, str, bool]:
    """network, head, mirror"""
    network, *rest = name.split("+")
    return network, next((part for part in rest if part != "mirror"), ""), "mirror" in rest


def choose(run: Run, candidates: list[Candidate]) -> Candidate:
    """The first, unless a later one is better on val by more than two standard errors of their paired difference: the
    best of many on a small val is often only the luckiest. Raced over 28 fits of 5 to 180 images a class, mean test
    accuracy: the best on val 83.9, one standard error 84.1, two 84.5, always the first 84.5."""
    chosen = candidates[0]
    if run.task.scores is None or not len(chosen.target):
        return chosen
    sign = 1 if run.task.mode == "max" else -1
    scores = {c.name: sign * run.task.scores(c.logits, c.target).double() for c in candidates}
    for other in candidates[1:]:
        gain = scores[other.name] - scores[chosen.name]
        if len(gain) > 1 and float(gain.mean()) > 2 * float(gain.std()) / math.sqrt(len(gain)):
            chosen = other
    return chosen


def _made(run: Run, name: str, wanted: list[str]) -> Iterator[Candidate]:
    """The candidates of one network."""
    if (network := _network(run, name)) is None:
        return
    mine = [_parts(other) for other in wanted if _parts(other)[0] == name]
    see = network.embed
    skip = run.cfg["trainer"]["limit_val_batches"] == 0
    views = {False: _seen(run, network, "val", see, skip)}
    if any(mirror for *_, mirror in mine):
        views[True] = _seen(run, network, "val", lambda image: see(mirrored(image)), skip)
    x_val, target = views[False]
    trained = _widened((network.head.weight.detach().float().cpu(), network.head.bias.detach().float().cpu()), x_val)
    heads = {"": trained}
    if name == "probe":
        heads = {"": probe.read(run.home).best}
    elif any(head for _, head, _ in mine):
        chosen = probe.sample(len(run.source.splits["train"]), probe.enough(network), run.cfg["seed"])
        x, y = _seen(run, network, "train", see, False, chosen)
        column = list(probe.columns(network, x).values())[-1]
        assert run.task.close is not None
        judged = (x_val, target) if len(target) else (x, y)  # without a val, the size of the logits is guessed
        heads = run.task.close(trained, x, y, column, *judged)
    for _, head, mirror in mine:
        weight, bias = heads[head]
        seen = (x_val + views[True][0]) / 2 if mirror else x_val
        full = "+".join(filter(None, (name, head, "mirror" if mirror else "")))
        yield Candidate(full, (weight, bias), seen @ weight.T + bias, target)


def _seen(run: Run, network: Any, split: str, see: Any, skip: bool, only: list[int] | None = None):
    """(features (N, D), targets (N,)) on every rank."""
    if skip:
        return torch.zeros(0, network.width()), torch.zeros(0, dtype=torch.long)
    _, x, target = predictions(run, network, split, see, only)
    return x, target


def _widened(head: Affine, x: torch.Tensor) -> Affine:
    """The head on the last features, as one on all that `embed` sees."""
    weight = torch.zeros(len(head[0]), x.shape[1])
    weight[:, : head[0].shape[1]] = head[0]
    return weight, head[1]


def _network(run: Run, name: str) -> Any:
    """The network of this name, or None where the run made none of its own: `best` may be `last`."""
    network = run.network()
    if name == "probe":
        return network.eval()
    folder_ = run.home.path / "checkpoints"
    file = folder_ / ("best.ckpt" if name == "best" else "last.ckpt")
    alone = run.cfg["select"] != "auto"
    if not file.exists() or (not alone and name == "best" and _epoch(file) == _epoch(folder_ / "last.ckpt")):
        if not alone:
            return None
        others = sorted(p.name for p in folder_.glob("*.ckpt"))
        raise ConfigError(
            f"select={name}: {file} was not written; there is {', '.join(others) or 'no checkpoint'}.\n"
            "`best` needs a validation in the fit. Set select=last, or remove what switches validation off."
        )
    found = checkpoint.load(file)
    state = {k.removeprefix(PREFIX): v for k, v in found["state_dict"].items() if k.startswith(PREFIX)}
    if name == "ema":
        average = checkpoint.averaged(found)
        if average is None:
            if not alone:
                return None
            raise ConfigError("select=ema: the run kept no average.\nAdd callbacks=[default], or set select=last.")
        state = average
    network.load_state_dict(state)
    if name == "ema":
        run.module(network)  # what the policy freezes was not moved by the fit, and is not to be moved now
        only = probe.sample(len(run.source.splits["train"]), SETTLE, run.cfg["seed"])
        network.reestimate(run.loaders.loader("train", only=only, shared=False))
    return network.eval()


def _epoch(file: Any) -> int:
    return int(checkpoint.load(file)["epoch"]) if file.exists() else -1


def _ship(run: Run, chosen: Candidate) -> None:
    name, _, mirror = _parts(chosen.name)
    network = _network(run, name)
    network.answer(*chosen.head, mirror=mirror)
    epoch = (
        None
        if name == "probe"
        else _epoch(run.home.path / "checkpoints" / ("best.ckpt" if name == "best" else "last.ckpt"))
    )
    weights = run.save(network, {"chosen": {"candidate": chosen.name, "epoch": epoch}})
    run.home.update(chosen=chosen.name, weights=weights)
    run.home.add_metrics({} if epoch is None else {"select/epoch": epoch})


def _tell(run: Run, candidates: list[Candidate], chosen: Candidate) -> None:
    """run.json, and recipe.md behind what was decided before the fit."""
    scored = run.task.scores if len(chosen.target) else None
    scores = {c.name: float(scored(c.logits, c.target).mean()) if scored else None for c in candidates}
    run.home.update(candidates=scores)
    file = run.home.path / "recipe.md"
    before = file.read_text(encoding="utf-8").partition("\n## Candidates")[0] if file.is_file() else ""
    lines = [
        "",
        "## Candidates",
        "",
        f"In the order of preference; {run.task.monitor} of {len(chosen.target)} images.",
        "",
    ]
    lines += [f"| candidate | {run.task.monitor} |  |", "|---|---|---|"]
    for name, score in scores.items():
        shown = "" if score is None else f"{score:.4f}"
        lines.append(f"| {name} | {shown} | {'chosen' if name == chosen.name else ''} |")
    folder.write(file, before + "\n".join(lines) + "\n")
