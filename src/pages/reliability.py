"""Whether a probability means what it says, before and after calibration; and what is gained by leaving some out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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
            before = None if answers.name else _before(facts, answers)
            curves = {} if before is None else {"before calibration": (*_judged(answers, before), plots.SECOND)}
            now = _judged(answers, answers.p)
            curves["as shipped" if before is None else "after calibration"] = (*now, plots.FIRST)
            blocks: list[Block] = [_diagram(answers, f"reliability {answers.name}", curves)]
            if answers.kind == "labels":
                blocks += _by_label(answers, before)
            else:
                blocks += _left_out(answers, *now)
            blocks += [
                Text(note) for note in (facts.model.get("calibration") or {}).get("notes", ()) if not answers.name
            ]
            if answers.name == "" and (rows := _numbers(facts)):
                blocks.append(Table(["", "before calibration", "after"], rows))
            told = HOW[answers.kind] + ("" if facts.model.get("calibration") else " Nothing is calibrated.")
            yield Section(named("How far to believe it", answers), [Text(told), *blocks])


HOW = {
    "class": "On the dashed line a probability is how often it is right. Below it the model is too sure, above it too "
    "timid; bars are 95 % intervals (Wilson).",
    "labels": "On the dashed line a label is there as often as its probability says; below it less often. All labels "
    "together, then those that are furthest from it; bars are 95 % intervals (Wilson).",
}
WORST = 3  # labels that are drawn
Curves = Mapping[str, tuple[np.ndarray, np.ndarray, str]]  # name -> probabilities, whether they came true, colour


def _judged(answers: Answers, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(probability, whether it was right): of the class that is said, or of each label."""
    if answers.kind == "labels":
        return p.ravel(), answers.there.ravel()
    return p[np.arange(len(p)), answers.said], answers.true == answers.said


def _before(facts: Facts, answers: Answers) -> np.ndarray | None:
    """(N, C) the probabilities before calibration, where its scaling (model.json) can be taken back."""
    scaling = (facts.model.get("calibration") or {}).get("scaling") or {}
    factor, shift = np.asarray(scaling.get("factor", 1.0)), np.asarray(scaling.get("shift", 0.0))
    if scaling.get("method", "none") == "none" or (answers.kind == "class" and factor.size > 1):
        return None
    p = answers.p.astype(np.float64).clip(1e-12, 1 - 1e-12)
    if answers.kind == "labels":
        return 1 / (1 + np.exp(-(np.log(p / (1 - p)) - shift) / factor))
    found = (np.log(p) - shift) / factor
    found = np.exp(found - found.max(1, keepdims=True))
    return found / found.sum(1, keepdims=True)


def _numbers(facts: Facts) -> list[list[str]]:
    metrics, end = facts.metrics, "/uncalibrated"
    keys = [k.removesuffix(end) for k in metrics if k.startswith("test/") and k.endswith(end) and k.count("/") == 2]
    rows = [[k, f"{metrics[k + end]:.4f}", f"{metrics[k]:.4f}"] for k in keys if metrics.get(k) is not None]
    return rows if any(before != after for _, before, after in rows) else []  # nothing was calibrated


def _by_label(answers: Answers, before: np.ndarray | None) -> Iterator[Block]:
    """The labels with the largest calibration error, and all in a table."""
    there = torch.from_numpy(answers.there)
    found = [stats.by_label(torch.from_numpy(p), there) for p in (answers.p, before) if p is not None]
    errors = found[0]["ece"]
    order = errors.argsort(descending=True, stable=True).tolist()
    colours = (plots.SECOND, plots.THIRD, plots.FIRST)
    worst = {
        answers.classes[i]: (answers.p[:, i], answers.there[:, i], colour)
        for i, colour in zip(order[:WORST], colours, strict=False)
    }
    yield _diagram(answers, f"reliability by label {answers.name}", worst)
    head, rows = ["label", "said on average", "there"], []
    for i in order:
        rows.append([answers.classes[i], f"{answers.p[:, i].mean():.3f}", f"{answers.there[:, i].mean():.3f}"])
        for name in found[0]:
            rows[-1] += [f"{one[name][i]:.4f}" for one in reversed(found)]
    for name in found[0]:
        called = "Brier" if name == "brier" else name.upper()
        head += [called] if before is None else [f"{called} before", f"{called} after"]
    yield Table(head, rows, sortable=True)


def _diagram(answers: Answers, name: str, curves: Curves) -> Drawing:
    figure, own = plots.axes(5.2, 4.2)
    own.plot([0, 1], [0, 1], color=plots.FAINT, linestyle="--", linewidth=1)
    for label, (p, held, colour) in curves.items():
        bins = stats.reliability(torch.from_numpy(p), torch.from_numpy(held)).numpy()
        n, *sums = bins[:, bins[0] > 0]
        sure, right = (values / n for values in sums)
        low, high = stats.wilson(right, n, 1.96)
        bars = np.clip([right - low, high - right], 0, None)
        how = {"linewidth": 0.8, "elinewidth": 1, "marker": "o", "markersize": 4}
        own.errorbar(sure, right, bars, color=colour, label=plots.short(label), **how)
    labels = answers.kind == "labels"
    own.set(xlim=(0, 1.02), ylim=(0, 1.02), ylabel="how often it is there" if labels else "how often it is right")
    own.set_xlabel("probability of the label" if labels else "probability of what is said")
    plots.legend(own)
    return plots.drawn(figure, name)


def _left_out(answers: Answers, sure: np.ndarray, right: np.ndarray) -> Iterator[Drawing]:
    """The risk-coverage curve (El-Yaniv & Wiener 2010), where there is any risk."""
    if right.all():
        return
    wrong = ~right[np.argsort(-sure, kind="stable")]
    risk = 100 * np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
    some = np.unique(np.linspace(0, len(risk) - 1, 200).astype(int))
    figure, own = plots.axes(5.2, 4.2)
    own.plot(100 * (some + 1) / len(risk), risk[some], color=plots.FIRST, linewidth=1.8)
    own.set(xlabel="the surest images that it answers, %", ylabel="of these wrong, %", xlim=(0, 100))
    own.set_ylim(bottom=0)
    yield plots.drawn(figure, f"risk {answers.name}")
