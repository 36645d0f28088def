"""What nobody else may read of the words and the config that are written down."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

SECRET = re.compile(r"(?<![^\W_])(token|secret|password|api_?key)(?![^\W_])", re.IGNORECASE)
LOGIN = re.compile(r"(?<=\w://)[^/\s:@]*:[^/\s]*@")  # of a URL
NAMES = ("task.heads", "model.candidates")  # whose keys are the user's


def masked(node: Any, key: str = "") -> Any:
    """A config without what is called a secret, and without the logins in its URLs."""
    if isinstance(node, dict):
        return {k: masked(v, f"{key}.{k}" if key else str(k)) for k, v in node.items()}
    if isinstance(node, list):
        return [masked(v, key) for v in node]
    if not isinstance(node, str):
        return node
    called = SECRET.search(key.rpartition(".")[2]) and not key.startswith(NAMES)
    return "***" if called else LOGIN.sub("***@", node)


def words(typed: Sequence[str]) -> list[str]:
    """Words of the command line in the same way."""
    parts = (word.partition("=") for word in typed)
    return [f"{key}{sign}{masked(value, key)}" for key, sign, value in parts]


def restored(node: Any, typed: Sequence[str]) -> Any:
    """A masked config with the URLs that were typed, or that the environment holds, as MLFLOW_TRACKING_URI."""
    if isinstance(node, dict):
        return {k: restored(v, typed) for k, v in node.items()}
    if isinstance(node, list):
        return [restored(v, typed) for v in node]
    if not isinstance(node, str) or "://***@" not in node:
        return node
    found = (*(word.partition("=")[2].strip("'\"") for word in typed), *os.environ.values())
    return next((value for value in found if masked(value) == node), node)
