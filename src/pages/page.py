"""A page of sections as one HTML file that loads nothing: what it shows is inlined, what it says is escaped."""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

from src.pages.blocks import Block, Section, Table
from src.pages.plots import ending, short

HERE = Path(__file__).parent


def html(title: str, subtitle: str, sections: Sequence[Section], small: bool = False) -> str:
    """small: the images have few pixels, whose edges are kept."""
    from jinja2 import Environment, StrictUndefined

    script = (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    engine = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    engine.filters |= {"short": short, "said": said, "numeric": numeric, "ending": ending, "runs": runs, "id": plain}
    page = engine.from_string((HERE / "page.html").read_text(encoding="utf-8"))
    found = page.render(
        title=title, subtitle=subtitle, sections=sections, script=script, script_hash=digest, small=small
    )
    return found.encode("utf-8", "replace").decode()  # names of files may hold bytes that are no text


def runs(blocks: Sequence[Block]) -> list[tuple[str, list[Block]]]:
    """Neighbours of one kind together."""
    return [(kind, list(some)) for kind, some in itertools.groupby(blocks, key=lambda block: block.kind)]


def said(cell: object) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def numeric(table: Table) -> list[bool]:
    """Whether each column is to be set flush right."""
    number = re.compile(r"[-–+]?[\d.,]*( %| ms)?( [–±] [-+]?[\d.]+( %)?)?")
    width = max(map(len, [table.head, *table.rows]))
    columns = ([said(row[i]) for row in table.rows if i < len(row)] for i in range(width))
    return [any(cells) and all(map(number.fullmatch, cells)) for cells in columns]


def plain(words: str) -> str:
    return re.sub(r"\W+", "-", words)
