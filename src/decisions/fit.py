"""Fits all decisions on held-out images, and says what was left out, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from src import threshold
from src.contracts import Task
from src.decisions import conformal, unfamiliar
from src.decisions.scaling import choose
from src.mixture import LIKELY, MANY, mixture

FEW = 30  # images below which nothing is fitted: a calibration error of so few is noise, and a quantile their extreme
TELL = 300  # images by which 40 % wrong labels are surely told (docs/calibration.md)
Fitted = tuple[dict[str, Any], dict[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Images:
    """What a network says of some images. features: the last ones (N, D), where a score of strangeness needs them."""

    logits: torch.Tensor
    target: torch.Tensor
    features: torch.Tensor | None = None


def fit(
    words: Mapping[str, Any], task: Task, held: Images, train: Images | None, seed: int, doubted: bool = False
) -> Fitted:
    """words: the config's `calibrate`. held: images that the network has not learnt. train: those that it has, with
    features; None where none are needed. doubted: classes of `held` may be wrong, and if many are, probabilities and
    sets are fitted to the right ones. -> what `save` takes, its `notes` saying what was left out; and the logits of
    `held`, each scaled by what was fitted without it."""
    kind, logits, notes, n = task.target, held.logits.float(), list[str](), len(held.target)
    plain: dict[str, Any] = {"kind": kind, "images": n, "notes": notes}
    enough = n >= conformal.needed(words["alpha"])
    if words["sets"] != "none" and not enough:
        notes.append(f"no sets: alpha={words['alpha']} takes {conformal.needed(words['alpha'])} images, not {n}")
    crossed = logits
    if kind == "numbers":
        if task.unit is None:
            notes.append("no intervals: what the network puts out is not the numbers themselves")
        elif words["sets"] != "none" and enough and task.spread is None:
            plain["margin"] = conformal.margin(logits, held.target, words["alpha"])
    else:
        blind = wrong(logits, held.target, notes) if doubted and kind == "class" else 0.0
        plain["scaling"], crossed = choose(logits, held.target, kind, words["scaling"], seed, blind)
        p = crossed.softmax(1)  # out of fold, so that what follows is fitted on images like new ones
        if kind == "class" and words["sets"] != "none" and enough:
            how = words["sets"], words["alpha"], words["by_class"], task.ordered
            plain["sets"] = conformal.fit(p, held.target, *how, blind)
        if words["decision"] != "none":
            plain["decision"] = _decision(words, p, held.target, notes)
    tensors: dict[str, torch.Tensor] = {}
    if (method := words["unfamiliar"]) != "none":
        if n < conformal.needed(words["false_alarm"]):
            needs = conformal.needed(words["false_alarm"])
            notes.append(f"nothing is called unfamiliar: false_alarm={words['false_alarm']} takes {needs} images")
        elif method == "energy" and kind == "numbers":
            notes.append("nothing is called unfamiliar: energy is of logits, and these are numbers")
        else:
            found: dict[str, Any] = {"method": method, "false_alarm": words["false_alarm"]}
            if method != "energy":
                assert train is not None and held.features is not None
                tensors, found["usual"] = reference(method, task, train)
            strange = unfamiliar.strangeness(method, tensors, logits, held.features, kind)
            plain["unfamiliar"] = found | {"threshold": conformal.threshold(strange, words["false_alarm"])}
    return plain, tensors, crossed


def wrong(logits: torch.Tensor, target: torch.Tensor, notes: list[str]) -> float:
    """The part of the classes that is one of all by chance, where it is not small; a note says so, or that it is not
    known of few images."""
    _, blind, sure, p = mixture(logits, target)
    share = blind * (1 - 1 / p.shape[1])
    if share < MANY or sure < LIKELY:
        if len(target) < TELL:
            told = f"cannot be told by {len(target)} images: if they are, its metrics are too low, and sets too large"
            notes.append(f"whether labels of val are wrong, as many of train are, {told}")
        return 0.0
    told = "its metrics are too low, and probabilities and sets are fitted to what is estimated to be right"
    notes.append(f"about {100 * share:.0f} % of the labels of val are wrong: {told}")
    return blind


def reference(method: str, task: Task, train: Images) -> tuple[dict[str, torch.Tensor], float]:
    """The training images that others are compared with, as one group where they have no class; and the usual score of
    these themselves, by which that of another network can be told."""
    assert train.features is not None
    x = train.features.float()
    group = train.target if task.target == "class" else torch.zeros(len(x), dtype=torch.long)
    tensors = unfamiliar.reference(method, x, group)
    return tensors, float(unfamiliar.score(method, tensors, x).median())


def carried(plain: Mapping[str, Any], task: Task, train: Images) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What was fitted, for the same network fitted again, on train and val: nothing is held out from it. The thresholds
    stay; that of strangeness moves with the usual score of the images that are learnt."""
    was = plain["unfamiliar"]
    tensors, usual = reference(was["method"], task, train)
    cut = was["threshold"] * (usual / max(was["usual"], 1e-12))  # exactly what it was, where this was done before
    return {**plain, "unfamiliar": {**was, "usual": usual, "threshold": cut}}, tensors


def _decision(
    words: Mapping[str, Any], p: torch.Tensor, target: torch.Tensor, notes: list[str]
) -> dict[str, Any] | None:
    method = words["decision"]
    if method == "cost":
        return {"method": method, "cost": words["cost"]}
    if method == "f1":
        return {"method": method, "threshold": threshold.f1(p[:, 1], target == 1)}
    found = threshold.precision(p[:, 1], target == 1, words["precision"])
    if found is None:
        notes.append(
            f"no decision: {int((target == 1).sum())} images of the second class cannot show a precision of "
            f"{words['precision']}"
        )
        return None
    return {"method": method, "precision": words["precision"], "threshold": found}
