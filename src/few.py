"""Mean and 95 % interval of a few runs, and of their differences (Student 1908). Without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev

# 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom; behind them that of the ninth, which is safe
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half of the width of its interval; infinite for one value)"""
    if len(values) < 2:
        return mean(values), math.inf
    return mean(values), STUDENT[min(len(values) - 2, 8)] * stdev(values) / math.sqrt(len(values))


def paired(new: Mapping[str, float], old: Mapping[str, float]) -> tuple[float, float, int]:
    """(mean difference of what both have, half of the width of its interval, how many they are)"""
    both = [new[key] - old[key] for key in new if key in old]
    return (*interval(both), len(both)) if both else (math.nan, math.inf, 0)


def told(centre: float, half: float) -> str:
    """0.9123 ± 0.0045"""
    return f"{centre:.4f}" + ("" if math.isinf(half) else f" ± {half:.4f}")
