"""A value, as Parquet, Arrow and JSON have them, as the cell of text that a CSV table would hold."""

from __future__ import annotations

from typing import Any


def cell(value: Any, separator: str = "|") -> str:
    """None and NaN: ''; a list: its values, joined by `separator`."""
    if value is None or value != value:
        return ""
    if isinstance(value, list | tuple):
        return separator.join(cell(part) for part in value)
    return str(value).strip()
