"""How it holds up under what happens to images, from robustness.json, where it was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from src.pages.blocks import Block, Section, Table, Text
from src.pages.facts import Facts

SAYS = {
    "shifts": "same: the part of the answers that stay what they are.",
    "attacks": "Accuracies, not errors, and upper bounds of them: each attack, noise aside, on what those on its left "
    "have left right; rows are how far a value may be changed.",
}


def robustness(facts: Facts) -> Iterator[Section]:
    file = facts.run.home.path / "robustness.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    parts = {name: part for name, part in found.items() if isinstance(part, Mapping)}
    if not parts:
        return
    images, metric = found.get("images", "?"), found.get("metric", "")
    blocks: list[Block] = [
        Text(f"Of {images} test images; errors are 1 - {metric}, or the metric where less is better.")
    ]
    for name, part in parts.items():
        says = [Text(SAYS[name])] if name in SAYS else []
        blocks += [Text(name.replace("_", " "), head=True), *says, *_part(part)]
    yield Section("How it holds up", blocks)


def _part(part: Mapping[str, Any]) -> Iterator[Block]:
    """What is hidden comes first, and loud; then the single numbers; then a table of each group of like ones."""
    if hidden := part.get("hidden"):
        yield Text(f"Not to be trusted: gradients seem to be hidden. {'; '.join(map(str, hidden))}", loud=True)
    single = {key: value for key, value in part.items() if isinstance(value, int | float | str)}
    if single:
        yield Table(["", ""], [[key.replace("_", " "), _said(value)] for key, value in single.items()])
    direct = {key: value for key, value in part.items() if isinstance(value, Mapping) and _flat(value)}
    nested = [value for value in part.values() if isinstance(value, Mapping) and not _flat(value)]
    for rows in (*([direct] if direct else []), *nested):
        yield _table(rows, part.get("severities"))


def _flat(values: Mapping[str, Any]) -> bool:
    return all(not isinstance(value, Mapping | list) for value in values.values())


def _table(rows: Mapping[str, Any], severities: Sequence[int] | None) -> Table:
    """A row for each name; its columns are the severities of a list, or the keys of a mapping."""
    each = {
        name: values if isinstance(values, Mapping) else dict(zip(severities or range(1, 6), values, strict=False))
        for name, values in rows.items()
    }
    columns = list(dict.fromkeys(column for values in each.values() for column in values))
    told = [[name.replace("_", " "), *(_said(values.get(c, "")) for c in columns)] for name, values in each.items()]
    return Table(["", *(f"severity {c}" if isinstance(c, int) else str(c) for c in columns)], told, sortable=True)


def _said(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
