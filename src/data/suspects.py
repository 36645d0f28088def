"""Training images that are left out, since the probe found that their labels are rather wrong than right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from src import buffers, tables
from src.contracts import LEFT, SUSPECTS, Source


def without_suspects(source: Source, run: Path, policy: str) -> Source:
    """drop: those of the run folder's suspects.csv that are to be left out leave train. keep: nothing happens."""
    if policy == "keep":
        return source
    file, train = run / SUSPECTS, source.splits["train"]
    gone = {row["path"] for row in tables.read(file) if row.get(LEFT) == "yes"} if file.is_file() else set()
    kept = buffers.without(len(train), (i for i, path in enumerate(train.paths) if path in gone))
    if len(kept) == len(train):
        told = "data.suspects=drop: no training image is left out: the probe is not sure that many labels are wrong"
        return replace(source, notes=(*source.notes, told))
    told = f"{len(train) - len(kept):,} training images are left out: their labels are rather wrong than right"
    val = "Those of val stay in its metrics, which are too pessimistic."
    notes = (*source.notes, f"{told} ({SUSPECTS}; data.suspects=keep). {val}")
    return replace(source, splits={**source.splits, "train": train.only(kept)}, notes=notes)
