"""metrics.csv: every metric of the run, one row a record, kept whole over kills and resumes."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from src import folder


class History(Logger):
    """A Lightning logger. Rows are appended and flushed at once; Lightning's CSVLogger deletes earlier epochs on
    resume. A checkpoint stores `rows`, and a resumed run goes back to them, so that nothing is there twice."""

    def __init__(self, file: str | Path):
        super().__init__()
        self.file = Path(file)
        self._columns: list[str] = []
        self.rows = 0
        self.rewind(None)

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> History:
        return self

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The configuration is in config.yaml, beside this file."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"epoch": metrics.get("epoch", ""), "step": step, **metrics}
        new = [k for k in row if k not in self._columns]
        if new:
            self._rewrite([*self._columns, *sorted(new, key=lambda k: (k not in ("epoch", "step"), k))], self._read())
        with self.file.open("a", newline="", encoding="utf-8") as stream:
            csv.DictWriter(stream, self._columns, restval="").writerow(row)
        self.rows += 1

    @rank_zero_only
    def rewind(self, rows: int | None) -> None:
        """Forgets all but the first `rows` rows; None: what is in the file is taken as it is."""
        found = self._read()
        if rows is not None and rows < len(found):
            found = found[:rows]
            self._rewrite(self._columns, found)
        self.rows = len(found)

    def _read(self) -> list[dict[str, str]]:
        if not self.file.is_file():
            return []
        text = self.file.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # a kill in the middle of a row leaves a part of it
        reader = csv.DictReader(io.StringIO(whole))
        rows = list(reader)
        self._columns = list(reader.fieldnames or [])
        if whole != text:
            self._rewrite(self._columns, rows)
        return rows

    def _rewrite(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        out = io.StringIO()
        writer = csv.DictWriter(out, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        folder.write(self.file, out.getvalue())
        self._columns = columns
