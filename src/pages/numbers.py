"""Numbers: predicted over true, what is left, and the images that are furthest off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from src.pages import plots
from src.pages.answers import Answers
from src.pages.blocks import Block, Drawing, Gallery, Section, Text
from src.pages.classes import named
from src.pages.facts import MOVED, SHOWN, Facts

MOST = 1500  # points of a plot
FURTHEST = "By the error in standard deviations of the true numbers, the largest first."
WIDEST = "By the interval that holds the truth, the widest first."


def numbers(facts: Facts) -> Iterator[Section]:
    for answers in facts.answers:
        if answers.kind != "numbers" or not len(answers):
            continue
        if answers.labelled:
            true, said = np.array(answers.target), np.array(answers.prediction)
            blocks: list[Block] = []
            for i, name in enumerate(answers.classes):
                blocks += _drawn(name, true[:, i], said[:, i])
            yield Section(named("Predicted and true", answers), blocks)
            yield Section(named("The furthest off", answers), [Text(FURTHEST), _worst(facts, answers, true, said)])
        for gallery in _least(facts, answers):
            yield Section(named("The least certain images", answers), [Text(WIDEST), gallery])


def _drawn(name: str, true: np.ndarray, said: np.ndarray) -> Iterator[Drawing]:
    some = np.linspace(0, len(true) - 1, min(len(true), MOST)).astype(int)
    figure, own = plots.axes()
    own.plot(true[some], said[some], ".", color=plots.FIRST, alpha=0.45, markersize=5)
    low, high = (float(end(np.concatenate([true, said]))) for end in (np.min, np.max))
    room = 0.04 * (high - low) or 1.0  # both axes alike: what is only guessed lies flat
    own.set(xlim=(low - room, high + room), ylim=(low - room, high + room))
    own.axline((low, low), slope=1, color=plots.FAINT, linestyle="--", linewidth=1)
    own.set(xlabel=f"true {plots.short(name)}", ylabel="predicted")
    yield plots.drawn(figure, f"scatter {name}", "On the dashed line what is predicted is true.")
    figure, own = plots.axes()
    own.plot(said[some], (said - true)[some], ".", color=plots.SECOND, alpha=0.45, markersize=5)
    own.axhline(0, color=plots.FAINT, linestyle="--", linewidth=1)
    own.set(xlabel=f"predicted {plots.short(name)}", ylabel="predicted less true")
    yield plots.drawn(figure, f"residuals {name}", "Above the dashed line too much is predicted, below it too little.")


def _worst(facts: Facts, answers: Answers, true: np.ndarray, said: np.ndarray) -> Gallery:
    """By the error in deviations of the true numbers; of several the largest."""
    away = np.abs(said - true) / true.std(0).clip(min=1e-12)
    rows = np.argsort(-away.max(1), kind="stable")[:SHOWN]
    return _gallery(facts, answers, rows, away.argmax(1))


def _least(facts: Facts, answers: Answers) -> Iterator[Gallery]:
    """By the widest interval, in deviations of what is said, where each image has one of its own width."""
    several = not answers.name and len(answers.classes) > 1
    ends = [[answers.column(f"{side}/{c}" if several else side) for c in answers.classes] for side in ("low", "high")]
    if any(end is None for side in ends for end in side):
        return
    wide = (np.array(ends[1]) - np.array(ends[0])).T
    if (np.ptp(wide, axis=0) > 1e-3 * wide.mean(0)).any():
        wide = wide / np.array(answers.prediction).std(0).clip(min=1e-12)
        yield _gallery(facts, answers, np.argsort(-wide.max(1), kind="stable")[:SHOWN], wide.argmax(1), ends)


def _gallery(facts: Facts, answers: Answers, rows: np.ndarray, output: np.ndarray, ends: Any = None) -> Gallery:
    """What moved the number that `output` says of each image, where outputs are numbers; it is told first."""
    lines = []
    for i in rows.tolist():
        several, told = len(answers.classes) > 1, []
        for k in sorted(range(len(answers.classes)), key=lambda k, i=i: k != output[i])[:3]:
            name = f"{plots.short(answers.classes[k])}: " if several else ""
            told += [f"{name}true {answers.target[i][k]:.4g}"] if answers.labelled else []
            told.append(f"{name}said {answers.prediction[i][k]:.4g}")
            told += [f"{ends[0][k][i]:.4g} … {ends[1][k][i]:.4g}"] if ends else []
        lines.append(told)
    direct = answers.name or facts.run.task.unit is not None
    towards = facts.towards(answers, torch.eye(len(answers.classes))[output[rows]]) if direct else None
    return Gallery(facts.cards(answers, rows.tolist(), lines, towards, True), evidence=MOVED.format("the number"))
