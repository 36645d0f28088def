"""Several targets of different kinds per image, each known of some images: the mean of the heads' skills chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

from src.columns import Values
from src.contracts import Part, Task
from src.mixed_labels import checked, own, parts
from src.tasks.beside import One, close, mix, solve, weigh
from src.tasks.figures import beside
from src.tasks.multiclass import multiclass
from src.tasks.multilabel import multilabel
from src.tasks.ordinal import ordinal
from src.tasks.regression import regression

KINDS: dict[str, Callable[..., Task]] = {
    "multiclass": partial(multiclass, monitor="val/acc", mode="max"),
    "multilabel": partial(multilabel, monitor="val/map_macro", mode="max", separator="|"),
    "regression": partial(regression, monitor="val/rmse", mode="min"),
    "ordinal": partial(ordinal, monitor="val/qwk", mode="max"),
}


def skill(logits: torch.Tensor, target: torch.Tensor, heads: Sequence[One]) -> torch.Tensor:
    """The mean over the heads of which these images tell something."""
    return torch.stack([one.skill(logits, target) for one in heads]).nanmean()


def tune(logits: torch.Tensor, target: torch.Tensor, heads: Sequence[One]) -> dict[str, Any]:
    """{tuned: {column: what its own task tunes}}"""
    told = {}
    for one in (one for one in heads if one.task.tune):
        found, true = one.read(logits, target)
        if len(true):
            assert one.task.tune is not None
            told[one.part.name] = one.task.tune(found, true)
    return {"tuned": told}


def alone(
    logits: torch.Tensor, target: torch.Tensor, heads: Sequence[One]
) -> list[tuple[str, Task, torch.Tensor, torch.Tensor]]:
    read = [(one.part.name, one.task, *one.read(logits, target)) for one in heads]
    return [part for part in read if len(part[3])]


def doubts(logits: torch.Tensor, target: torch.Tensor, heads: Sequence[One]) -> list[tuple[int, dict[str, Any]]]:
    """Those of each head in turn, the surest first."""
    told = []
    for one in (one for one in heads if one.task.doubts):
        assert one.task.doubts is not None
        rows = one.rows(target).tolist()
        mine = one.task.doubts(*one.read(logits, target)) if rows else []
        told.append([(rows[i], {"column": one.part.name, "rather": said["rather"]}) for i, said in mine])
    return [row for turn in zip_longest(*told) for row in turn if row is not None]


def multihead(
    classes: tuple[str, ...],
    monitor: str,
    mode: str,
    heads: Mapping[str, Any],
    targets: Sequence[tuple[float, ...]] | None = None,
) -> Task:
    """classes: of all heads, as src.mixed_labels names them; targets: of the training images, NaN where unknown."""
    said = checked(heads)
    ones = [_one(part, said[part.name], monitor, mode, targets) for part in parts(heads, classes)]

    def metrics(tuned: Mapping[str, Any] | None = None) -> Any:
        # imported here, since predicting needs no metrics
        from torchmetrics import MetricCollection

        from src.tasks.metrics import Whole

        found: dict[str, Any] = {"skill": Whole(partial(skill, heads=ones))}
        for one in ones:
            name = one.part.name
            found[f"{name}/skill"] = Whole(one.skill)
            for key, metric in one.task.metrics(**(tuned or {}).get(name, {})).items():
                found[f"{name}/{key}"] = Whole(partial(one.measured, metric))
        return MetricCollection(found, compute_groups=False)

    def decode(logits: torch.Tensor, tuned: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{} for _ in logits]
        for one in ones:
            own_words = (tuned or {}).get(one.part.name, {})
            for row, told in zip(rows, one.task.decode(logits[:, one.part.columns], **own_words), strict=True):
                for key, value in told.items():
                    first, slash, rest = key.partition("/")
                    row[f"{first}/{one.part.name}{slash}{rest}"] = value
        return [dict(sorted(row.items(), key=lambda pair: not pair[0].startswith("prediction/"))) for row in rows]

    def constant(target: torch.Tensor) -> torch.Tensor:
        return torch.cat([one.constant(own(one.part, target[one.rows(target)])) for one in ones])

    return Task(
        outputs=len(classes),
        target="mixed",
        monitor=monitor,
        mode=mode,
        metrics=metrics,
        decode=decode,
        score=_score(monitor, ones),
        skill=partial(skill, heads=ones),
        constant=constant,
        geometric=any(one.task.geometric for one in ones),
        unit=_unit(ones),
        solve=partial(solve, heads=ones),
        close=partial(close, heads=ones),
        weigh=partial(weigh, heads=ones),
        mix=partial(mix, heads=ones),
        tune=partial(tune, heads=ones),
        doubts=partial(doubts, heads=ones),
        parts=tuple(one.part for one in ones),
        alone=partial(alone, heads=ones),
        figure=lambda rows, classes: beside(rows, [(one.part.name, one.part.classes, one.task.figure) for one in ones]),
    )


def _one(
    part: Part, said: Mapping[str, Any], monitor: str, mode: str, targets: Sequence[tuple[float, ...]] | None
) -> One:
    found = np.asarray(targets, dtype=np.float64)[:, part.columns] if targets else np.empty((0, 1))
    rows = Values(found[~np.isnan(found[:, 0])], True)
    words: dict[str, Any] = {"separator": said["separator"]} if "separator" in said else {}
    metric = monitor.removeprefix(f"val/{part.name}/")
    if metric not in (monitor, "skill"):
        words |= {"monitor": f"val/{metric}", "mode": mode}
    elif "monitor" in said:
        words["monitor"] = f"val/{said['monitor']}"
    task = KINDS[part.kind](classes=part.classes, targets=rows or None, **words)
    return One(replace(part, known=len(rows)), task)


def _score(monitor: str, heads: Sequence[One]) -> Any:
    """The monitored metric, `val/skill` or `val/COLUMN/METRIC`; None where only torchmetrics knows it."""
    if monitor == "val/skill":
        return partial(skill, heads=heads)
    for one in (one for one in heads if monitor.startswith(f"val/{one.part.name}/")):
        if monitor == f"val/{one.part.name}/skill":
            return one.skill
        return one.monitored if one.task.scores or one.task.score else None
    return None


def _unit(heads: Sequence[One]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Of the numbers; classes and labels have none: 0 and 1."""
    if not any(one.task.unit for one in heads):
        return None
    units = [one.task.unit or ((0.0,) * one.task.outputs, (1.0,) * one.task.outputs) for one in heads]
    return tuple(x for shift, _ in units for x in shift), tuple(x for _, scale in units for x in scale)
