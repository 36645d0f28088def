"""Pages as a parser and a browser see them: whether they load anything, and whether all of them can be read."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TAGS = set(
    "html head meta title style body h1 h2 h3 p nav a section div table thead tbody tr th td figure figcaption svg g "
    "path defs use clippath rect text tspan img small span input label script br".split()
)
WIDTHS, THEMES = (390, 1400), ("light", "dark")
LOOK = """
const light = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(v => v / 255).map(
  v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b }
const words = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())
const look = d => {
  const paper = light(getComputedStyle(d.body).backgroundColor), { scrollWidth, clientWidth } = d.documentElement
  const faint = e => { const s = getComputedStyle(e), own = light(e.closest("svg") ? s.fill : s.color)
    return (Math.max(own, paper) + .05) / (Math.min(own, paper) + .05) < 4.5 }
  const size = e => parseFloat(getComputedStyle(e).fontSize) *
    e.ownerSVGElement.getBoundingClientRect().width / e.ownerSVGElement.viewBox.baseVal.width
  const all = (what, bad) => [...d.querySelectorAll(what)].filter(bad).map(e => e.textContent.trim().slice(0, 40))
  const table = [...d.querySelectorAll(".sortable")].at(-1), seen = []
  for (const click of table ? [0, 1, 1] : []) {
    if (click) table.rows[0].cells[0].click()
    seen.push([...table.tBodies[0].rows].map(row => row.cells[0].textContent)) }
  return { over: scrollWidth - clientWidth, sorted: seen,
    faint: all("body *:not(script):not(.matrix *)", e => words(e) && faint(e)),
    tiny: all("svg text", e => size(e) < 10),
    cut: all(".said div:not(.path)", e => e.scrollHeight > e.clientHeight + 1),
    bare: all("section:has(.gallery)", e => !e.querySelector(":scope > p, :scope > div > p")).length,
    broken: [...d.images].filter(i => !i.complete || !i.naturalWidth).length } }
onload = () => document.body.dataset.seen = JSON.stringify([...document.querySelectorAll("iframe")].map(
  f => [f.title, look(f.contentDocument)]))
"""


class Page(HTMLParser):
    """Every tag with its attributes, and the text of the scripts."""

    def __init__(self, file):
        super().__init__()
        self.tags, self.script, self.inside = [], "", ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        self.script += data if self.inside == "script" else ""


def harmless(file) -> Page:
    """It loads nothing, runs one script that is its own, and every place that it points to is there, once."""
    page = Page(file)
    links = [v for _, attrs in page.tags for k, v in attrs.items() if k in ("src", "href", "xlink:href")]
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert {tag for tag, _ in page.tags} <= TAGS
    assert all(link.startswith(("data:image/webp;base64,", "data:image/png;base64,", "#")) for link in links)
    assert len(ids) == len(set(ids)) and {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert not [k for _, attrs in page.tags for k in attrs if k.startswith("on")]
    assert sum(tag == "script" for tag, _ in page.tags) == 1 and "querySelectorAll" in page.script
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert "default-src 'none'" in policy and digest in policy
    return page


def drawn(files: Sequence[Path], folder: Path) -> dict[str, dict]:
    """`run 390 dark` -> of each page, in a narrow and a wide window, in the light and in the dark, as one browser draws
    them, which may not complain of anything: by how much it is wider than its window; texts that are too faint (WCAG
    2.1, 1.4.3), too small or cut; galleries of which nothing is said; broken images; and the first column of its last
    sortable table before and after clicks on its head."""
    outer, frames = folder / "pages.html", []
    for file in files:
        page = html.escape(file.read_text(encoding="utf-8"))
        frames += [
            f'<iframe title="{file.parents[1].name} {width} {theme}" width={width} height=900 frameborder=0 '
            f'style="color-scheme: {theme}" srcdoc="{page}"></iframe>'
            for width in WIDTHS
            for theme in THEMES
        ]
    outer.write_text(f"<body>{''.join(frames)}<script>{LOOK}</script>", encoding="utf-8")
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    words += [f"--user-data-dir={folder / 'chrome'}", "--window-size=1500,900", "--enable-logging=stderr"]
    words += ["--timeout=60000", "--dump-dom", f"file://{outer}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return dict(json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', done.stdout).group(1))))


def readable(files: Sequence[Path], folder: Path, cut: bool = False) -> dict[str, dict]:
    """All of them, wherever they are opened; -> what was seen. cut: names may be."""
    if not BROWSER:
        pytest.skip("no Chromium here: the parser's tests must do")
    every = drawn(files, folder)
    for name, found in every.items():
        bad = {what: seen for what, seen in found.items() if seen and what not in ("sorted", *(["cut"] if cut else []))}
        assert not bad, (name, bad)
    return every
