"""How long a fit is: its epochs, its batches, its updates, and what a budget leaves for it. A part of the recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from src import halving
from src.facts import BESIDE, Budget, Facts

MEETING = 32  # images a batch from which embeddings learn, which must meet in it
AFTER = 6.0  # seconds that the stages behind the fit take for their own sake
AGAIN = 2.0  # seconds that it takes to go on with a fit


def epochs(facts: Facts, size: int | None, trainer: Mapping[str, Any]) -> tuple[int, str]:
    """Few images are seen often: E ~ N^-0.42, between BiT's 500 to 20,000 steps (Kolesnikov et al. 2020) and VTAB's
    100 epochs of 1,000 images. A CPU, a hundred times slower, gets a third of it. size: of a batch that was said."""
    if (steps := trainer["max_steps"] or -1) > 0:
        each = _updates(facts, size or batch_size(facts, None, trainer)[0], trainer)
        return math.ceil(steps / each), f"in the last of them trainer.max_steps={steps} ends the fit"
    most, factor = (100, 1600) if facts.device != "cpu" else (60, 500)
    found = max(5, min(most, round(factor * facts.images**-0.42)))
    where = "" if facts.device != "cpu" else ", on a CPU; a GPU would take up to three times as many"
    return found, f"the fewer images the more often each is seen: {facts.images:,}{where}"


def passes(facts: Facts, epochs: int | None, steps: int | None) -> float:
    """Over the images, until the first of both words ends the fit."""
    most = epochs if epochs and epochs > 0 else math.inf
    return min(most, steps * _most(facts) / facts.images) if steps and steps > 0 else most


def possible(facts: Facts, budget: Budget, seconds: float) -> int:
    """Epochs, at least one, that so many seconds of fitting allow; the ranks share an epoch."""
    return max(math.ceil(seconds * facts.ranks / (budget.train * facts.images + budget.predict * facts.val)), 1)


def batch_size(facts: Facts, epochs: int | None, trainer: Mapping[str, Any]) -> tuple[int, str]:
    """At least some 250 updates, where the images allow it; in large runs, and where the updates are counted, the
    largest batch that costs no accuracy. The ranks share it; what is added up is a whole number of batches."""
    most, steps = min(_most(facts), facts.images), trainer["max_steps"] or -1
    if epochs and epochs > 0 and not 0 < steps <= epochs * math.ceil(facts.images / most):
        wanted = 2 ** math.floor(math.log2(max(facts.images * epochs / 250, 1)))
        size = min(max(8, min(most, wanted)), facts.images)
        why = f"{math.ceil(facts.images / size) * epochs} updates in {epochs} epochs of {facts.images:,} images"
    else:
        size, why = most, f"trainer.max_steps={steps}"
    if facts.embeds and size < MEETING:
        size, why = min(MEETING, facts.images), "classes must meet in a batch to be told apart"
    if facts.ranks > 1:
        size, why = max(size // facts.ranks, 2), f"{why}; {size} of them at once, by {facts.ranks} processes"
    if effective := trainer.get("effective_batch"):
        size = max(part for part in range(1, size + 1) if effective // facts.ranks % part == 0)
    return size, why


def updates(facts: Facts, size: int, epochs: int | None, trainer: Mapping[str, Any]) -> int:
    """Of the weights, in all."""
    found, steps = _updates(facts, size, trainer) * passes(facts, epochs, None), trainer["max_steps"] or -1
    return int(min(found, steps if steps > 0 else math.inf))


def _updates(facts: Facts, size: int, trainer: Mapping[str, Any]) -> int:
    """In an epoch."""
    batches = math.ceil(facts.images / (trainer.get("effective_batch") or size * facts.ranks))
    return math.ceil(batches / trainer["accumulate_grad_batches"])


def fit_seconds(facts: Facts, budget: Budget) -> float:
    """What select (features of train, val with and without mirroring for three networks), calibrate (some of train, and
    val) and test leave, less a tenth of what is ahead, since no machine is steady."""
    seen = min(facts.images, 20_000) + 2 * min(facts.images, 2_000) + 8 * facts.val
    several = 2 if facts.each < BESIDE else 1  # backbones
    looks = halving.looks(facts.rivals)  # of which each begins a fit anew, and ends with something like `select`
    after = budget.predict * several * ((1 + looks) * seen + 2 * budget.test) + AFTER + looks * AGAIN
    return max(0.9 * (budget.total - budget.spent) - after, 1.0)


def _most(facts: Facts) -> int:
    return 32 if facts.images < 20_000 else 64 if facts.images < 100_000 else 128
