"""Fits all decisions on held-out images, and says what was left out, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from src import threshold
from src.contracts import ConfigError, Task
from src.decisions import conformal, unfamiliar
from src.decisions.scaling import choose

KINDS = ("class", "labels", "numbers")  # of Task.target, for which something can be fitted
FEW = 30  # images below which nothing is fitted: a calibration error of so few is noise, and a quantile their extreme
Fitted = tuple[dict[str, Any], dict[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Images:
    """What a network says of some images. features: the last ones (N, D), where a score of strangeness needs them."""

    logits: torch.Tensor
    target: torch.Tensor
    features: torch.Tensor | None = None


def suits(words: Mapping[str, Any], task: Task) -> None:
    """Raises ConfigError where a decision is asked that this task cannot have."""
    method = words["decision"]
    if method == "none":
        return
    if task.target != "class":
        raise ConfigError(
            f"calibrate.decision={method}: the targets of this task are {task.target}, and it is one class of several "
            "that is decided.\nLeave calibrate.decision out."
        )
    if method == "cost" and [len(row) for row in words["cost"]] != [task.outputs] * task.outputs:
        raise ConfigError(
            f"calibrate.cost={words['cost']}: it must have a row, and in it a cost, for each of the {task.outputs} "
            "classes.\nSet calibrate.cost to as many rows of as many numbers."
        )
    if method != "cost" and task.outputs != 2:
        raise ConfigError(
            f"calibrate.decision={method}: a threshold decides between two classes, and there are {task.outputs}.\n"
            "Leave it out, or set calibrate.decision=cost and calibrate.cost."
        )


def fit(words: Mapping[str, Any], task: Task, held: Images, train: Images | None, seed: int) -> Fitted:
    """words: the config's `calibrate`. held: images that the network has not learnt. train: those that it has, with
    features; None where none are needed. -> what `save` takes, its `notes` saying what was left out; and the logits of
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
        plain["scaling"], crossed = choose(logits, held.target, kind, words["scaling"], seed)
        p = crossed.softmax(1)  # out of fold, so that what follows is fitted on images like new ones
        if kind == "class" and words["sets"] != "none" and enough:
            plain["sets"] = conformal.fit(p, held.target, words["sets"], words["alpha"], words["by_class"])
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
