"""How good it is, beside the best answer that does not look; and all that was measured."""

from __future__ import annotations

from collections.abc import Iterator

from src.folder import measured
from src.pages.blocks import Block, Section, Table, Text
from src.pages.facts import Facts
from src.screen import BLIND, said


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
    images = int(metrics.get(f"{split}/images", 0))
    bounds = "" if low is None or high is None else f"{said(facts.headline, low)} – {said(facts.headline, high)}"
    rows = [[f"{split}/{facts.headline}", said(facts.headline, value), bounds, f"{images:,}"]]
    if blind is not None:
        rows.append(["the best blind answer", said(facts.headline, blind), "", ""])
    blocks.append(Table(["", facts.headline, "95 % interval", "images"], rows))
    rest = list(_measured(facts))
    kept = [i for i in range(4) if any(row[i] for row in rest)]
    blocks.append(
        Table([("metric", "test", "95 % interval", "val")[i] for i in kept], [[r[i] for i in kept] for r in rest])
    )
    yield Section("How good is it?", blocks)


def _measured(facts: Facts) -> Iterator[list[object]]:
    metrics = facts.metrics
    names = dict.fromkeys(key.partition("/")[2] for key in measured(metrics))
    for name in (name for name in names if name != facts.headline):
        test, val = metrics.get(f"test/{name}"), metrics.get(f"val/{name}")
        low, high = metrics.get(f"test/{name}/low"), metrics.get(f"test/{name}/high")
        bounds = "" if low is None or high is None else f"{low:.4f} – {high:.4f}"
        yield [name, *("" if test is None else f"{test:.4f}", bounds, "" if val is None else f"{val:.4f}")]
