"""Several labels an image: how well each is ranked and told."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from src.pages.answers import Answers
from src.pages.blocks import Section, Table
from src.pages.classes import named
from src.pages.facts import SHOWN, Facts
from src.pages.blocks import Gallery, Text


def labels(facts: Facts) -> Iterator[Section]:
    for answers in facts.answers:
        if answers.kind == "labels" and answers.labelled and len(answers):
            yield Section(named("Label by label", answers), [_each(facts, answers)])
            yield Section(named("The worst mistakes", answers), [_worst(facts, answers)])


def _each(facts: Facts, answers: Answers) -> Table:
    from sklearn.metrics import average_precision_score

    cut = (facts.model.get("tuned") or {}).get("thresholds") if not answers.name else None
    there, taken, rows = answers.there, answers.taken, []
    for i, name in enumerate(answers.classes):
        hit, said, n = (there[:, i] & taken[:, i]).sum(), taken[:, i].sum(), there[:, i].sum()
        ap = average_precision_score(there[:, i], answers.p[:, i]) if n else None
        values = ap, hit / said if said else None, hit / n if n else None, 2 * hit / (said + n) if said + n else None
        threshold = [] if cut is None else [f"{cut[i]:.3f}"]
        rows.append([name, *(None if v is None else f"{v:.3f}" for v in values), int(n), f"{n / len(there):.3f}", *threshold])
    head = ["label", "average precision", "precision", "recall", "F1", "images", "by chance"]
    return Table([*head, *([] if cut is None else ["threshold"])], rows, sortable=True)


def _worst(facts: Facts, answers: Answers) -> Gallery | Text:
    """By the label of each image that is furthest from the truth."""
    away = np.abs(answers.there - answers.p)
    output = away.argmax(1)
    rows = np.argsort(-away.max(1), kind="stable")[:SHOWN]
    lines = []
    for i in rows:
        name, p = answers.classes[output[i]], answers.p[i, output[i]]
        state = "is there" if answers.there[i, output[i]] else "is not there"
        lines.append([f"{name} {state}, said {p:.2f}", "true: " + (", ".join(sorted(answers.target[i])) or "none")])
    return Gallery(facts.cards(answers, rows.tolist(), lines, output[rows].tolist()))
