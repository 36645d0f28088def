"""Which classes are taken for which, and how well each is told."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from src.pages import pictures
from src.pages.answers import Answers
from src.pages.blocks import Matrix, Raster, Section, Table, Text
from src.pages.facts import Facts

READABLE = 30  # classes whose names fit beside a matrix
PAIRS = 20


def classes(facts: Facts) -> Iterator[Section]:
    for answers in facts.answers:
        if answers.kind == "class" and answers.labelled and len(answers):
            counts = confusion(answers)
            yield Section(
                named("What is taken for what", answers), [*_matrix(answers, counts), *_pairs(answers, counts)]
            )
            yield Section(named("Class by class", answers), [_each(answers, counts)])


def named(title: str, answers: Answers) -> str:
    return f"{title}: {answers.name}" if answers.name else title


def confusion(answers: Answers) -> np.ndarray:
    """(C, C) true by predicted."""
    found = np.zeros((len(answers.classes),) * 2, dtype=np.int64)
    np.add.at(found, (answers.true, answers.said), 1)
    return found


def _matrix(answers: Answers, counts: np.ndarray) -> Iterator[Matrix | Raster]:
    if len(answers.classes) <= READABLE:
        yield Matrix(answers.classes, counts.tolist())
        return
    share = counts / counts.sum(1, keepdims=True).clip(min=1)
    yield Raster(
        pictures.shades(share),
        f"{len(counts)} classes in their order, true ones from top to bottom, predicted ones from left to right; the "
        "darker, the larger the part of a row. What is right is on the diagonal.",
    )


def _pairs(answers: Answers, counts: np.ndarray) -> Iterator[Table | Text]:
    true, said = np.nonzero(counts)
    true, said = true[true != said], said[true != said]
    order = np.argsort(-counts[true, said], kind="stable")[:PAIRS]
    rows = []
    for t, s in zip(true[order].tolist(), said[order].tolist(), strict=True):
        share = f"{100 * counts[t, s] / counts[t].sum():.0f} %"
        rows.append([answers.classes[t], answers.classes[s], int(counts[t, s]), share, int(counts[s, t])])
    if rows:
        yield Table(["true", "taken for", "images", "of the class", "the other way"], rows, sortable=True)
    else:
        yield Text("No image was taken for another class.")


def _each(answers: Answers, counts: np.ndarray) -> Table:
    hit, said, there = counts.diagonal(), counts.sum(0), counts.sum(1)
    rows = []
    for i, name in enumerate(answers.classes):
        precision = hit[i] / said[i] if said[i] else None
        recall = hit[i] / there[i] if there[i] else None
        f1 = 2 * hit[i] / (said[i] + there[i]) if said[i] + there[i] else None
        rows.append([name, *(None if v is None else f"{v:.3f}" for v in (precision, recall, f1)), int(there[i])])
    return Table(["class", "precision", "recall", "F1", "images"], rows, sortable=True)
