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
from src.pages.unfamiliar import unfamiliar

SECTIONS: tuple[Callable[[Facts], Iterator[Section]], ...] = (
    *(headline, decided, curves, classes, labels, numbers, masks, reliability),
    *(mistakes, neighbours, unfamiliar, doubts, duplicates, robustness, cost),
)


def report(run: Run) -> None:
    """A page that cannot be drawn takes nothing from a run that is finished: it is told, and left out."""
    if not run.leader:
        return
    drawn: list[Section] = []
    writers = {
        "report/index.html": lambda: drawn.extend(page(run)),
        "model/README.md": lambda: described(run),
        "tensorboard": lambda: tensorboard(run, drawn),
    }
    for name, write in writers.items():
        try:
            write()
        except Exception as error:
            if os.environ.get("DEBUG"):
                traceback.print_exc()
            print(f"WARNING  {name} is left out: {type(error).__name__}: {error}", flush=True)


def described(run: Run) -> None:
    """Writes the model card, where there is a model."""
    if (run.model / "model.json").is_file():
        folder.write(run.model / "README.md", card(run))


def _told(run: Run) -> str:
    """How many classes, numbers, or columns of either are told."""
    one, several = ("number", "numbers") if run.task.target == "numbers" else ("class", "classes")
    count, names = len(run.source.classes), ("column", "columns") if run.task.parts else (one, several)
    count = len(run.task.parts) if run.task.parts else count
    return f"{count:,} {names[count != 1]}"


def page(run: Run) -> list[Section]:
    """Writes report/index.html; -> what is in it."""
    facts, state = Facts(run), run.home.state()
    sections = [section for part in SECTIONS for section in part(facts)]
    name = run.cfg["model"].get("name", run.cfg["model"]["_target_"])
    words = (run.source.root, _told(run), name, state.get("started", ""))
    there = run.home.path / "report"
    there.mkdir(exist_ok=True)
    title = f"{run.cfg['name']} · {run.home.path.name}"
    folder.write(there / "index.html", html(title, " · ".join(map(str, words)), sections, max(run.spec.size) <= 64))
    return sections
