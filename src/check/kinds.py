"""The kinds of values that rules are made of: numbers in a range, pairs, one of several words."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    words: str  # it must be …
    holds: Callable[[Any], bool]

    def __or__(self, other: Rule) -> Rule:
        return Rule(f"{self.words}, or {other.words}", lambda v: self.holds(v) or other.holds(v))


UNITS = {"s": 1, "m": 60, "h": 3600}
TIME = Rule(
    "a time, as 90s, 10m or 2h", lambda v: isinstance(v, str) and re.fullmatch(r"\d+(\.\d+)?[smh]", v) is not None
)


def seconds(time: str) -> float:
    """10m -> 600."""
    return float(time[:-1]) * UNITS[time[-1]]


def real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def within(range_: str) -> Callable[[float], bool]:
    """'0 <= x < 1' -> a test."""
    found = re.fullmatch(r"(?:(\S+) (<=?) )?x(?: (<=?) (\S+))?", range_)
    assert found, range_
    low, lower, upper, high = found.groups()

    def test(x: float) -> bool:
        above = not low or (float(low) < x if lower == "<" else float(low) <= x)
        return above and (not high or (x < float(high) if upper == "<" else x <= float(high)))

    return test


def number(range_: str) -> Rule:
    return Rule(f"a number, {range_}", lambda v: real(v) and within(range_)(v))


def whole(range_: str) -> Rule:
    return Rule(f"a whole number, {range_}", lambda v: is_whole(v) and within(range_)(v))


def pair(range_: str, rising: bool = True) -> Rule:
    def holds(v: Any) -> bool:
        inside = isinstance(v, list) and len(v) == 2 and all(real(x) and within(range_)(x) for x in v)
        return inside and (not rising or v[0] <= v[1])

    return Rule(f"{'[low,high]' if rising else 'two numbers'}, each {range_}", holds)


def one_of(*values: Any, note: str = "") -> Rule:
    shown = " | ".join(map(said, values))
    return Rule(shown + note, lambda v: any(v == x and type(v) is type(x) for x in values))


def said(value: Any) -> str:
    """As the user types it."""
    if isinstance(value, list):
        return f"[{','.join(map(said, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return "{…}" if isinstance(value, dict) else str(value)


NULL = Rule("null", lambda v: v is None)
FRACTION = Rule("a fraction, as 4/255", lambda v: isinstance(v, str) and re.fullmatch(r"\d+/[1-9]\d*", v) is not None)
TEXT = Rule("text", lambda v: isinstance(v, str) and v != "")
NODE = Rule("a yaml node with a _target_", lambda v: isinstance(v, dict) and "_target_" in v)
BOOL = one_of(True, False)
BATCHES = whole("1 <= x") | number("0 < x <= 1") | NULL
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true")


def of_type(default: Any) -> Rule:
    if isinstance(default, bool):
        return BOOL
    if isinstance(default, int):
        return Rule("a whole number", is_whole)
    if isinstance(default, float):
        return Rule("a number", real)
    if isinstance(default, str):
        return Rule("text (digits as text are quoted twice: 'key=\"7\"')", lambda v: isinstance(v, str))
    if isinstance(default, list):
        return _like(default)
    return Rule("anything", lambda v: True)


def _like(default: list[Any]) -> Rule:
    if default and all(map(real, default)):
        n = len(default)
        return Rule(
            f"a list of {n} numbers, as {said(default)}", lambda v: is_list(v) and len(v) == n and all(map(real, v))
        )
    return Rule(f"a list, as {said(default)}", is_list)


def levels(value: Any) -> bool:
    if not (is_list(value) and all(real(x) and 0 < x < 1 for x in value) and 0.5 in value[1:-1]):
        return False
    return sorted(set(value)) == value


def are(values: Any, each: Rule) -> bool:
    return is_list(values) and values != [] and all(map(each.holds, values))


def numbers(value: Any) -> bool:
    return is_list(value) and value != [] and all(map(real, value))


def is_list(value: Any) -> bool:
    return isinstance(value, list)
