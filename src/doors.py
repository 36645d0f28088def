"""What all doors that need only run folders do with a fault: it is told, without a traceback, by its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

from src.contracts import ConfigError, DataError


def opened(work: Callable[[], object]) -> int:
    """0, or 2 and 3 where the user's words or data cannot be used."""
    try:
        work()
    except (ConfigError, DataError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 3
    return 0
