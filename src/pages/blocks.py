"""What a section of a page is made of; how each looks is in page.html."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class Text:
    words: str
    loud: bool = False
    head: bool = False
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Table:
    """Cells are words, or numbers that are shown by `said`. sortable: a click on a head sorts by its column."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    sortable: bool = False
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Drawing:
    svg: str  # of src/pages/plots.py
    says: str = ""
    figure: Any = None  # the same, where it is to be in TensorBoard, too
    name: str = ""  # there
    kind: ClassVar[str] = "drawing"


@dataclass(frozen=True)
class Raster:
    uri: str
    says: str = ""
    kind: ClassVar[str] = "raster"


@dataclass(frozen=True)
class Matrix:
    """Counts (C, C), true by predicted."""

    classes: Sequence[str]
    counts: Sequence[Sequence[int]]
    kind: ClassVar[str] = "matrix"


@dataclass(frozen=True)
class Card:
    """Pictures side by side, and what is said below them. heats: what lies over them, of as many as have it."""

    pictures: Sequence[str]
    lines: Sequence[str]
    heats: Sequence[str] = ()
    path: str = ""

    @property
    def layers(self) -> list[tuple[str, str]]:
        """(picture, what lies over it or '')"""
        return list(itertools.zip_longest(self.pictures, self.heats, fillvalue=""))


@dataclass(frozen=True)
class Gallery:
    """evidence: what the heats show."""

    cards: Sequence[Card]
    legend: Sequence[tuple[str, str]] = ()  # (colour, name)
    evidence: str = "what speaks for the answer (red)"
    kind: ClassVar[str] = "gallery"

    @property
    def heated(self) -> bool:
        return any(any(card.heats) for card in self.cards)


Block = Text | Table | Drawing | Raster | Matrix | Gallery


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
