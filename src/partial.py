"""What a long prediction has found so far, kept on disk, so that a killed one goes on where it was."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from src.contracts import ConfigError
from src.folder import claim

Row = dict[str, Any]


class Partial:
    """A file of JSON lines: the first says what is asked, each other is a row. Locked while it is open.

    Where a file is there that says the same, its rows are kept, up to the last whole batch of `step`, so that what
    follows meets the same neighbours as without the kill; `begun` is how many. Otherwise, or with `fresh`, it is begun
    anew; `note` says so.
    """

    def __init__(self, file: Path, asked: Row, step: int, total: int, fresh: bool = False):
        self.file, self.begun, self.note = file, 0, ""
        self.stream = file.open("a+b")
        try:
            claim(self.stream, fcntl.flock)
        except OSError as error:
            self.stream.close()
            if not isinstance(error, BlockingIOError | PermissionError):
                raise
            raise ConfigError(
                f"{file} is in use: another process predicts into the same file.\nWait for it, or name another --out."
            ) from error
        first = json.dumps(asked).encode() + b"\n"
        self.stream.seek(0)
        found = self.stream.readline()
        if found == first and not fresh:
            self._keep(step, total)
            self.note = f"goes on behind {self.begun:,} of {total:,} images (--fresh begins anew)"
        else:
            self.note = f"{file.name}, what another prediction left, is given up" if found else ""
            self.stream.truncate(0)
            self.stream.write(first)
            self.stream.flush()

    def _keep(self, step: int, total: int) -> None:
        ends = [self.stream.tell()]  # of the lines that are whole
        for line in self.stream:
            if line.endswith(b"\n"):
                ends.append(ends[-1] + len(line))
        count = len(ends) - 1
        self.begun = count if count == total else count - count % step
        self.stream.truncate(ends[self.begun])
        self.stream.seek(0, 2)

    def add(self, rows: Iterable[Row]) -> None:
        self.stream.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        self.stream.flush()

    def rows(self) -> Iterator[Row]:
        """All of them, from the first on."""
        with self.file.open(encoding="utf-8") as lines:
            next(lines)
            yield from map(json.loads, lines)

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        """Without an error the file is not needed any more."""
        if kind is None:
            self.file.unlink()
        self.stream.close()
