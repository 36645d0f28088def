"""A gallery as one picture, for TensorBoard, which shows no pages."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from src.pages.blocks import Card, Gallery
from src.pages.plots import INK, ending

SIDE, GAP, WIDE = 160, 4, 1000  # pixels of a picture, between two, and of a sheet
LINE = 15
PAPER, FAINT = "white", "#6b7480"


def sheet(gallery: Gallery) -> Image.Image:
    """The cards in rows, with what is said of each and what lies over its pictures."""
    rows: list[list[Image.Image]] = [[]]
    for card in map(_card, gallery.cards):
        if rows[-1] and sum(other.width + 3 * GAP for other in rows[-1]) + card.width > WIDE:
            rows.append([])
        rows[-1].append(card)
    head = 2 * LINE if gallery.legend or gallery.heated else 0
    heights = [max(card.height for card in row) + 3 * GAP for row in rows]
    width = max(sum(card.width + 3 * GAP for card in row) for row in rows)
    page = Image.new("RGB", (max(width, WIDE // 2), head + sum(heights)), PAPER)
    _legend(page, gallery)
    for row, top in zip(rows, (head + sum(heights[:i]) for i in range(len(rows))), strict=True):
        left = 0
        for card in row:
            page.paste(card, (left, top))
            left += card.width + 3 * GAP
    return page


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """One above the other."""
    page = Image.new("RGB", (max(one.width for one in sheets), sum(one.height for one in sheets)), PAPER)
    for i, one in enumerate(sheets):
        page.paste(one, (0, sum(other.height for other in sheets[:i])))
    return page


def _card(card: Card) -> Image.Image:
    width = len(card.pictures) * (SIDE + GAP) - GAP
    lines = [
        *((part, INK) for line in card.lines for part in _wrapped(line, width)),
        *([(ending(card.path, 24 * len(card.pictures)), FAINT)] if card.path else []),
    ]
    page = Image.new("RGB", (width, SIDE + 2 + LINE * len(lines)), PAPER)
    for i, (uri, heat) in enumerate(card.layers):
        picture = _decoded(uri).convert("RGBA")
        scale = SIDE / max(picture.size)
        size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
        exact = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BICUBIC  # few pixels keep their edges
        picture = picture.resize(size, exact)
        if heat:
            picture = Image.alpha_composite(picture, _decoded(heat).resize(size, Image.Resampling.BILINEAR))
        place = (i * (SIDE + GAP) + (SIDE - size[0]) // 2, (SIDE - size[1]) // 2)
        page.paste(picture.convert("RGB"), place)
    pen = ImageDraw.Draw(page)
    for i, (line, colour) in enumerate(lines):
        pen.text((0, SIDE + 1 + i * LINE), _fitted(line, width), fill=colour, font=_font())
    return page


def _legend(page: Image.Image, gallery: Gallery) -> None:
    pen, left = ImageDraw.Draw(page), 0
    for colour, name in gallery.legend:
        pen.rectangle([left, 3, left + 11, 14], fill=colour or PAPER)
        pen.text((left + 16, 1), name, fill=INK, font=_font())
        left += 32 + round(_font().getlength(name))
    if gallery.heated:
        pen.text((0, 1), gallery.evidence, fill=FAINT, font=_font())


def _decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def _wrapped(line: str, width: int) -> list[str]:
    """On two lines at the most."""
    words = line.split()
    for n in range(len(words), 0, -1):
        if _font().getlength(first := " ".join(words[:n])) <= width:
            return [first, *([_fitted(" ".join(words[n:]), width)] if n < len(words) else [])]
    return [_fitted(line, width)]


def _fitted(line: str, width: int) -> str:
    line = " ".join(line.split())[:200]
    if _font().getlength(line) <= width:
        return line
    return next((said for n in range(len(line), 0, -1) if _font().getlength(said := f"{line[:n]}…") <= width), "…")


@cache
def _font() -> Any:
    from matplotlib.font_manager import findfont  # DejaVu, which comes with it, has most alphabets

    return ImageFont.truetype(findfont("DejaVu Sans"), 11)
