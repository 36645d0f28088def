"""The images that are least like those of train, by the score that predictions have."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from src.pages.blocks import Gallery, Section, Text
from src.pages.facts import SHOWN, Facts


def unfamiliar(facts: Facts) -> Iterator[Section]:
    answers = next(iter(facts.answers), None)
    if answers is None or answers.name or (score := answers.column("unfamiliar/score")) is None:
        return
    called = np.array([cell == "True" for cell in answers.more["unfamiliar"]])
    rows = np.argsort(-score, kind="stable")[:SHOWN].tolist()
    lines = [[f"score {score[i]:.3g}", *(["unfamiliar"] if called[i] else [])] for i in rows]
    fitted = (facts.model.get("calibration") or {}).get("unfamiliar") or {}
    how = f" (by {fitted['method']}, {100 * fitted['false_alarm']:.3g} % false alarms on val)" if fitted else ""
    told = f"{called.sum():,} of {len(called):,} images are called unfamiliar{how}; those least like train come first."
    yield Section("The least familiar images", [Text(told), Gallery(facts.cards(answers, rows, lines))])
