"""Learning-rate schedules as pure functions of progress: the factor at update `step` of `total`.

`progress` runs from 0 (after the warm-up) to 1 (the end); every schedule but `constant` and `step` ends at zero, so
nothing is wasted on steps that are still large when the run stops (Defazio et al. 2023, arXiv:2310.07831).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from src.contracts import ConfigError


def cosine(progress: float) -> float:
    """Half a cosine (Loshchilov & Hutter 2017, eq. 5)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float) -> float:
    return 1 - progress


def polynomial(progress: float, power: float = 2.0) -> float:
    return (1 - progress) ** power


def warmup_stable_decay(progress: float, decay: float = 0.2) -> float:
    """Constant, then 1 - sqrt to zero over the last part `decay` (Hägele et al. 2024, arXiv:2405.18392, eq. 1)."""
    if not 0 < decay <= 1:
        raise ConfigError(f"scheduler.shape.decay={decay} is the part of all updates that decay: 0 < decay <= 1.")
    return 1.0 if progress < 1 - decay else 1 - math.sqrt((progress - 1 + decay) / decay)


def step(progress: float, milestones: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> float:
    """`factor` times as much from each milestone on (He et al. 2016 divide by 10); they are parts of the run, counted
    from the end of the warm-up."""
    if not 0 < factor < 1:
        raise ConfigError(f"scheduler.shape.factor={factor} makes no step down.\nSet it between 0 and 1, such as 0.1.")
    if not all(0 < part < 1 for part in milestones) or list(milestones) != sorted(set(milestones)):
        raise ConfigError(
            f"scheduler.shape.milestones={list(milestones)} are no rising parts of the run.\n"
            "Set them between 0 and 1, such as [0.5,0.75]."
        )
    return factor ** sum(progress >= part for part in milestones)


def constant(progress: float) -> float:
    return 1.0


class Schedule:
    """factor(step) for torch's LambdaLR: a warm-up over the first part `warmup` of `total` updates, linear or, turned
    round, the shape `rise`; then `shape`. Closed form, so a resumed run needs nothing but the step."""

    def __init__(
        self,
        shape: Callable[[float], float],
        total: int,
        warmup: float = 0.05,
        rise: Callable[[float], float] = linear,
    ):
        if not 0 <= warmup < 1:
            raise ConfigError(f"scheduler.warmup={warmup} is a part of all {total} updates: 0 <= warmup < 1.")
        shape(1.0)  # so that it refuses its own arguments now
        self.shape, self.rise, self.total = shape, rise, total
        self.warm = min(math.ceil(warmup * total), total - 1)

    def __call__(self, step: float) -> float:
        if step < self.warm:
            return 1 - self.rise((step + 1) / (self.warm + 1))
        return self.shape(min((step - self.warm) / max(self.total - self.warm, 1), 1.0))
