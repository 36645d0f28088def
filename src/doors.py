"""What every door does with a fault, or when it is told to stop: it is said, in a paragraph, and by the exit code."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable

from src import signals
from src.contracts import ConfigError, DataError

HINT = "DEBUG=1 shows where."


def opened(work: Callable[[], int | None], again: str = "") -> int:
    """What `work` returns, None being 0; where it fails see `told`; 130 and 143 where it was stopped. again: how it
    goes on then."""
    warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr)
    try:
        signals.install()
        return work() or 0
    except signals.Stopped as stop:
        print(f"\nStopped. {again}".rstrip(), file=sys.stderr)
        return stop.code
    except Exception as error:
        return told(error)


def told(error: Exception, instead: str = "") -> int:
    """2 and 3 where the user's words or data cannot be used, else 1. instead: what says it better than the error."""
    if os.environ.get("DEBUG"):
        traceback.print_exc()
    code = 2 if isinstance(error, ConfigError) else 3 if isinstance(error, DataError) else 1
    said = str(error) if code > 1 else instead or f"{type(error).__name__}: {error}"
    print(f"\n{said}" + (f"\n{HINT}" if code == 1 else ""), file=sys.stderr)
    return code
