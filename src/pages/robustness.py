"""How it holds up under what happens to images, from robustness.json, where it was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from src.pages.blocks import Section, Table
from src.pages.facts import Facts


def robustness(facts: Facts) -> Iterator[Section]:
    file = facts.run.home.path / "robustness.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    each = {name: values for name, values in found.items() if isinstance(values, Mapping)}
    alone = [[name, _said(value)] for name, value in found.items() if not isinstance(value, Mapping)]
    columns = list(dict.fromkeys(column for values in each.values() for column in values))
    rows = [[name, *(_said(values.get(column, "")) for column in columns)] for name, values in each.items()]
    blocks = [
        *([Table(["", *columns], rows, sortable=True)] if rows else []),
        *([Table(["", ""], alone)] if alone else []),
    ]
    if blocks:
        yield Section("How it holds up", blocks)


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_said(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value))
    return f"{value:.4f}" if isinstance(value, float) else str(value)
