"""SIGTERM, SIGUSR1 and Ctrl-C: outside a fit they end the run at once, inside it at the next step, after a save."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from types import FrameType

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}
TWICE = 1.0  # seconds


class Stopped(BaseException):
    """The run was told to stop. `code` is the exit code: 130 for Ctrl-C, 143 for a preemption."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


class _Watch:
    deferred = False  # a fit is under way and asks `wanted` after each step
    wanted = 0  # the exit code, once a signal has come
    timer: threading.Timer | None = None
    told = -math.inf  # when the signal came


_watch = _Watch()


def install(grace: float = 60.0) -> None:
    """Takes over the signals. A second signal, or `grace` seconds without a step, ends the process without a save. What
    comes within a second of the first is the same again: `timeout` and batch systems tell a process and its group."""

    def handle(number: int, frame: FrameType | None) -> None:
        code = CODES[signal.Signals(number)]
        if time.monotonic() - _watch.told < TWICE:
            return
        _watch.told = time.monotonic()
        if not _watch.deferred or _watch.wanted:
            raise Stopped(code)
        _watch.wanted = code
        print(f"\n{signal.Signals(number).name}: saving after this step; once more ends at once.", file=sys.stderr)
        _watch.timer = threading.Timer(grace, os._exit, (code,))
        _watch.timer.daemon = True
        _watch.timer.start()

    _watch.told = -math.inf
    for number in CODES:
        signal.signal(number, handle)


def defer(on: bool) -> None:
    _watch.deferred, _watch.wanted = on, 0
    if _watch.timer is not None:
        _watch.timer.cancel()
        _watch.timer = None


def ended() -> None:
    """A fit has ended by a fault: what it was asked to do after its step is done now."""
    code = _watch.wanted
    defer(False)
    if code:
        raise Stopped(code)


def wanted() -> int:
    """The exit code with which the run is to stop, 0 while it is to go on."""
    return _watch.wanted
