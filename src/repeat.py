"""The same run with several seeds, or on several folds: python -m src.repeat seeds=5 [against=DIR] key=value …

Each is a run of train.py in logs/NAME/seed-0, …; NAME by name=NAME. The same words again do what is missing. Prints and
writes (metrics.json) the mean of each metric with its 95 % interval. Its own words:

    seeds=5 | [0,7,9]    how many, from 0 on, or which
    folds=5              instead: data.fold=0,1,… of data.folds=5; python -m src.merge logs/NAME merges them
    against=DIR          the folder of another such group: differences, seed by seed, with their interval
    workers=1            that run at the same time, on a GPU each or a share of the cores
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from src import few, folder, secret
from src.check import mistakes, own
from src.check.kinds import NULL, TEXT, Rule, is_whole, whole
from src.contracts import ConfigError
from src.doors import opened
from src.search import jobs

OPTIONS = {
    "seeds": whole("1 <= x")
    | Rule("a list of seeds", lambda v: isinstance(v, list) and v != [] and all(map(is_whole, v))),
    "folds": whole("2 <= x"),
    "against": Rule("the folder of another group", TEXT.holds) | NULL,
    "workers": whole("1 <= x"),
}
Table = dict[str, dict[str, float]]  # metric -> run -> value


def units(options: Mapping[str, Any], words: Sequence[str]) -> dict[str, list[str]]:
    """The runs by their names, and the words that they do not share."""
    given = {word.partition("=")[0] for word in words}
    for key, mine in (("seed", "seeds"), ("data.fold", "folds"), ("data.folds", "folds")):
        if mine in options and key in given:
            raise ConfigError(
                f"{mine}={options[mine]} sets {key} in each run, and it is given.\nLeave one of them out."
            )
    if "folds" in options:
        if "seeds" in options:
            raise ConfigError("seeds and folds are two ways to repeat a run.\nGive one; seed=1 folds=5 is possible.")
        count = options["folds"]
        return {f"fold-{i}": [f"data.fold={i}", f"data.folds={count}"] for i in range(count)}
    seeds = options.get("seeds", 5)
    return {f"seed-{i}": [f"seed={i}"] for i in (range(seeds) if is_whole(seeds) else seeds)}


def run(
    place: Path, words: Sequence[str], runs: Mapping[str, list[str]], places: Sequence[jobs.Place], command=jobs.TRAIN
) -> dict[str, str]:
    """Does what is missing of these runs, in folders of their names; -> those that failed, and why. ConfigError if the
    folder is that of other words."""
    home = folder.RunFolder(place)
    with home.lock():
        was, told = home.state().get("words"), secret.words(words)
        if was is not None and was != told:
            raise ConfigError(
                f"{place} holds runs of other words:\n  {shlex.join(was)}\ninstead of\n  {shlex.join(told)}\n"
                "Give these a name of their own with name=NAME."
            )
        home.update(words=told, state="running")
        waiting, failed = list(runs), {}

        def take(env: jobs.Place) -> jobs.Job | None:
            if not waiting:
                return None
            name = waiting.pop(0)
            return jobs.Job(place / name, [*words, *runs[name]], env, command)

        def done(job: jobs.Job, code: int) -> None:
            if code:
                failed[job.folder.name] = job.why()
            said = f"failed: {failed[job.folder.name]}" if code else _said(job.folder)
            print(f"{job.folder.name:8} {said}", flush=True)

        jobs.pool(take, done, places)
        table = gathered(place, runs)
        home.add_metrics({k: v for key in table for k, v in few.bounds(key, [*table[key].values()]).items()})
        spent = [sum(jobs.state(place / name).get("seconds", {}).values()) for name in runs]
        home.update(state="failed" if failed else "finished", runs=list(runs), seconds={"runs": sum(spent)})
    return failed


def _said(run: Path) -> str:
    name, _ = jobs.monitor(run)
    found = jobs.metrics(run)
    shown = [key for key in (name, name.replace("val/", "test/")) if found.get(key) is not None]
    return "  ".join(f"{key} {found[key]:.4f}" for key in shown)


def gathered(place: Path, runs: Sequence[str] | Mapping[str, Any]) -> Table:
    """The metrics of those that are finished."""
    table: Table = {}
    for name in runs:
        if jobs.state(place / name).get("state") == "finished":
            found = jobs.metrics(place / name)
            for key in folder.measured(found):
                if (value := found[key]) is not None:
                    table.setdefault(key, {})[name] = value
    return table


def page(table: Table, other: Table | None, against: str) -> str:
    """A line for each metric: the mean with its interval, the worst and best run; the paired difference."""
    lines = []
    for key, values in table.items():
        centre, half = few.interval([*values.values()])
        told = few.told(centre, half) if half else f"{centre:.4f} each time"
        line = f"{key:24} {told:20} {min(values.values()):.4f} … {max(values.values()):.4f}"
        if other is not None and (pairs := few.paired(values, other.get(key, {})))[2]:
            change, width, n = pairs
            what = "beyond chance" if abs(change) > width else "within chance"
            seeds = n > 1 and next(iter(values)).startswith("seed-")
            if seeds and len({*values.values()}) == len({*other[key].values()}) == 1:
                what = "the seed changes neither; whether it is chance the images tell (src.compare)"
            line += (
                f"   {change:+.4f}" + ("" if math.isinf(width) else f" ± {width:.4f}") + f" against {against}: {what}"
            )
            line += "" if n == len(values) else f" ({n} pairs)"
        lines.append(line)
    return "\n".join(lines)


def main(argv: Sequence[str], command: Sequence[str] = jobs.TRAIN) -> int:
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0
    return opened(lambda: repeat(argv, command), "The same words go on.")


def repeat(argv: Sequence[str], command: Sequence[str]) -> int:
    with own.refused():
        options, words = own.sorted_out(argv, OPTIONS)
        runs = units(options, words)
        if faults := mistakes([*words, *next(iter(runs.values()))]):
            raise ConfigError("\n\n".join(faults))
        taken = ("run_dir", "resume")
        rest = [word for word in words if word.partition("=")[0] not in (*taken, "name")]
        place = _place(words)
        if any(word.startswith("resume=") for word in words):
            raise ConfigError("resume=: a group goes on by itself.\nGive the same words again, without resume.")
        other = _other(options.get("against"), runs)
        if other is not None and Path(str(options["against"])).absolute() == place:
            raise ConfigError(
                f"against={options['against']}: that is this group itself.\nName another, or this one with name=NAME."
            )
        where = own.value(words, "trainer.accelerator"), own.value(words, "trainer.devices")
        places = jobs.places(options.get("workers", 1), *where)
    failed = run(place, rest, runs, places, command)
    table = gathered(place, runs)
    print(f"\n{len(runs) - len(failed)} runs in {place}\n{page(table, other, str(options.get('against')))}")
    if "folds" in options and not failed:
        print(f"\nmerge    python -m src.merge {place}")
    for name, reason in failed.items():
        print(f"{name} failed: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _place(words: Sequence[str]) -> Path:
    given = own.value(words, "run_dir")
    name = next((word[5:] for word in words if word.startswith("name=")), "repeat")
    return Path(given).absolute() if given else Path(own.value(words, "paths.logs")).absolute() / name


def _other(against: str | None, runs: Collection[str]) -> Table | None:
    if not against:
        return None
    names = jobs.state(Path(against)).get("runs")
    if not names:
        there = "a folder, but its run.json names no runs" if Path(against).is_dir() else "not there"
        raise ConfigError(f"against={against}: that is {there}.\nName the folder of a group that src.repeat has made.")
    other_folds = any(name.startswith("fold-") for name in names) and len(names) != len(runs)
    if other_folds or not set(names) & set(runs):
        raise ConfigError(
            f"against={against}: it has {', '.join(names)}, and this group will have {', '.join(runs)}: these are no "
            "pairs.\nGive the same seeds, or as many folds."
        )
    return gathered(Path(against), names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
