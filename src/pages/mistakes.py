"""The worst mistakes and the least certain images, with what they were judged by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from src.pages.answers import Answers
from src.pages.blocks import Gallery, Section, Text
from src.pages.classes import named
from src.pages.facts import SHOWN, Facts


def mistakes(facts: Facts) -> Iterator[Section]:
    for answers in facts.answers:
        if answers.kind != "class" or not len(answers):
            continue
        sure = answers.p[np.arange(len(answers)), answers.said]
        if answers.labelled:
            wrong = np.flatnonzero(answers.true != answers.said)
            worst = wrong[np.argsort(-sure[wrong], kind="stable")][:SHOWN]
            told = f"{len(wrong):,} of {len(answers):,} images are wrong; those that it was surest of come first."
            gallery = [Gallery(_cards(facts, answers, worst))] if len(worst) else []
            yield Section(named("The worst mistakes", answers), [Text(told), *gallery])
        least = np.argsort(sure, kind="stable")[:SHOWN]
        yield Section(named("The least certain images", answers), [Gallery(_cards(facts, answers, least))])


def _cards(facts: Facts, answers: Answers, rows: np.ndarray) -> list:
    lines = []
    for i in rows:
        p, said = answers.p[i], answers.said[i]
        other = int(np.argsort(-p)[1] if p.argmax() == said else p.argmax())
        told = [f"said {answers.classes[said]} {p[said]:.2f}"]
        if answers.labelled and answers.true[i] != said:
            told.insert(0, f"true {answers.target[i]} {p[answers.true[i]]:.2f}")
        elif p[other] > 0.005:
            told.append(f"or {answers.classes[other]} {p[other]:.2f}")
        lines.append(told)
    return facts.cards(answers, rows.tolist(), lines, [int(answers.said[i]) for i in rows])
