"""Several labels an image: how well each is ranked and told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from src.pages.answers import Answers
from src.pages.blocks import Block, Gallery, Section, Table, Text
from src.pages.classes import named
from src.pages.facts import SHOWN, Facts

FURTHEST = "The surest mistakes first, each with the probability of its label."
LEAST = "By the labels that are to be expected wrong, most first; named is the one nearest to a coin's toss."


def labels(facts: Facts) -> Iterator[Section]:
    for answers in facts.answers:
        if answers.kind == "labels" and answers.labelled and len(answers):
            yield Section(named("Label by label", answers), [_each(facts, answers)])
            yield Section(named("Said, and not there", answers), _worst(facts, answers, False))
            yield Section(named("There, and missed", answers), _worst(facts, answers, True))
        if answers.kind == "labels" and len(answers):
            yield Section(named("The least certain images", answers), [Text(LEAST), _least(facts, answers)])


def _each(facts: Facts, answers: Answers) -> Table:
    from sklearn.metrics import average_precision_score

    cut = (facts.model.get("tuned") or {}).get("thresholds") if not answers.name else None
    there, taken, rows = answers.there, answers.taken, []
    for i, name in enumerate(answers.classes):
        hit, said, n = (there[:, i] & taken[:, i]).sum(), taken[:, i].sum(), there[:, i].sum()
        ap = average_precision_score(there[:, i], answers.p[:, i]) if n else None
        values = ap, hit / said if said else None, hit / n if n else None, 2 * hit / (said + n) if said + n else None
        threshold = [] if cut is None else [f"{cut[i]:.3f}"]
        rows.append(
            [name, *(None if v is None else f"{v:.3f}" for v in values), int(n), f"{n / len(there):.3f}", *threshold]
        )
    head = ["label", "average precision", "precision", "recall", "F1", "images", "by chance"]
    return Table([*head, *([] if cut is None else ["threshold"])], rows, sortable=True)


def _worst(facts: Facts, answers: Answers, missed: bool) -> list[Block]:
    """By the label of each image that is furthest from the truth. For one that was missed next to nothing speaks: what
    speaks against it is shown, too."""
    there, taken = answers.there, answers.taken
    wrong = there & ~taken if missed else taken & ~there
    away = np.where(wrong, np.abs(there - answers.p), 0.0)
    rows = [i for i in np.argsort(-away.max(1), kind="stable")[:SHOWN].tolist() if wrong[i].any()]
    return [Text(FURTHEST), _gallery(facts, answers, rows, away.argmax(1), missed)] if rows else [Text("None.")]


def _least(facts: Facts, answers: Answers) -> Gallery:
    """By the number of labels that are to be expected wrong; what is shown is of the one nearest to a coin's toss."""
    doubt = np.minimum(answers.p, 1 - answers.p)
    rows = np.argsort(-doubt.sum(1), kind="stable")[:SHOWN].tolist()
    return _gallery(facts, answers, rows, doubt.argmax(1), True)


def _gallery(facts: Facts, answers: Answers, rows: Sequence[int], output: np.ndarray, signed: bool) -> Gallery:
    lines = [
        [
            f"{answers.p[i, output[i]]:.2f}: {answers.classes[output[i]]}",
            *(["true: " + (", ".join(sorted(answers.target[i])) or "–")] if answers.labelled else []),
        ]
        for i in rows
    ]
    towards = facts.towards(answers, torch.eye(len(answers.classes))[output[rows]])
    speaks = "what speaks for the label (red)" + (" and against it (blue)" if signed else "")
    return Gallery(facts.cards(answers, rows, lines, towards, signed), evidence=speaks)
