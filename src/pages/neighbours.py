"""Retrieval: an image, and those that are found for it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from src.pages import pictures
from src.pages.answers import Answers
from src.pages.blocks import Card, Gallery, Section, Text
from src.pages.facts import Facts

QUERIES, FOUND = 6, 5  # images that are asked for, of each kind; and shown


def neighbours(facts: Facts) -> Iterator[Section]:
    file = facts.run.home.path / "embeddings.npy"
    for answers in facts.answers:
        if answers.kind == "identity" and file.is_file() and facts.split == "test" and len(answers) > 1:
            z = np.load(file, allow_pickle=False)
            rows = range(0, len(answers), max(1, len(answers) // QUERIES))
            yield Section("What is found", [Text(HOW), *(_row(facts, answers, z, i) for i in list(rows)[:QUERIES])])
            if answers.labelled:
                near = np.array([float(v or 0) for v in answers.more["similarity"]])
                wrong = np.flatnonzero(np.array(answers.target) != np.array(answers.prediction))
                worst = wrong[np.argsort(-near[wrong], kind="stable")][:QUERIES]
                told = f"{len(wrong):,} of {len(answers):,} images have one of another class nearest; the surest first."
                yield Section("The worst mistakes", [Text(told), *(_row(facts, answers, z, int(i)) for i in worst)])


HOW = "First the image that is asked for, then the nearest ones, by the cosine of their embeddings. ✓: the same class."


def _row(facts: Facts, answers: Answers, z: np.ndarray, i: int) -> Gallery:
    cosine = z @ z[i]
    cosine[i] = -2
    order = [int(j) for j in np.argsort(-cosine, kind="stable")[:FOUND]]
    name = f"{answers.target[i]}" if answers.labelled else "asked for"
    cards = [Card([_uri(facts, answers, i)], ["asked: " + name], path=answers.paths[i])]
    for j in order:
        same = (
            ("✓ " if answers.target[j] == answers.target[i] else "✗ ") + answers.target[j] if answers.labelled else ""
        )
        cards.append(Card([_uri(facts, answers, j)], [same, f"{cosine[j]:.3f}"], path=answers.paths[j]))
    return Gallery(cards)


def _uri(facts: Facts, answers: Answers, i: int) -> str:
    return pictures.uri(pictures.picture(facts.view(facts.split, answers.index[i])))
