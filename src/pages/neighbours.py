"""Retrieval: an image, and those that are found for it; what makes it look like the wrong one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from src.pages import pictures
from src.pages.answers import Answers
from src.pages.blocks import Card, Gallery, Section, Text
from src.pages.facts import Facts

QUERIES, FOUND = 6, 5  # images that are asked for, of each kind; and shown
HOW = "First the image that is asked for, then the nearest ones, by the cosine of their embeddings. ✓: the same class."
ALIKE = "what makes the first two more alike than the first is to all images (red)"


def neighbours(facts: Facts) -> Iterator[Section]:
    file = facts.run.home.path / "embeddings.npy"
    for answers in facts.answers:
        if answers.kind == "identity" and file.is_file() and facts.split == "test" and len(answers) > 1:
            z = np.load(file, allow_pickle=False)
            rows = range(0, len(answers), max(1, len(answers) // QUERIES))
            yield Section("What is found", [Text(HOW), *(_row(facts, answers, z, i) for i in list(rows)[:QUERIES])])
            near = np.array([float(v or 0) for v in answers.more["similarity"]])
            if answers.labelled:
                wrong = np.flatnonzero(np.array(answers.target) != np.array(answers.prediction))
                worst = _pairs(answers, wrong[np.argsort(-near[wrong], kind="stable")])
                told = (
                    f"{len(wrong):,} of {len(answers):,} images have one of another class nearest; the surest first. "
                    "Each with that one, and with the nearest of its own class."
                )
                yield Section("The worst mistakes", [Text(told), *_beside(facts, answers, z, worst)])
            told = "Nothing that is near: those whose nearest image is furthest away, with that one."
            least = _pairs(answers, np.argsort(near, kind="stable"))
            yield Section("The least certain images", [Text(told), *_beside(facts, answers, z, least)])


def _pairs(answers: Answers, rows: np.ndarray) -> list[int]:
    """The first ones that are not the same two images again."""
    found: dict[frozenset[str], int] = {}
    for i in rows.tolist():
        found.setdefault(frozenset((answers.paths[i], answers.more["nearest"][i])), i)
    return list(found.values())[: 2 * QUERIES]


def _beside(facts: Facts, answers: Answers, z: np.ndarray, rows: Sequence[int]) -> Iterator[Gallery]:
    """Each image, the nearest one with what makes the two alike, and, where that is of another class, the nearest of
    its own."""
    if not rows:
        return
    place, cards = {path: k for k, path in enumerate(answers.paths)}, []
    nearest = [place[answers.more["nearest"][i]] for i in rows]
    views = [facts.view(facts.split, answers.index[i]) for i in (*rows, *nearest)]
    other = torch.tensor(z[[*nearest, *rows]] - z.mean(0))  # the slope of a cosine is the other embedding
    heats = facts.heats(views, facts.towards(answers, other))
    for n, (i, j) in enumerate(zip(rows, nearest, strict=True)):
        shown = [pictures.uri(pictures.picture(views[k])) for k in (n, len(rows) + n)]
        lines = [f"nearest {z[i] @ z[j]:.3f}: {answers.target[j] if answers.labelled else answers.paths[j]}"]
        if answers.labelled:
            lines.insert(0, f"asked: {answers.target[i]}")
            own = [k for k, name in enumerate(answers.target) if name == answers.target[i] and k != i]
            if own and answers.target[j] != answers.target[i]:
                best = max(own, key=lambda k, i=i: float(z[i] @ z[k]))
                shown.append(_uri(facts, answers, best))
                lines.append(f"nearest of its own class {z[i] @ z[best]:.3f}")
        cards.append(Card(shown, lines, [heats[n], heats[len(rows) + n]], answers.paths[i]))
    yield Gallery(cards, evidence=ALIKE)


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
