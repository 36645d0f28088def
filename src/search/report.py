"""What a search says: a line for each trial, trials.csv, report.md, a page of plots, and whether it was worth it."""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from src import few, folder, repeat, secret
from src.search.study import Study

STATES = {TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed", TrialState.RUNNING: "not finished"}


def line(study: Study, number: int) -> str:
    """trial 3, 4 of 20  0.9123  31 s  optimizer.lr=0.003"""
    trials = study.trials
    trial = next(t for t in trials if t.number == number)
    ended = sum(t.state.is_finished() for t in trials)
    mark = "  best so far" if trial.state == TrialState.COMPLETE and number in [t.number for t in study.best()] else ""
    head = f"{ended:3}/{study.options['trials']}  trial {number:<3} {_result(trial):24}"
    return f"{head}  {shlex.join(trial.user_attrs.get('words', []))}{mark}"


def _result(trial: FrozenTrial) -> str:
    if trial.state != TrialState.COMPLETE:
        return ": ".join(filter(None, (STATES[trial.state], trial.user_attrs.get("reason", ""))))
    return "  ".join(f"{value:.4f}" for value in trial.values) + f"  {trial.user_attrs['seconds']:.0f} s"


class Report:
    def __init__(self, asked: Any, study: Study):
        self.asked, self.study = asked, study
        self.importance = study.importance()

    def command(self, trial: FrozenTrial) -> str:
        words = [*self.asked.words, *self.asked.always, *trial.user_attrs["words"]]
        return f"python train.py {shlex.join(secret.words(words))}"

    def best(self) -> str:
        """The best trial, or each on the Pareto front, as commands; and what decides."""
        names, lines = self.study.names, []
        for trial in self.study.best():
            values = "  ".join(f"{n} {v:.4f}" for n, v in zip(names, trial.values, strict=True))
            lines.append(f"best     {values} (trial {trial.number})\n         {self.command(trial)}")
        if self.importance:
            told = ", ".join(f"{key} {100 * part:.0f} %" for key, part in self.importance.items())
            lines.append(f"decides  {told}")
        return "\n".join(lines)

    def write(self, verdict: str = "") -> None:
        home = self.asked.home
        folder.write(home / "trials.csv", self._table())
        text = [f"# Search {self.asked.options['name']}", "", "```", self.best() or "No trial has a result.", "```", ""]
        text += ["## Against the default", "", "```", verdict, "```", ""] if verdict else []
        text += ["![trials](trials.png)", "", "| trial | result | words |", "|---|---|---|"]
        words = (shlex.join(t.user_attrs.get("words", [])).replace("|", "\\|") for t in self.study.trials)
        rows = (f"| {t.number} | {_result(t)} | `{w}` |" for t, w in zip(self.study.trials, words, strict=True))
        folder.write(home / "report.md", "\n".join([*text, *rows]) + "\n")
        if self.study.complete:
            plots(self.study, self.importance, home / "trials.png")

    def _table(self) -> str:
        out, keys = io.StringIO(), [knob.key for knob in self.asked.knobs]
        names = self.study.names
        rows = csv.DictWriter(out, ["trial", "state", *names, "took", *keys, "reason"], restval="")
        rows.writeheader()
        for t in self.study.trials:
            values = zip(names, t.values, strict=True) if t.state == TrialState.COMPLETE else ()
            drawn = dict(word.split("=", 1) for word in t.user_attrs.get("words", []))
            more = {"took": t.user_attrs.get("seconds", ""), "reason": t.user_attrs.get("reason", "")}
            rows.writerow({"trial": t.number, "state": t.state.name.lower(), **dict(values), **drawn, **more})
        return out.getvalue()


def seedless(new: repeat.Table, old: repeat.Table, keys: Sequence[str]) -> bool:
    """Whether two seeds or more have led both to one and the same value of each of these metrics."""
    found = [[*side[key].values()] for side in (new, old) for key in keys if key in side]
    return bool(found) and all(len(values) > 1 and len(set(values)) == 1 for values in found)


def _shown(new: repeat.Table, old: repeat.Table, monitor: str) -> list[str]:
    return [key for key in (monitor, monitor.replace("val/", "test/")) if key in new and key in old]


def verdict(new: repeat.Table, old: repeat.Table, monitor: tuple[str, str]) -> str:
    """Whether the search was worth it, by seeds that it has not seen."""
    name, mode = monitor
    head = f"{'':24} {'the best trial':20} {'the default':20} difference"
    if seedless(new, old, _shown(new, old, name)):
        values = [(key, *(next(iter(side[key].values())) for side in (new, old))) for key in _shown(new, old, name)]
        lines = [head, *(f"{key:24} {mine:<20.4f} {its:<20.4f} {mine - its:+.4f}" for key, mine, its in values)]
        told = f"{len(new[name])} seeds give the same: the result does not depend on the seed."
        return "\n".join([*lines, told, "Whether a difference is chance, the images tell: python -m src.compare."])
    test, lines = name.replace("val/", "test/"), [f"{head}, seed by seed"]
    for key in _shown(new, old, name):
        change, half, n = few.paired(new[key], old[key])
        row = (few.told(*few.interval([*side[key].values()])) for side in (new, old))
        lines.append(f"{key:24} " + " ".join(f"{cell:20}" for cell in row) + f" {change:+.4f} ± {half:.4f} ({n} seeds)")
    if name not in new or name not in old:
        return "One of the two has no finished run, so that they cannot be compared."
    sign = 1 if mode == "max" else -1
    change, half, _ = few.paired(new[name], old[name])
    if sign * change > half:
        lines.append("The best trial is better than the default, beyond the chance of the seed.")
    elif sign * change < -half:
        lines.append("The best trial is WORSE than the default: keep the default.")
    else:
        lines.append("The best trial is within the noise of the default: keep the default, or search on.")
    if test in new and test in old:
        change, half, _ = few.paired(new[test], old[test])
        fair = (
            "agrees"
            if sign * change > half
            else "shows no difference beyond chance"
            if abs(change) <= half
            else "is worse"
        )
        lines.append(f"val has chosen the trial and flatters it; test has not, and {fair}.")
    return "\n".join(lines)


def plots(study: Study, importance: dict[str, float], file: Any) -> None:
    """A page: results in their order, each knob against the result, what decides; of two objectives their front."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    names, done, front = study.names, study.complete, {t.number for t in study.best()}
    knobs = [k.key for k in study.knobs if any(k.key in t.params for t in done)]
    count = len(knobs) + 1 + bool(importance) + (len(names) > 1)
    figure, axes = pyplot.subplots(math.ceil(count / 3), 3, figsize=(13, 3.6 * math.ceil(count / 3)), squeeze=False)
    rest = iter(axes.flat)
    colours = ["tab:orange" if t.number in front else "tab:blue" for t in done]

    def scatter(
        x: Sequence[Any], y: Sequence[Any], label: str, other: str, dots: Sequence[str], log: bool = False
    ) -> None:
        axis = next(rest)
        axis.scatter(x, y, c=dots, s=18)
        axis.set(xlabel=label, ylabel=other, **({"xscale": "log"} if log else {}))
        if any(isinstance(value, str) for value in x):  # names are long
            for name in axis.get_xticklabels():
                name.set(rotation=25, ha="right")
        if log:  # 0.1 0.2 0.5 1, as many as fit
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(x) < 30 * min(x) else (1,), numticks=7))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.xaxis.set_minor_formatter(NullFormatter())

    scatter([t.number for t in done], [t.values[0] for t in done], "trial", names[0], colours)
    if len(names) > 1:
        scatter([t.values[1] for t in done], [t.values[0] for t in done], names[1], names[0], colours)
    for knob in (k for k in study.knobs if k.key in knobs):
        mine = [
            (t.params[knob.key], t.values[0], c) for t, c in zip(done, colours, strict=True) if knob.key in t.params
        ]
        x, y, dots = zip(*mine, strict=True)
        scatter(x, y, knob.key, names[0], dots, knob.log)
    if importance:
        axis = next(rest)
        axis.barh(list(importance)[::-1], list(importance.values())[::-1])
        axis.set(xlabel="importance")
    for axis in rest:
        axis.axis("off")
    figure.suptitle(
        f"orange: {'the best trials, of which none beats another in both' if len(names) > 1 else 'the best'}"
    )
    figure.tight_layout()
    figure.savefig(file, dpi=90)
    pyplot.close(figure)
