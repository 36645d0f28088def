"""Searches for better words of train.py: python -m src.search NAME [trials=20] key=value …

NAME is a space, configs/search/NAME.yaml; key=value are words of train.py that every trial has. Each trial is a process
of train.py without its test, in logs/search/NAME/trials/; whatever is killed, the same command goes on. In the end the
best and the default are trained and tested with seeds that the search has not seen. Its own words:

    trials=20            how many, those that fail or are stopped early too; later more of them may be asked for
    workers=1            trials at the same time, on a GPU each or a share of the cores
    prune=median         stop a trial that is worse after as many epochs: median | halving (successive) | none
    sampler=tpe          tpe (learns from the trials before) | random
    objective=monitor    the metric that chooses in train.py, or 'objective={val/nll: min}', or with the time that it
                         takes, 'objective=[monitor,seconds]': then the best for each time
    folds=5              each trial is judged by its mean over so many folds
    seeds=3              of the best and of the default in the end; 0: do not compare
    stop_after=20m       begin no trial later than this
    name=NAME            another folder: logs/search/NAME
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src import repeat, secret
from src.check import own
from src.check.kinds import NULL, Rule, one_of, said, whole
from src.check.rules import RULES
from src.contracts import ConfigError
from src.doors import opened
from src.search import jobs, space

OPTIONS: dict[str, Rule] = {
    "trials": whole("1 <= x"),
    "workers": whole("1 <= x"),
    "prune": one_of("median", "halving", "none"),
    "sampler": one_of("tpe", "random"),
    "objective": Rule(
        "monitor, or a mapping of metrics to max or min, or a list of such, as [monitor,seconds]",
        lambda v: (
            v != [] and all(x in ("monitor", "seconds") or _directed(x) for x in (v if isinstance(v, list) else [v]))
        ),
    ),
    "folds": whole("2 <= x") | NULL,
    "seeds": whole("2 <= x") | one_of(0),
    "stop_after": RULES["budget"],
    "name": RULES["name"],
}
DEFAULTS: dict[str, Any] = {
    "trials": 20, "workers": 1, "prune": "none", "sampler": "tpe", "objective": "monitor", "folds": None, "seeds": 3,
    "stop_after": None,
}  # fmt: skip
TAKEN = {
    "run_dir": "each trial has a folder of its own",
    "resume": "a search goes on by itself: give the same words again",
    "stages": "a trial ends before its test",
}


def _directed(value: Any) -> bool:
    return isinstance(value, dict) and value != {} and all(mode in ("max", "min") for mode in value.values())


def main(argv: Sequence[str], command: Sequence[str] = jobs.TRAIN) -> int:
    if not argv or {"-h", "--help"} & set(argv):
        print(f"{__doc__}\nspaces   {', '.join(space.names())}")
        return 0 if argv else 2
    return opened(lambda: search(argv, command), "The same words go on.")


def search(argv: Sequence[str], command: Sequence[str]) -> int:
    with own.refused():
        asked = Asked(argv)
    from src.search import drive  # Optuna is imported behind the check

    return drive.search(asked, command)


class Asked:
    """What the words of the command line and the yaml ask for; ConfigError where they cannot be obeyed."""

    def __init__(self, argv: Sequence[str]):
        name, *rest = argv
        if "=" in name:
            raise ConfigError(f"{name}: the first word is the space.\nOne of: {', '.join(space.names())}.")
        self.where, body = f"configs/search/{name}.yaml", space.read(name)
        for key, value in body.items():
            if key not in (*OPTIONS, "space", "words") or (key in OPTIONS and not OPTIONS[key].holds(value)):
                must = f"{key} must be {OPTIONS[key].words}" if key in OPTIONS else f"there is no {key}"
                raise ConfigError(
                    f"{self.where}: {key}: {said(value)}\n  {must}. Keys: space, words, {', '.join(OPTIONS)}."
                )
        self.knobs = space.knobs(body.get("space"), self.where)
        typed, self.words = own.sorted_out(rest, OPTIONS)
        self.options = {**DEFAULTS, "name": name, **{k: v for k, v in body.items() if k in OPTIONS}, **typed}
        given = {word.partition("=")[0].lstrip("+~") for word in self.words}
        if taken := given & set(TAKEN):
            key = taken.pop()
            raise ConfigError(f"{key} is not for a search: {TAKEN[key]}.\nLeave it out.")
        self.always = [word for word in body.get("words", []) if word.partition("=")[0] not in given]
        folds = []
        if count := self.options["folds"]:
            folds = repeat.units({"folds": count}, self.words)["fold-0"]
        if faults := space.mistakes(self.knobs, [*self.words, *self.always, *folds], self.where):
            raise ConfigError("\n\n".join(faults))
        if self.cached and "data.resize" not in given:  # the recipe of a run might decide another one
            self.always.append(f"data.resize={own.value(self.words, 'data.resize')}")
        self.options["seed"] = own.value(self.words, "seed")
        self.objective = self._objective()
        why = "several objectives" if len(self.objective) > 1 else "folds" if self.options["folds"] else self._rivals()
        if why and self.options["prune"] != "none":
            if "prune" in typed:
                raise ConfigError(f"prune={typed['prune']}: with {why} no trial is stopped early.\nSet prune=none.")
            print(f"prune=none, since there are {why}")
            self.options["prune"] = "none"
        if self.options["prune"] != "none" and "csv" not in (own.value([*self.words, *self.always], "logger") or {}):
            raise ConfigError(
                f"prune={self.options['prune']} reads the history of a trial, which logger=csv writes.\n"
                "Add csv to the loggers, or set prune=none."
            )
        accelerator, devices = (own.value(self.words, f"trainer.{key}") for key in ("accelerator", "devices"))
        self.places = jobs.places(self.options["workers"], accelerator, devices)
        self.home = Path(own.value(self.words, "paths.logs")).absolute() / "search" / self.options["name"]

    def _objective(self) -> dict[str, str]:
        """name -> max or min; `monitor` stands for what the recipe will choose by."""
        asked, found = self.options["objective"], {}
        for one in asked if isinstance(asked, list) else [asked]:
            monitor = {"monitor": own.value(self.words, "task.mode")}
            found |= one if isinstance(one, dict) else {"seconds": "min"} if one == "seconds" else monitor
        return found

    def _rivals(self) -> str:
        """What tells of a trial too late to stop it: it has no history before one of its networks is left."""
        asked = own.value([*self.words, *self.always], "model.top")
        tops = [str(asked), *(end for knob in self.knobs if knob.key == "model.top" for end in knob.ends)]
        return "several networks in a trial (model.top)" if any(top.isdigit() and int(top) > 1 for top in tops) else ""

    @property
    def cached(self) -> bool:
        """Whether all trials have the same features."""
        heads = all(knob.key.startswith("probe.") for knob in self.knobs)
        words = [*self.words, *self.always]
        several = self.options["folds"] or own.value(words, "model.candidates")
        return heads and "recipe=probe" in words and not several

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it the same study."""
        knobs = {knob.key: [*knob.ends, str(knob.log), str(knob.step), str(knob.when)] for knob in self.knobs}
        more = {key: self.options[key] for key in ("sampler", "folds")}
        return {"space": knobs, "words": secret.words([*self.words, *self.always]), "objective": self.objective, **more}

    def trial(self, drawn: Sequence[str]) -> list[str]:
        """The words of a trial: it ends before the test, and says what it measures."""
        words = [*self.words, *self.always, *drawn]
        given = {word.partition("=")[0] for word in words}
        stages = "[probe,select]" if "recipe=probe" in words else "[probe,fit,select]"
        folds = [f"folds={self.options['folds']}"] if self.options["folds"] else []
        return [*words, f"stages={stages}", *([] if "logger" in given else ["logger=[csv]"]), *folds]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
