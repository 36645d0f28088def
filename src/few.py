"""Mean and 95 % interval of a few runs, and of their differences (Student 1908). Without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev

# 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom; behind them that of the ninth, which is safe
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)

# Between which a metric lies, by its name or, where it is told of each class or target, a part of it
UNIT = "acc balanced_acc pixel_acc f1_macro f1_micro map_macro map_micro recall_at_1 recall_at_5 map_at_r auroc ece"
UNIT += " miou iou dice coverage unfamiliar"
RANGES = dict.fromkeys(UNIT.split(), (0.0, 1.0)) | {"brier": (0.0, 2.0), "qwk": (-1.0, 1.0)}
RANGES |= dict.fromkeys(("r2", "skill"), (-math.inf, 1.0))
RANGES |= dict.fromkeys(("nll", "mae", "rmse", "interval_width", "set_size"), (0.0, math.inf))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half of the width of its interval; infinite for one value)"""
    if len(values) < 2:
        return mean(values), math.inf
    return mean(values), STUDENT[min(len(values) - 2, 8)] * stdev(values) / math.sqrt(len(values))


def bounds(key: str, values: Sequence[float]) -> dict[str, float]:
    """The mean of this metric, and under /low and /high its interval, cut off where the metric ends."""
    centre, half = interval(values)
    least, most = next((RANGES[part] for part in reversed(key.split("/")) if part in RANGES), (-math.inf, math.inf))
    ends = {f"{key}/low": max(centre - half, least), f"{key}/high": min(centre + half, most)}
    return {key: centre} | (ends if math.isfinite(half) else {})


def paired(new: Mapping[str, float], old: Mapping[str, float]) -> tuple[float, float, int]:
    """(mean difference of what both have, half of the width of its interval, how many they are)"""
    both = [new[key] - old[key] for key in new if key in old]
    return (*interval(both), len(both)) if both else (math.nan, math.inf, 0)


def told(centre: float, half: float) -> str:
    """0.9123 ± 0.0045"""
    return f"{centre:.4f}" + ("" if math.isinf(half) else f" ± {half:.4f}")
