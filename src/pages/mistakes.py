"""Classes and levels: the worst mistakes and the least certain images, with what they were judged by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from src.pages.answers import Answers
from src.pages.blocks import Gallery, Section, Text
from src.pages.classes import named
from src.pages.facts import MOVED, SHOWN, Facts


def mistakes(facts: Facts) -> Iterator[Section]:
    for answers in facts.answers:
        if answers.kind != "class" or not len(answers):
            continue
        sure = answers.p[np.arange(len(answers)), answers.said]
        if answers.labelled:
            away = np.abs(answers.true - answers.said) if answers.ordered else answers.true != answers.said
            wrong = np.flatnonzero(away)
            worst = wrong[np.lexsort((-sure[wrong], -away[wrong].astype(int)))][:SHOWN]
            first = "those furthest off" if answers.ordered else "those that it was surest of"
            told = f"{len(wrong):,} of {len(answers):,} images are wrong; {first} come first."
            told = told if len(wrong) else f"None of {len(answers):,} images is wrong."
            gallery = [_gallery(facts, answers, worst)] if len(worst) else []
            yield Section(named("The worst mistakes", answers), [Text(told), *gallery])
        least = np.argsort(sure, kind="stable")[:SHOWN]
        told = "By the probability of what is said, the lowest first."
        yield Section(named("The least certain images", answers), [Text(told), _gallery(facts, answers, least)])


def _gallery(facts: Facts, answers: Answers, rows: np.ndarray) -> Gallery:
    lines, said = [], answers.said[rows]
    for i in rows:
        p, own = answers.p[i], answers.said[i]
        other = int(np.argsort(-p)[1] if p.argmax() == own else p.argmax())
        told = [f"said {p[own]:.2f}: {answers.classes[own]}"]
        if answers.labelled and answers.true[i] != own:
            told.insert(0, f"true {p[answers.true[i]]:.2f}: {answers.target[i]}")
        elif p[other] > 0.005:
            told.append(f"or {p[other]:.2f}: {answers.classes[other]}")
        lines.append(told)
    p = torch.tensor(answers.p[rows])
    if answers.ordered:  # the slope of the expected level in the logits
        level = torch.arange(p.shape[1]).float()
        weights = p * (level - (p @ level)[:, None])
    else:
        weights = torch.eye(p.shape[1])[said] - 1 / p.shape[1]
    cards = facts.cards(answers, rows.tolist(), lines, facts.towards(answers, weights), answers.ordered)
    return Gallery(cards, evidence=MOVED.format("the level")) if answers.ordered else Gallery(cards)
