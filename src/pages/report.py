"""Writes report/index.html, the model card, and to TensorBoard what a fit cannot know."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator

from src import folder
from src.contracts import Run
from src.pages.blocks import Section
from src.pages.card import card
from src.pages.classes import classes
from src.pages.cost import cost
from src.pages.curves import curves
from src.pages.decided import decided
from src.pages.doubts import doubts, duplicates
from src.pages.facts import Facts
from src.pages.headline import headline
from src.pages.labels import labels
from src.pages.masks import masks
from src.pages.mistakes import mistakes
from src.pages.neighbours import neighbours
from src.pages.numbers import numbers
from src.pages.page import html
from src.pages.reliability import reliability
from src.pages.robustness import robustness
from src.pages.tensorboard import tensorboard

SECTIONS: tuple[Callable[[Facts], Iterator[Section]], ...] = (
    *(headline, decided, curves, classes, labels, numbers, masks, reliability),
    *(mistakes, neighbours, doubts, duplicates, robustness, cost),
)


def report(run: Run) -> None:
    """A page that cannot be drawn takes nothing from a run that is finished: it is told, and left out."""
    if not run.leader:
        return
    for name, write in {"report/index.html": page, "model/README.md": described, "tensorboard": tensorboard}.items():
        try:
            write(run)
        except Exception as error:
            if os.environ.get("DEBUG"):
                traceback.print_exc()
            print(f"WARNING  {name} is left out: {type(error).__name__}: {error}", flush=True)


def described(run: Run) -> None:
    """Writes the model card, where there is a model."""
    if (run.model / "model.json").is_file():
        folder.write(run.model / "README.md", card(run))


def page(run: Run) -> None:
    """Writes report/index.html."""
    facts, state = Facts(run), run.home.state()
    sections = [section for part in SECTIONS for section in part(facts)]
    name = run.cfg["model"].get("name", run.cfg["model"]["_target_"])
    count, what = len(run.source.classes), "number" if run.task.target == "numbers" else "class"
    plural = "" if count == 1 else "s" if what == "number" else "es"
    words = (run.source.root, f"{count:,} {what}{plural}", name, state.get("started", ""))
    there = run.home.path / "report"
    there.mkdir(exist_ok=True)
    title = f"{run.cfg['name']} · {run.home.path.name}"
    folder.write(there / "index.html", html(title, " · ".join(map(str, words)), sections, max(run.spec.size) <= 64))
