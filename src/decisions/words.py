"""Which words of configs/calibrate a kind of target can use: what is typed and would be read by nobody is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from src.contracts import ConfigError, Task

KINDS = ("class", "labels", "numbers")  # of Task.target, for which something can be fitted
READ = {  # word -> by which of these kinds, and the word without which it is not
    "scaling": (("class", "labels"), ""),
    "sets": (("class", "numbers"), ""),
    "alpha": (("class", "numbers"), "sets"),
    "by_class": (("class",), "sets"),
    "unfamiliar": (KINDS, ""),
    "false_alarm": (KINDS, "unfamiliar"),
    "decision": (("class",), ""),
    "precision": (("class",), "decision"),
    "cost": (("class",), "decision"),
}


def suits(words: Mapping[str, Any], usual: Mapping[str, Any], task: Task) -> None:
    """Raises ConfigError where a word is not as `usual`, and nothing would come of it."""
    for key in (key for key in READ if words[key] != usual[key]):
        if why := unread(key, words, task):
            said = str(words[key]).lower() if isinstance(words[key], bool) else words[key]
            raise ConfigError(f"calibrate.{key}={said}: {why}.\nLeave calibrate.{key} out.")
    if words["decision"] != "none":
        _decides(words, task)


def unread(key: str, words: Mapping[str, Any], task: Task) -> str:
    """Why nothing reads this word, or ''."""
    kinds, needs = READ[key]
    value = words[key]
    if task.target not in kinds:
        what = f"the targets of this task are {task.target}, and "
        return what + (
            "nothing is fitted for these" if task.target not in KINDS else f"it is for {' and '.join(kinds)}"
        )
    if needs and words[needs] == "none":
        return f"calibrate.{needs}=none makes nothing that it is for"
    if key == "precision" and words["decision"] != "precision":
        return f"calibrate.decision={words['decision']} requires no precision"
    if task.target == "numbers" and key in ("sets", "alpha") and task.spread is not None:
        return "the loss learns the intervals of these numbers"
    if key == "sets" and task.target == "numbers" and value != "none":
        return "numbers have one kind of interval; lac, aps and raps are ways to choose classes"
    if key == "unfamiliar" and task.target == "numbers" and value == "energy":
        return "energy is of logits, and these are numbers"
    return ""


def _decides(words: Mapping[str, Any], task: Task) -> None:
    """Raises ConfigError where there are not the classes that are decided between."""
    method = words["decision"]
    if method == "cost" and [len(row) for row in words["cost"]] != [task.outputs] * task.outputs:
        raise ConfigError(
            f"calibrate.cost={words['cost']}: it must have a row, and in it a cost, for each of the {task.outputs} "
            "classes.\nSet calibrate.cost to as many rows of as many numbers."
        )
    if method != "cost" and task.outputs != 2:
        raise ConfigError(
            f"calibrate.decision={method}: a threshold decides between two classes, and there are {task.outputs}.\n"
            "Leave it out, or set calibrate.decision=cost and calibrate.cost."
        )
