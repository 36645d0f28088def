"""How far something is: a line that changes, on a terminal; else a line now and then."""

from __future__ import annotations

import sys
import time

OFTEN, SELDOM = 0.5, 30.0  # seconds between two lines: on a terminal, in a log


class Progress:
    """total: images; begun: those that an earlier process did."""

    def __init__(self, total: int, begun: int = 0):
        self.total, self.begun, self.start = total, begun, time.monotonic()
        self.live = sys.stderr.isatty()
        self.shown = self.start

    def show(self, done: int) -> None:
        now = time.monotonic()
        last = done == self.total
        if now - self.shown < (OFTEN if self.live else SELDOM) and not (last and self.live):
            return
        self.shown = now
        rate = (done - self.begun) / max(now - self.start, 1e-9)
        left = int((self.total - done) / max(rate, 1e-9))
        said = f"{done:,} of {self.total:,} images  {rate:,.0f} images/s  ETA {left // 60}:{left % 60:02d}"
        print(f"\r{said}\033[K" if self.live else said, end="\n" if last or not self.live else "", file=sys.stderr)
        sys.stderr.flush()
