"""Numbers: predicted over true, what is left, and the images that are furthest off."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from src.pages import plots
from src.pages.answers import Answers
from src.pages.blocks import Block, Drawing, Gallery, Section
from src.pages.classes import named
from src.pages.facts import SHOWN, Facts

MOST = 1500  # points of a plot


def numbers(facts: Facts) -> Iterator[Section]:
    for answers in facts.answers:
        if answers.kind == "numbers" and answers.labelled and len(answers):
            true, said = np.array(answers.target), np.array(answers.prediction)
            blocks: list[Block] = []
            for i, name in enumerate(answers.classes):
                blocks += _drawn(name, true[:, i], said[:, i])
            yield Section(named("Predicted and true", answers), blocks)
            yield Section(named("The furthest off", answers), [_worst(facts, answers, true, said)])


def _drawn(name: str, true: np.ndarray, said: np.ndarray) -> Iterator[Drawing]:
    some = np.linspace(0, len(true) - 1, min(len(true), MOST)).astype(int)
    figure, own = plots.axes()
    own.plot(true[some], said[some], ".", color=plots.FIRST, alpha=0.45, markersize=5)
    own.axline((float(true.mean()), float(true.mean())), slope=1, color=plots.FAINT, linestyle="--", linewidth=1)
    own.set(xlabel=f"true {plots.short(name)}", ylabel="predicted")
    yield Drawing(plots.svg(figure, f"scatter {name}"))
    figure, own = plots.axes()
    own.plot(said[some], (said - true)[some], ".", color=plots.SECOND, alpha=0.45, markersize=5)
    own.axhline(0, color=plots.FAINT, linestyle="--", linewidth=1)
    own.set(xlabel=f"predicted {plots.short(name)}", ylabel="predicted less true")
    yield Drawing(plots.svg(figure, f"residuals {name}"))


def _worst(facts: Facts, answers: Answers, true: np.ndarray, said: np.ndarray) -> Gallery:
    """By the error in deviations of the true numbers; of several the largest."""
    away = np.abs(said - true) / true.std(0).clip(min=1e-12)
    rows = np.argsort(-away.max(1), kind="stable")[:SHOWN]
    names = [f"{plots.short(c)}: " for c in answers.classes] if len(answers.classes) > 1 else [""]
    lines = [
        [f"{c}true {t:.4g}, said {s:.4g}" for c, t, s in zip(names, true[i], said[i], strict=True)][:3] for i in rows
    ]
    return Gallery(facts.cards(answers, rows.tolist(), lines))
