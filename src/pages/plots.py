"""Plots as inline SVG that takes its colours and its font from the page, so that it is right in the dark, too."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

from src.pages.blocks import Drawing

# The page's own in the light (page.html: `:root`), which nothing else has: in a page each becomes its name.
INK, FAINT, FIRST, SECOND, THIRD = "#1d2129", "#99a1ad", "#2166c9", "#c2500a", "#17804d"
_OF_THE_PAGE = {INK: "--ink", FAINT: "--faint", FIRST: "--first", SECOND: "--second", THIRD: "--third"}
LONGEST = 22  # characters of a name on an axis


def axes(width: float = 5.2, height: float = 3.3) -> tuple[Any, Any]:
    """A figure of so many inches, with one set of axes."""
    from matplotlib.figure import Figure  # takes half a second that predicting need not wait for

    figure = Figure(figsize=(width, height), layout="constrained")
    own = figure.add_subplot()
    own.tick_params(colors=INK, labelsize=11)
    own.xaxis.label.set(color=INK, size=11)
    own.yaxis.label.set(color=INK, size=11)
    for name, spine in own.spines.items():
        spine.set(color=FAINT, visible=name in ("left", "bottom"))
    own.grid(color=FAINT, alpha=0.35, linewidth=0.6)
    own.set_axisbelow(True)
    return figure, own


def legend(own: Any) -> None:
    own.legend(frameon=False, labelcolor=INK, fontsize=11)


def drawn(figure: Any, name: str, says: str = "") -> Drawing:
    """Also for TensorBoard. name: no other figure of a page has it."""
    return Drawing(svg(figure, name), says, figure, name)


def svg(figure: Any, says: str) -> str:
    """Without what a page must not have twice, or load: ids are the figure's own, and no style or address is left."""
    import matplotlib

    out = io.StringIO()
    words: Any = {"svg.fonttype": "none", "svg.hashsalt": says, "text.parse_math": False}
    with matplotlib.rc_context(words), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the browser has its own fonts
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"(font(?:-family)?): [^;\"]*", _sizes, text)
    for colour, name in _OF_THE_PAGE.items():
        text = text.replace(colour, f"var({name})")
    return _own_ids(text.replace("<svg ", '<svg role="img" ', 1), says)


def _sizes(found: re.Match[str]) -> str:
    size = re.search(r"[\d.]+px", found[0])
    return f"font-size: {size[0]}" if size else "font-family: inherit"


def _own_ids(text: str, says: str) -> str:
    salt = re.sub(r"\W", "-", says.lower())
    text = re.sub(r'\bid="([^"]+)"', rf'id="{salt}-\1"', text)
    return re.sub(r'(url\(#|href="#)', rf"\1{salt}-", text)


def short(name: object, most: int = LONGEST) -> str:
    """On one line, as it fits on an axis."""
    words = " ".join(str(name).split())
    return words if len(words) <= most else words[: most - 1] + "…"


def ending(path: str, most: int) -> str:
    """On one line; images of a folder differ at their end."""
    words = " ".join(path.split())
    return words if len(words) <= most else f"…{words[1 - most :]}"


def line(ax: Any, points: Sequence[tuple[float, float]], colour: str, **how: Any) -> None:
    ax.plot([x for x, _ in points], [y for _, y in points], color=colour, **how)
