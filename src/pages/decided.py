"""What was decided and why: recipe.md, of which this page knows headings, lists and tables."""

from __future__ import annotations

from collections.abc import Iterator

from src.pages.blocks import Block, Section, Table, Text
from src.pages.facts import Facts


def decided(facts: Facts) -> Iterator[Section]:
    file = facts.run.home.path / "recipe.md"
    if not file.is_file():
        yield Section("What was decided", [Text("Nothing: recipe=off, the yaml values as they are.")])
        return
    blocks: list[Block] = []
    rows: list[list[str]] = []
    for line in [*file.read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip().strip("`").replace("\\|", "|") for cell in line.strip().strip("|").split(" | ")])
            continue
        if rows:
            blocks.append(Table(rows[0], [row for row in rows[1:] if not set("".join(row)) <= {"-", "|"}]))
            rows = []
        if line.strip() and line != "# Recipe":
            blocks.append(Text(line.lstrip("#- "), head=line.startswith("#")))
    yield Section("What was decided, and why", blocks)
