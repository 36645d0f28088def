"""What is searched: the knobs of configs/search/NAME.yaml, as words of train.py, checked before the first trial.

space:
  optimizer.lr: { low: 1e-5, high: 1e-2, log: true }      # a number; whole where both ends are
  trainer.max_epochs: { low: 4, high: 16, step: 4 }
  finetune: [full, llrd, lora]                            # one of these; a key, or a whole group
  finetune.stem: { low: 0.01, high: 1.0, log: true, when: { finetune: llrd } }
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src import check
from src.check import configs
from src.check.kinds import is_whole, real, said
from src.contracts import ConfigError

MOST = 10_000  # combinations that are counted
KEYS = ("low", "high", "log", "step", "when", "choice")


@dataclass(frozen=True)
class Knob:
    key: str
    choice: tuple[str, ...]  # as they are typed; () where it is a number
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    when: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (another knob, what it must be) …

    @property
    def ends(self) -> tuple[str, ...]:
        return self.choice or (typed(self.low), typed(self.high))

    @property
    def whole(self) -> bool:
        return not self.choice and all(map(is_whole, (self.low, self.high, 1 if self.step is None else self.step)))

    def drawn(self, trial: Any) -> str:
        """Its value in an Optuna trial, as a word."""
        if self.choice:
            return self.word(trial.suggest_categorical(self.key, self.choice))
        if self.whole:
            ends = int(self.low), int(self.high)
            return self.word(trial.suggest_int(self.key, *ends, step=int(self.step or 1), log=self.log))
        return self.word(trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log))

    def word(self, value: Any) -> str:
        return f"{self.key}={value if self.choice or self.whole else typed(value)}"

    @property
    def values(self) -> Sequence[Any] | None:
        """All that it may be; None where they cannot be counted."""
        if self.choice:
            return self.choice
        if self.whole:
            return range(int(self.low), int(self.high) + 1, int(self.step or 1))
        if self.step is None:
            return None
        return [self.low + i * self.step for i in range(math.floor((self.high - self.low) / self.step + 1e-9) + 1)]

    def asked(self, words: Sequence[str]) -> bool:
        """Whether its conditions hold in these words."""
        chosen = dict(word.split("=", 1) for word in words)
        return all(chosen.get(key) in values for key, values in self.when)


def typed(value: float) -> str:
    """With four digits: a command that one can read, and the very number that was trained with."""
    return f"{value:.4g}"


def draw(knobs: Sequence[Knob], trial: Any) -> list[str]:
    words: list[str] = []
    for knob in knobs:
        words += [knob.drawn(trial)] if knob.asked(words) else []
    return words


def combinations(knobs: Sequence[Knob]) -> list[tuple[list[str], dict[str, Any]]] | None:
    """(words, knob -> value) of all that can be drawn; None where they cannot be counted, or are too many for that."""
    found: list[tuple[list[str], dict[str, Any]]] = [([], {})]
    for knob in knobs:
        if (values := knob.values) is None or len(found) * len(values) > MOST:
            return None
        found = [
            one
            for words, chosen in found
            for one in (
                [([*words, knob.word(value)], {**chosen, knob.key: value}) for value in values]
                if knob.asked(words)
                else [(words, chosen)]
            )
        ]
    return found


def names() -> list[str]:
    return sorted(file.stem for file in (configs.ROOT / "search").glob("*.yaml"))


def read(name: str) -> dict[str, Any]:
    """The body of configs/search/NAME.yaml."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1, 0.5)
        meant = f"Did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"{name}: there is no configs/search/{name}.yaml.\n"
            f"{meant}There are: {', '.join(names())}. python -m src.search NAME key=value …"
        )
    return configs.read(f"search/{name}").body


def knobs(space: Any, where: str) -> list[Knob]:
    """The space of a yaml; ConfigError, in three parts, where it is empty or contradicts itself."""
    if not isinstance(space, Mapping) or not space:
        raise ConfigError(f"{where}: its space is empty.\nAdd keys of train.py, as the header of src/search/space.py.")
    found: list[Knob] = []
    for key, node in space.items():
        node = {"choice": node} if isinstance(node, list) else node
        if fault := _fault(node, found):
            raise ConfigError(f"{where}: {key}: {said_node(node)}\n  {fault}")
        choice = tuple(said(value) for value in node.get("choice", ()))
        numbers: dict[str, Any] = {k: node[k] for k in ("low", "high", "step", "log") if k in node}
        found.append(Knob(str(key), choice, **numbers, when=_when(node)))
    return found


def said_node(node: Any) -> str:
    return ", ".join(f"{k}: {said(v)}" for k, v in node.items()) if isinstance(node, Mapping) else said(node)


def _when(node: Mapping[str, Any]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    when = node.get("when", {})
    return tuple((key, tuple(said(v) for v in (x if isinstance(x, list) else [x]))) for key, x in when.items())


def _fault(node: Any, above: list[Knob]) -> str:
    """What is wrong with one knob, or ''."""
    if not isinstance(node, Mapping):
        return "Write a list of values, or { low: …, high: …, log: true }."
    if strange := [key for key in node if key not in KEYS]:
        near = difflib.get_close_matches(str(strange[0]), KEYS, 1, 0.5)
        return f"A knob has no {strange[0]}. " + (f"Did you mean {near[0]}?" if near else f"It has: {', '.join(KEYS)}.")
    if "choice" in node:
        values = node["choice"]
        if not isinstance(values, list) or not values or len({said(v) for v in values}) < len(values):
            return "There must be at least one value, and none twice."
    elif not (real(node.get("low")) and real(node.get("high")) and node["low"] < node["high"]):
        return "low and high must be numbers, and low the lower one."
    elif node.get("log") and node["low"] <= 0:
        return "log: true needs low above 0."
    elif "step" in node and (node.get("log") or not (real(node["step"]) and node["step"] > 0)):
        return "step must be a number above 0, and goes without log."
    by_key = {knob.key: knob for knob in above}
    for key, values in _when(node):
        if key not in by_key:
            return f"when: {key} must be a knob above this one; above are: {', '.join(by_key) or 'none'}."
        if not by_key[key].choice or set(values) - set(by_key[key].choice):
            return f"when: {key} never is {' or '.join(values)}; it is one of: {', '.join(by_key[key].choice)}."
    return ""


def mistakes(found: Sequence[Knob], words: Sequence[str], where: str) -> list[str]:
    """What is wrong with the words, or else with any end or choice of the space beside them; a paragraph each."""
    if own := check.mistakes(words):
        return own
    given = {word.partition("=")[0].lstrip("+~") for word in words}
    both = [knob.key for knob in found if knob.key in given]
    if both:
        return [f"{both[0]} is searched by {where}, and given.\n  Leave the word out, or take it out of the space."]
    faults = []
    for knob in found:
        for end in knob.ends:
            faults += check.mistakes([*words, *_beside(knob, end, found)])
    return [f"{where}: {fault}" for fault in dict.fromkeys(faults)]


def _beside(knob: Knob, end: str, found: Sequence[Knob]) -> list[str]:
    """A trial in which this knob has this value."""
    words = [*_conditions(knob, found), f"{knob.key}={end}"]
    for other in found:
        if other.key not in {word.partition("=")[0] for word in words} and other.asked(words):
            words.append(f"{other.key}={other.ends[0]}")
    return words


def _conditions(knob: Knob, found: Sequence[Knob]) -> Iterator[str]:
    """Words under which this knob is asked for."""
    by_key = {other.key: other for other in found}
    for key, values in knob.when:
        yield from _conditions(by_key[key], found)
        yield f"{key}={values[0]}"
