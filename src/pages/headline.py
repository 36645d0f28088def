"""How good it is, beside the best answer that does not look; and all that was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from src.folder import measured
from src.pages.blocks import Block, Section, Table, Text
from src.pages.facts import Facts, by_label
from src.screen import BLIND, said

HEAD = ("metric", "test", "95 % interval", "val", "")
MEANS = {
    "acc": "how many are right",
    "balanced_acc": "how many are right, each class counting as much",
    "f1_macro": "F1, the mean over classes or labels",
    "f1_micro": "F1 of all labels together",
    "auroc": "how often the right class ranks a pair right; 0.5 is chance",
    "nll": "minus the log of the truth's probability; less is better",
    "brier": "squared error of the probabilities; less is better",
    "ece": "by how much a probability is off, on average; less is better",
    "map_macro": "average precision, the mean over labels",
    "map_micro": "average precision of all labels together",
    "rmse": "root of the mean squared error; less is better",
    "mae": "mean absolute error; less is better",
    "r2": "explained part of the variance; 1 is perfect, 0 is blind",
    "qwk": "quadratically weighted kappa; 1 is perfect, 0 is chance",
    "miou": "intersection over union, the mean over classes",
    "iou": "intersection over union",
    "dice": "Dice (F1 of pixels), the mean over classes",
    "pixel_acc": "how many pixels are right",
    "recall_at_1": "how often the nearest image is of the same class",
    "recall_at_5": "how often one of the five nearest is of the same class",
    "map_at_r": "precision among the R nearest, R being all of the same class",
    "skill": "1 is perfect, 0 is blind; of several columns their mean",
    "coverage": "how often the set or interval holds the truth",
    "set_size": "classes in a set",
    "interval_width": "from the lower to the upper end",
    "unsure": "part of the images whose set has several classes",
    "risk_at_80": "errors among the 80 % that it is surest of; less is better",
    "aurc": "errors among the surest, over all parts that are answered; less is better",
    "unfamiliar": "part of the images called unlike those of train",
}


def headline(facts: Facts) -> Iterator[Section]:
    metrics, split = facts.metrics, "test" if f"test/{facts.headline}" in facts.metrics else "val"
    value = metrics.get(f"{split}/{facts.headline}")
    if value is None:
        told = Text(
            "Nothing was measured: the test images have no labels, or no stage has measured them yet.", loud=True
        )
        yield Section("How good is it?", [told])
        return
    low, high, blind = (metrics.get(f"{split}/{facts.headline}{more}") for more in ("/low", "/high", "/constant"))
    blocks: list[Block] = [] if facts.state.get("beaten", True) else [Text(BLIND, loud=True)]
    if split == "val":
        blocks.append(
            Text("This is val, which chose the model: its numbers are optimistic. There are no labelled test images.")
        )
    bounds = "" if low is None or high is None else f"{said(facts.headline, low)} – {said(facts.headline, high)}"
    rows = [[f"{split}/{facts.headline}", said(facts.headline, value), bounds, _images(facts, split)]]
    if split == "test" and (val := metrics.get(f"val/{facts.headline}")) is not None:
        rows.append([f"val/{facts.headline}", said(facts.headline, val), "", _images(facts, "val")])
    if blind is not None:
        rows.append(["the best blind answer", said(facts.headline, blind), "", ""])
    blocks.append(Table(["", facts.headline, "95 % interval", "images"], rows))
    blocks += [Text(f"{facts.headline}: {MEANS[facts.headline]}.")] if facts.headline in MEANS else []
    if again := again_on_val(facts.model.get("chosen") or {}):
        blocks.append(Text(f"Once val had chosen, {again} on train and val: the numbers of val are those of before."))
    rest = list(_measured(facts))
    kept = [i for i in range(len(HEAD)) if any(row[i] for row in rest)]
    blocks.append(Table([HEAD[i] for i in kept], [[row[i] for i in kept] for row in rest]))
    yield Section("How good is it?", blocks)


def again_on_val(chosen: Mapping[str, Any]) -> str:
    """What has learnt val's images, too; '' where nothing has."""
    solved = "its head was solved again" if chosen.get("solved_again") else ""
    return "it was fitted again" if chosen.get("refit") else solved


def _images(facts: Facts, split: str) -> str:
    return f"{int(facts.metrics.get(f'{split}/images', 0)):,}"


def _measured(facts: Facts) -> Iterator[list[object]]:
    metrics = facts.metrics
    names, aside = dict.fromkeys(key.partition("/")[2] for key in measured(metrics)), by_label(facts.run)
    for name in (name for name in names if name not in aside | {facts.headline}):
        test, val = metrics.get(f"test/{name}"), metrics.get(f"val/{name}")
        low, high = metrics.get(f"test/{name}/low"), metrics.get(f"test/{name}/high")
        bounds = "" if low is None or high is None else f"{low:.4f} – {high:.4f}"
        values = ("" if test is None else f"{test:.4f}", bounds, "" if val is None else f"{val:.4f}")
        yield [name, *values, next((MEANS[part] for part in reversed(name.split("/")) if part in MEANS), "")]
