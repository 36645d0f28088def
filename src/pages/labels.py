"""Several labels an image: how well each is ranked and told."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from src.pages.answers import Answers
from src.pages.blocks import Gallery, Section, Table, Text
from src.pages.classes import named
from src.pages.facts import SHOWN, Facts


def labels(facts: Facts) -> Iterator[Section]:
    for answers in facts.answers:
        if answers.kind == "labels" and answers.labelled and len(answers):
            yield Section(named("Label by label", answers), [_each(facts, answers)])
            yield Section(named("Said, and not there", answers), [_worst(facts, answers, False)])
            yield Section(named("There, and missed", answers), [_worst(facts, answers, True)])


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


def _worst(facts: Facts, answers: Answers, missed: bool) -> Gallery | Text:
    """By the label of each image that is furthest from the truth. What speaks for one that was missed is not shown:
    there is next to nothing."""
    there, taken = answers.there, answers.taken
    wrong = there & ~taken if missed else taken & ~there
    away = np.where(wrong, np.abs(there - answers.p), 0.0)
    output = away.argmax(1)
    rows = [i for i in np.argsort(-away.max(1), kind="stable")[:SHOWN].tolist() if wrong[i].any()]
    if not rows:
        return Text("None.")
    lines = [
        [
            f"{answers.classes[output[i]]} {answers.p[i, output[i]]:.2f}",
            "true: " + (", ".join(sorted(answers.target[i])) or "–"),
        ]
        for i in rows
    ]
    return Gallery(facts.cards(answers, rows, lines, None if missed else output[rows].tolist()))
