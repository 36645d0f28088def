"""What nobody else may read of a config that is written down."""

from __future__ import annotations

from typing import Any

SECRET = ("token", "secret", "password", "api_key", "apikey")


def masked(node: Any, name: str = "") -> Any:
    """A config without what is called a secret."""
    if isinstance(node, dict):
        return {k: masked(v, str(k)) for k, v in node.items()}
    if isinstance(node, list):
        return [masked(v) for v in node]
    return "***" if isinstance(node, str) and any(s in name.lower() for s in SECRET) else node
