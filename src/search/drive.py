"""The search itself: trials until there are enough, then the report, then the comparison with the default."""

from __future__ import annotations

import csv
import io
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import Trial, TrialState

from src import folder, repeat
from src.check import own
from src.check.kinds import seconds
from src.contracts import ConfigError, DataError
from src.search import jobs, report
from src.search.study import Failed, Study


def search(asked: Any, command: Sequence[str]) -> int:
    home, options = folder.RunFolder(asked.home), asked.options
    with home.lock():
        study = Study(home.path, asked.knobs, asked.identity, options)
        print(f"search   {home.path}: {len(study.complete)} of {options['trials']} trials are there", flush=True)
        (heads if asked.cached else trials)(asked, study, command)
        found = report.Report(asked, study)
        if study.exhausted:
            print(f"The space has nothing else: all its {len(study.trials)} combinations were tried.")
        found.write()
        if not study.complete:
            print(f"\nNo trial has a result; the reasons are in {home.path / 'trials.csv'}.", file=sys.stderr)
            return 1
        print(f"\n{found.best()}", flush=True)
        if not options["seeds"]:
            return 0
        verdict, failed = compared(asked, study, found, command)
        print(f"\n{verdict}")
        for name, reason in failed.items():
            print(f"{name} failed: {reason}", file=sys.stderr)
        return 1 if failed else 0


def deadline(asked: Any) -> float:
    """When no more trials begin."""
    limit = asked.options["stop_after"]
    return time.monotonic() + (seconds(limit) if limit else math.inf)


def heads(asked: Any, study: Study, command: Sequence[str]) -> None:
    """Trials in this process, where only the head differs. torch is imported here."""
    from src.cached_heads import scorer

    end, score = deadline(asked), scorer([*asked.words, *asked.always], folder.RunFolder(asked.home / "features"))
    while time.monotonic() < end and (trial := study.ask()) is not None:
        begun = time.monotonic()
        try:
            measured = score(trial.user_attrs["words"])
            taken = time.monotonic() - begun
            trial.set_user_attr("seconds", taken)
            names = [own.value(asked.words, "task.monitor") if name == "monitor" else name for name in asked.objective]
            study.tell(trial, objectives(measured | {"seconds": taken}, names, asked.home))
        except (Failed, RuntimeError) as reason:  # torch's own, of a matrix that cannot be inverted, and of memory
            study.fail(trial, str(reason).partition("\n")[0])
        print(report.line(study, trial.number), flush=True)


def trials(asked: Any, study: Study, command: Sequence[str]) -> None:
    """A process each, until there are as many as asked for, or the time is over."""
    end, running, seen = deadline(asked), dict[Path, Trial](), dict[Path, int]()
    program = jobs.REPEAT if asked.options["folds"] else command

    def take(place: jobs.Place) -> jobs.Job | None:
        if time.monotonic() > end or (trial := study.ask()) is None:
            return None
        path = asked.home / "trials" / f"{trial.number:04d}"
        running[path] = trial
        return jobs.Job(path, asked.trial(trial.user_attrs["words"]), place, program)

    def watch(job: jobs.Job) -> None:
        history = job.folder / "metrics.csv"
        size = history.stat().st_size if history.is_file() else 0
        if size != seen.get(job.folder, 0) and not job.stopped:
            seen[job.folder] = size
            if study.prune(running[job.folder], validations(job.folder)):
                job.stop()

    def done(job: jobs.Job, code: int) -> None:
        trial = running.pop(job.folder)
        try:
            if job.stopped and code:
                study.optuna.tell(trial, state=TrialState.PRUNED)
            elif code == 3:
                raise DataError(f"{job.why()}\nAll trials have these images. More is in {job.folder / 'err.txt'}.")
            elif code:
                raise Failed(job.why())
            else:
                measured = jobs.metrics(job.folder) | {"seconds": seconds_of(job.folder)}
                chosen_by = jobs.monitor(job.folder)[0]
                names = [chosen_by if name == "monitor" else name for name in asked.objective]
                found = objectives(measured, names, job.folder)
                trial.set_user_attr("seconds", seconds_of(job.folder))
                study.tell(trial, found)
        except Failed as reason:
            study.fail(trial, str(reason))
        print(report.line(study, trial.number), flush=True)

    jobs.pool(take, done, asked.places, watch)


def validations(run: Path) -> list[float]:
    """The monitored metric at each validation so far; as long as nothing is known, nothing."""
    file = run / "metrics.csv"
    if not file.is_file() or not (run / "config.yaml").is_file():
        return []
    name, _ = jobs.monitor(run)
    text = file.read_text(encoding="utf-8")
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    return [float(row[name]) for row in rows if row.get(name)]


def objectives(measured: Mapping[str, float | None], names: Sequence[str], run: Path) -> dict[str, float]:
    """Those of a trial, of all that it has measured."""
    values = {}
    for name in names:
        if name not in measured:
            known = ", ".join(key for key in measured if key.startswith("val/") or key == "seconds")
            raise ConfigError(
                f"objective={name}: {run} has not logged it.\nIt has: {known}.\n"
                "Choose one of these, with name=NAME for a study of its own."
            )
        value = measured[name]
        if value is None or not math.isfinite(value):
            raise Failed(f"{name} is {value}")
        values[name] = value
    return values


def seconds_of(run: Path) -> float:
    """Of all stages; the part of one that a kill has cut off is not counted."""
    return sum(jobs.state(run).get("seconds", {}).values())


def compared(asked: Any, study: Study, found: report.Report, command: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The best and the default, trained and tested with seeds that the search has not seen, and the runs that failed.
    Here alone is a test read, and nothing is decided behind it."""
    best = study.best()[0]
    first = asked.options["seed"] + 1
    runs = {f"seed-{i}": [f"seed={i}"] for i in range(first, first + asked.options["seeds"])}
    words = [word for word in asked.words if not word.startswith("seed=")]
    groups = {
        "default": words,
        f"best-{best.number:04d}": [*words, *asked.always, *best.user_attrs["words"]],
    }

    failed: dict[str, str] = {}

    def tables(runs: dict[str, list[str]]) -> list[repeat.Table]:
        failed.clear()  # what is missing is done again
        for name, those in groups.items():
            print(f"\n{name}: {len(runs)} seeds, to the end", flush=True)
            wrong = repeat.run(asked.home / name, those, runs, asked.places, command)
            failed.update({f"{name}/{run}": reason for run, reason in wrong.items()})
        return [repeat.gathered(asked.home / name, runs) for name in groups]

    two = dict([*runs.items()][:2])  # a seed seldom changes heads that are solved, and two of them tell
    old, new = tables(two if asked.cached else runs)
    monitor = jobs.monitor(asked.home / "default")
    if asked.cached and len(runs) > 2 and not report.seedless(new, old, [monitor[0]]):
        old, new = tables(runs)
    verdict = report.verdict(new, old, monitor)
    found.write(verdict)
    return verdict, failed
