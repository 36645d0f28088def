"""The study: Optuna with a journal on disk. One driver asks and tells; whatever is killed, the same words go on."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from src.contracts import ConfigError
from src.search.space import Knob, combinations, draw

DRAWS = 30  # in a row that only repeat what was tried, after which nothing else is expected
ALIKE = 3  # likewise, after which a space that can be counted is: TPE would draw what it believes in again and again


class Failed(Exception):
    """A trial without a result, and why."""


class Study:
    """knobs, said: what it is a study of; another one in the same folder is refused."""

    def __init__(self, folder: Path, knobs: Sequence[Knob], said: Mapping[str, Any], options: Mapping[str, Any]):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=ExperimentalWarning)
        self.knobs, self.options, self.several = knobs, options, len(said["objective"]) > 1
        modes = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        directions = [modes[mode] for mode in said["objective"].values()]
        storage = JournalStorage(JournalFileBackend(str(_mended(folder / "journal.log"))))
        pruner = _pruner(options["prune"])
        self.optuna = optuna.create_study(
            storage=storage, study_name="search", directions=directions, load_if_exists=True, pruner=pruner
        )
        was = self.optuna.user_attrs.get("said")
        if was is None:
            self.optuna.set_user_attr("said", dict(said))
        elif was != said:
            raise ConfigError(_another(folder, was, said))
        self.begun: set[int] = set()  # the trials of this driver
        self.every, self.exhausted = combinations(knobs), False

    @property
    def trials(self) -> list[FrozenTrial]:
        """Those that count: not what a small space has drawn again, or what waits to be drawn."""
        known = (t for t in self.optuna.get_trials(deepcopy=False) if t.state != TrialState.WAITING)
        return [t for t in known if "repeats" not in t.user_attrs]

    @property
    def complete(self) -> list[FrozenTrial]:
        return [t for t in self.trials if t.state == TrialState.COMPLETE]

    def ask(self) -> Trial | None:
        """The next trial, its words in its attributes: first those that a killed driver has left; None: enough."""
        left = [t for t in self.trials if t.state == TrialState.RUNNING and t.number not in self.begun]
        for turn in range(0 if self.exhausted else DRAWS + len(left)):
            if not left and len(self.trials) >= self.options["trials"]:
                return None
            if not left and turn >= ALIKE and self.every is not None and not self._counted():
                break
            if (trial := self._drawn(left.pop(0) if left else None)) is not None:
                return trial
        self.exhausted = True
        return None

    def _counted(self) -> bool:
        """Puts one of the combinations that were not tried before the sampler's draws; False: there is none."""
        tried = [t.user_attrs.get("words") for t in self.trials]
        if untried := [values for words, values in self.every or () if words not in tried]:
            draw = random.Random(f"{self.options['seed']} counted {len(tried)}")
            self.optuna.enqueue_trial(draw.choice(untried))
        return bool(untried)

    def _drawn(self, left: FrozenTrial | None) -> Trial | None:
        """The draw depends on the seed and the number of the trial, so that a search that was killed draws what it
        would have drawn; None: it was tried before."""
        number = len(self.optuna.get_trials(deepcopy=False)) if left is None else left.number
        self.optuna.sampler = _sampler(self.options, number)
        trial = self.optuna.ask() if left is None else Trial(self.optuna, left._trial_id)
        self.begun.add(trial.number)
        words = draw(self.knobs, trial)
        before = [t.number for t in self.trials if t.number != trial.number and t.user_attrs.get("words") == words]
        if before:
            trial.set_user_attr("repeats", before[0])
            self.optuna.tell(trial, state=TrialState.FAIL)
            return None
        trial.set_user_attr("words", words)
        return trial

    def tell(self, trial: Trial, found: Mapping[str, float]) -> None:
        """A trial has these results, by the names of the objectives."""
        if self.names and self.names != list(found):
            raise Failed(f"it is judged by {', '.join(found)}, the trials before it by {', '.join(self.names)}")
        trial.set_user_attr("names", list(found))
        self.optuna.tell(trial, list(found.values()))

    def fail(self, trial: Trial, reason: str) -> None:
        trial.set_user_attr("reason", reason)
        self.optuna.tell(trial, state=TrialState.FAIL)

    @property
    def names(self) -> list[str]:
        """Of the objectives, as soon as a trial has said which metric its recipe chooses by."""
        return next((t.user_attrs["names"] for t in self.complete), [])

    def prune(self, trial: Trial, values: Sequence[float]) -> bool:
        """Whether a trial with these values, one a validation, need not go on."""
        if self.several or self.options["prune"] == "none":
            return False
        known = self.optuna._storage.get_trial(trial._trial_id).intermediate_values
        for step, value in enumerate(values, 1):
            if step not in known:
                trial.report(value, step)
                if trial.should_prune():
                    return True
        return False

    def best(self) -> list[FrozenTrial]:
        """The best trial; with several objectives all that no other one beats in everything, the best metric first."""
        if not self.complete:
            return []
        if not self.several:
            return [self.optuna.best_trial]
        sign = -1 if self.optuna.directions[0] == StudyDirection.MAXIMIZE else 1
        return sorted(self.optuna.best_trials, key=lambda t: sign * t.values[0])

    def importance(self) -> dict[str, float]:
        """How much each knob decides whether a trial is among the best tenth (PED-ANOVA, Watanabe et al. 2023). Where
        all are alike none does, of which it would say that each does as much."""
        if len(self.complete) < 4 or len({tuple(t.values) for t in self.complete}) == 1:
            return {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Target and region quantiles select the same set")  # nearly all are
            return optuna.importance.get_param_importances(self.optuna)


def _sampler(options: Mapping[str, Any], number: int) -> BaseSampler:
    seed = random.Random(f"{options['seed']} trial {number}").getrandbits(31)
    if options["sampler"] == "random":
        return RandomSampler(seed)
    # group: knobs that are asked for together are drawn together; constant_liar: workers do not draw the same
    return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=options["workers"] > 1)


def _pruner(name: str) -> BasePruner:
    if name == "median":
        return MedianPruner(n_startup_trials=4, n_warmup_steps=2)
    return SuccessiveHalvingPruner(min_resource=1, reduction_factor=3) if name == "halving" else NopPruner()


def _mended(journal: Path) -> Path:
    """Without the half of a line, and the lock, that a kill may have left. Our caller holds the folder's own lock."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.is_file():
        text = journal.read_bytes()
        os.truncate(journal, text.rfind(b"\n") + 1)
    return journal


def _another(folder: Path, was: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    rows = [f"  {k}: it has {was.get(k)}, asked is {said[k]}" for k in said if was.get(k) != said[k]]
    return (
        f"{folder} holds another study:\n" + "\n".join(rows) + "\n"
        "Give this one a name of its own with name=NAME; or use the words of that one, to go on with it."
    )
