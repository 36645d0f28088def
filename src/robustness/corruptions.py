"""Errors on test images that went bad in fifteen ways, in five degrees (Hendrycks & Dietterich 2019, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from src import rng
from src.contracts import ConfigError, Exam, Task
from src.corruptions import FIFTEEN, TABLE, corrupt


class Corruptions:
    """kinds: which; None: the fifteen. severities: which of 1 … 5. images: at the most, chosen by chance. The mean
    error is over kinds of the mean over severities, as on CIFAR-10-C: there is no other network to divide by."""

    def __init__(
        self, images: int = 500, kinds: Sequence[str] | None = None, severities: Sequence[int] = (1, 2, 3, 4, 5)
    ):
        self.images, self.kinds, self.severities = images, tuple(kinds or FIFTEEN), tuple(severities)
        if unknown := [kind for kind in self.kinds if kind not in TABLE]:
            raise ConfigError(
                f"robustness.kinds: {', '.join(unknown)} is no corruption.\nChoose some of {', '.join(TABLE)}."
            )

    def cannot(self, task: Task, channels: int) -> str:
        return (
            "" if channels in (1, 3) else f"they are of grey and of coloured images, and these have {channels} channels"
        )

    def passes(self) -> int:
        return len(self.kinds) * len(self.severities)

    def __call__(self, exam: Exam) -> dict[str, Any]:
        clean, scores = exam.error(exam.clean), {}
        for kind in self.kinds:
            scores[kind] = [round(exam.error(exam.logits(self._bad(exam, kind, s))), 6) for s in self.severities]
        means = {kind: sum(found) / len(found) for kind, found in scores.items()}
        told = {"clean": clean, "severities": list(self.severities), "errors": scores, "mean_error": _mean(means)}
        told["more_than_clean"] = told["mean_error"] - clean
        if seen := sorted(set(exam.seen) & set(means)):
            held = {kind: error for kind, error in means.items() if kind not in seen}
            told |= {"seen_in_training": seen, "mean_error_held_out": _mean(held) if held else None}
        return {"corruptions": told}

    def _bad(self, exam: Exam, kind: str, severity: int) -> torch.Tensor:
        """The chance is that of the image, in all severities."""
        draws = (np.random.default_rng(rng.key(exam.seed, kind, i)) for i in exam.index.tolist())
        return torch.stack([corrupt(x, kind, severity, d) for x, d in zip(exam.images, draws, strict=True)])

    def lines(self, found: dict[str, Any]) -> list[str]:
        told = found["corruptions"]
        rows = [f"corruptions: error {told['mean_error']:.4f} on average, {told['clean']:.4f} on clean images"]
        if "seen_in_training" in told:
            held = told["mean_error_held_out"]
            rows += [f"  held out: {'none' if held is None else f'{held:.4f} on average'}; the training has seen "
                     f"{', '.join(told['seen_in_training'])}"]  # fmt: skip
        rows += [f"  {kind:15} {'  '.join(f'{e:.3f}' for e in errors)}" for kind, errors in told["errors"].items()]
        return rows


def _mean(errors: dict[str, float]) -> float:
    return sum(errors.values()) / len(errors)
