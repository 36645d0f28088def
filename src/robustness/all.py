"""All tests of robustness, one after the other."""

from __future__ import annotations

import inspect
from typing import Any

from src.robustness.attacks import Attacks
from src.robustness.corruptions import Corruptions
from src.robustness.shifts import Shifts


def everything(**words: Any) -> list[Any]:
    """words: those of each, by their names; they share `images`."""
    parts = Corruptions, Shifts, Attacks
    known = [set(inspect.signature(part).parameters) for part in parts]
    if strange := set(words) - set.union(*known):
        raise TypeError(f"unexpected {', '.join(sorted(strange))}")
    return [part(**{k: v for k, v in words.items() if k in its}) for part, its in zip(parts, known, strict=True)]
