"""Whether a probability means what it says, before and after calibration; and what is gained by leaving some out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from src import stats
from src.pages import plots
from src.pages.answers import Answers
from src.pages.blocks import Block, Drawing, Section, Table, Text
from src.pages.classes import named
from src.pages.facts import Facts


def reliability(facts: Facts) -> Iterator[Section]:
    for answers in facts.answers:
        if answers.kind in ("class", "labels") and answers.labelled and len(answers):
            now = _judged(answers, answers.p)
            before = None if answers.name else _before(facts, answers)
            blocks: list[Block] = [_diagram(answers, now, before)]
            if answers.kind == "class":
                blocks.append(_left_out(answers, *now))
            if answers.name == "" and (rows := _numbers(facts)):
                blocks.append(Table(["", "before calibration", "after"], rows))
            yield Section(named("How far to believe it", answers), [Text(HOW), *blocks])


HOW = (
    "On the dashed line a probability is how often it is right. Below it the model is too sure, above it too timid; "
    "bars are 95 % intervals (Wilson)."
)


def _judged(answers: Answers, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(probability, whether it was right): of the class that is said, or of each label."""
    if answers.kind == "labels":
        return p.ravel(), answers.there.ravel()
    return p[np.arange(len(p)), answers.said], answers.true == answers.said


def _before(facts: Facts, answers: Answers) -> tuple[np.ndarray, np.ndarray] | None:
    """The same before calibration, where its scaling (model.json) can be taken back."""
    scaling = (facts.model.get("calibration") or {}).get("scaling") or {}
    factor, shift = np.asarray(scaling.get("factor", 1.0)), np.asarray(scaling.get("shift", 0.0))
    if not scaling or (answers.kind == "class" and factor.size > 1):
        return None
    p = answers.p.astype(np.float64).clip(1e-12, 1 - 1e-12)
    if answers.kind == "labels":
        return _judged(answers, 1 / (1 + np.exp(-(np.log(p / (1 - p)) - shift) / factor)))
    found = (np.log(p) - shift) / factor
    found = np.exp(found - found.max(1, keepdims=True))
    return _judged(answers, found / found.sum(1, keepdims=True))


def _numbers(facts: Facts) -> list[list[str]]:
    metrics, end = facts.metrics, "/uncalibrated"
    keys = [k.removesuffix(end) for k in metrics if k.startswith("test/") and k.endswith(end)]
    return [[k, f"{metrics[k + end]:.4f}", f"{metrics[k]:.4f}"] for k in keys if metrics.get(k) is not None]


def _diagram(
    answers: Answers, now: tuple[np.ndarray, np.ndarray], before: tuple[np.ndarray, np.ndarray] | None
) -> Drawing:
    figure, own = plots.axes(5.2, 4.2)
    own.plot([0, 1], [0, 1], color=plots.FAINT, linestyle="--", linewidth=1)
    drawn = [("before calibration", before, plots.SECOND)] if before else []
    for name, pair, colour in (*drawn, ("after calibration" if before else "as shipped", now, plots.FIRST)):
        bins = stats.reliability(*map(torch.from_numpy, pair)).numpy()
        n, *sums = bins[:, bins[0] > 0]
        sure, right = (values / n for values in sums)
        low, high = stats.wilson(right, n, 1.96)
        bars = np.clip([right - low, high - right], 0, None)
        own.errorbar(sure, right, bars, color=colour, linewidth=1.6, elinewidth=1, marker="o", markersize=4, label=name)
    own.set(xlim=(0, 1.02), ylim=(0, 1.02), ylabel="how often it is right")
    own.set_xlabel("probability of the label" if answers.kind == "labels" else "probability of what is said")
    plots.legend(own)
    return Drawing(plots.svg(figure, f"reliability {answers.name}"))


def _left_out(answers: Answers, sure: np.ndarray, right: np.ndarray) -> Drawing:
    """The risk-coverage curve (El-Yaniv & Wiener 2010)."""
    wrong = ~right[np.argsort(-sure, kind="stable")]
    risk = 100 * np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
    some = np.unique(np.linspace(0, len(risk) - 1, 200).astype(int))
    figure, own = plots.axes(5.2, 4.2)
    own.plot(100 * (some + 1) / len(risk), risk[some], color=plots.FIRST, linewidth=1.8)
    own.set(xlabel="the surest images that it answers, %", ylabel="of these wrong, %", xlim=(0, 100))
    own.set_ylim(bottom=0)
    return Drawing(plots.svg(figure, f"risk {answers.name}"))
