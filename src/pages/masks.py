"""Masks: the true and the predicted ones over their images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from src.pages import pictures
from src.pages.answers import Answers
from src.pages.blocks import Card, Gallery, Section, Table, Text
from src.pages.facts import Facts

EACH = 4  # of the worst, the middle and the best
SURE = "By the mean, over the pixels, of the probability of what is said of them."


def masks(facts: Facts) -> Iterator[Section]:
    found = [answers for answers in facts.answers if answers.kind == "mask" and len(answers)]
    for answers in found:
        iou = np.array([float(v) if v else np.nan for v in answers.more.get("iou", [""] * len(answers))])
        order = np.argsort(iou, kind="stable")
        middle = max(len(order) // 2 - EACH // 2, 0)
        rows = list(dict.fromkeys([*order[:EACH], *order[middle : middle + EACH], *order[-EACH:]]))
        legend = [(pictures.colour(i), name) for i, name in enumerate(answers.classes) if i]
        cards = [_card(facts, answers, int(i), float(iou[i])) for i in rows]
        yield Section("Masks: the worst, the middle, the best", [_each(facts, answers.classes), Gallery(cards, legend)])
        if (sure := answers.column("sure")) is not None:
            least = np.argsort(sure, kind="stable")[: 2 * EACH]
            cards = [_card(facts, answers, int(i), float(iou[i]), float(sure[i])) for i in least]
            yield Section("The least certain images", [Text(SURE), Gallery(cards, legend)])


def _each(facts: Facts, classes: tuple[str, ...]) -> Table:
    rows = [[name, facts.metrics.get(f"test/iou/{name}"), facts.metrics.get(f"val/iou/{name}")] for name in classes]
    return Table(
        ["class", "IoU on test", "on val"], [[n, *("" if v is None else f"{v:.4f}" for v in vs)] for n, *vs in rows]
    )


def _card(facts: Facts, answers: Answers, i: int, iou: float, sure: float | None = None) -> Card:
    seen, channels = facts.view(facts.split, answers.index[i]), facts.run.spec.channels
    image, truth = seen[:channels], seen[channels] if len(seen) > channels else None
    network = facts.network
    with torch.inference_mode():
        found = network(image[None].to(network.mean.device)).argmax(1)[0].cpu()
    shown, what = [pictures.picture(image), pictures.painted(image, found)], "image, answer"
    if truth is not None:
        shown[1:1] = [pictures.painted(image, truth)]
        shown.append(pictures.wrong(image, truth, found))
        what = "image, truth, answer, what is wrong"
    told = [f"IoU {iou:.3f}"] if iou == iou else []
    told += [] if sure is None else [f"sure {sure:.3f}"]
    return Card(
        [pictures.uri(p) for p in shown], [": ".join(filter(None, (what, ", ".join(told))))], path=answers.paths[i]
    )
