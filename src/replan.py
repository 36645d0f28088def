"""A fit that is made longer or shorter when it is resumed: its schedule goes on from where it is, at another pace."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from src import checkpoint, folder
from src.contracts import ConfigError
from src.factory import make

WORDS = ("trainer.max_epochs", "trainer.max_steps", "callbacks.deadline.seconds")
STAY = ("probe", "find_lr")  # of the stages; what comes behind is done again


@dataclass(frozen=True)
class Plan:
    """update -> place in the schedule that was made for `total` updates, of a fit that has `ends`.

    Linear between the `knots` (update, place) at which it was planned anew: what is left of the schedule is stretched
    or squeezed over the updates that are left. So the rate does not jump, and where the schedule falls it keeps
    falling. A function of plain data that lies in the checkpoint, so that a resumed fit follows it to the bit.
    """

    total: int
    ends: int
    knots: tuple[tuple[int, float], ...] = ()

    def __call__(self, step: float) -> float:
        if not self.knots:
            return step
        updates, places = zip((0, 0.0), *self.knots, (self.ends, self.total), strict=True)
        return float(np.interp(step, updates, places))

    def to(self, ends: int, step: int, place: float) -> Plan:
        """The same schedule from `place`, where it is at update `step`, to its end at update `ends`; a deadline may
        have brought it further than was planned."""
        if ends == self.ends and place <= self(step):
            return self
        return replace(self, ends=ends, knots=(*self.knots, (step, place)))

    def plain(self) -> dict[str, Any]:
        return asdict(self) | {"knots": [list(knot) for knot in self.knots]}


def read(said: Mapping[str, Any]) -> Plan:
    return Plan(said["total"], said["ends"], tuple((int(step), float(place)) for step, place in said["knots"]))


def replan(home: folder.RunFolder, cfg: Mapping[str, Any], asked: Mapping[str, Any], was: Mapping[str, Any]) -> None:
    """Raises ConfigError where the fit cannot take this end; else writes down that it has it, and what is to be done
    again. cfg: of the run, as it was. asked, was: WORDS -> their values."""
    said = " ".join(f"{key}={value}" for key, value in asked.items())
    found = _state(home, said)
    plan, step, now = read(found["plan"]), found["global_step"], _rate(found)
    warm = getattr(make(cfg["scheduler"])(total=plan.total), "warm", 0)
    if found.get("should_stop") or now == 0:
        why = "its learning rate has come to its end" if now == 0 else "early stopping has ended it"
        raise ConfigError(
            f"resume={home.path} {said}: the fit is over at update {step}, {why}; to go on, the rate would have to "
            f"jump up.\nStart a new run from its weights: init_from={home.path} {said}."
        )
    if found["plan"]["place"] < warm:
        raise ConfigError(
            f"resume={home.path} {said}: at update {step} the learning rate is still rising (warm-up until {warm}).\n"
            f"Resume without {said} for some updates first, or start a new run."
        )
    _refuse_past(found, asked, f"resume={home.path} {said}")
    before = " ".join(f"{key}={was[key]}" for key in asked)
    line = f"at update {step}: {before} -> {said}; the learning rate goes on from {100 * now:.3g} % of its peak"
    print(f"replan   {line}", flush=True)
    recipe, state = home.path / "recipe.md", home.state()
    text = recipe.read_text(encoding="utf-8") if recipe.is_file() else "# Recipe\n"
    folder.write(recipe, f"{text}\nPlanned anew {line} ({time.strftime('%Y-%m-%d %H:%M')}).\n")
    home.update(
        done=[stage for stage in state["done"] if stage in STAY],
        replanned=[*state.get("replanned", []), {"update": step, "was": dict(was), "asked": dict(asked)}],
    )


def _state(home: folder.RunFolder, said: str) -> dict[str, Any]:
    last = home.path / "checkpoints" / "last.ckpt"
    if (home.path / folder.CONTEST).is_dir():
        raise ConfigError(
            f"resume={home.path} {said}: several networks are still fitted side by side (model.top), and with another "
            "end they would be compared after another part of their fits than those that were compared already.\n"
            f"Resume without {said}, and with it once one network is left; or start a new run with it."
        )
    if not (last.exists() or checkpoint.previous(last).exists()):
        raise ConfigError(
            f"resume={home.path} {said}: this run has not trained yet, so there is nothing to go on with.\n"
            f"Start a new run with {said}."
        )
    found = checkpoint.load(last)
    if "plan" not in found:
        raise ConfigError(
            f"resume={home.path} {said}: its checkpoint is of an earlier version and does not say how its schedule was "
            f"planned.\nResume it without {said}, or start a new run with init_from={home.path}."
        )
    return found


def _rate(found: Mapping[str, Any]) -> float:
    """The part of its peak at which the learning rate is."""
    groups = [g for state in found["optimizer_states"] for g in state["param_groups"]]
    return max(float(g["lr"]) / g["initial_lr"] for g in groups)


def _refuse_past(found: Mapping[str, Any], asked: Mapping[str, Any], said: str) -> None:
    """Ends that lie behind the fit."""
    epochs = found["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    spent = next((s["spent"] for s in found["callbacks"].values() if isinstance(s, dict) and "spent" in s), 0.0)
    done = dict(zip(WORDS, (epochs, found["global_step"], spent), strict=True))
    for key, value in asked.items():
        if value not in (None, -1) and value <= done[key]:
            raise ConfigError(
                f"{said}: {done[key]:.6g} are done already, and the learning rate would not come to its end.\n"
                f"Set {key} above {done[key]:.6g}, or resume without it."
            )
