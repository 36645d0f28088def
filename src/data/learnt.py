"""Images of val and test that another run has learnt, from whose weights or answers this one begins: a leak, too."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from src import folder, tables
from src.contracts import DataError, File, Source
from src.data.audit import Place, dropped, path_of
from src.data.scan import stat

RANK = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True)
class Row:
    """An image as another run knew it."""

    path: str
    split: str
    size: int  # bytes; -1: not known
    file: Path


def without_learnt(source: Source, cfg: Mapping[str, Any]) -> Source:
    """As data.leak says: error: DataError; warn: a note; drop: they leave val. Of test nothing is dropped: raises."""
    policy = cfg["data"]["leak"]
    for run, word in elders(cfg).items():
        places, what = learnt(source, run, word)
        other = f"Divide the images as it did, such as by data=csv data.table={run / 'split.csv'}"
        if not places:
            source = replace(source, notes=(*source.notes, what)) if what else source
        elif policy == "warn":
            source = replace(source, notes=(*source.notes, f"LEAK: {what}: their metrics are too good. {other}."))
        elif policy == "drop" and all(split == "val" for split, _ in places):
            source = dropped(source, places, what)
        else:
            why = "; from test nothing is dropped" if policy == "drop" else ""
            key = word.partition("=")[0]
            raise DataError(f"data.leak={policy}: {what}{why}.\n{other}; leave {key} out; or set data.leak=warn.")
    return source


def learnt(source: Source, run: Path, word: str) -> tuple[set[Place], str]:
    """The images of val and test that this run has learnt, and a sentence about them, or about what is not known."""
    try:
        pairs = shared(source, run)
    except ValueError:  # which ConfigError and DataError are
        return set(), f"{word}: it does not say which images it has learnt; those of val and test may be among them."
    if not pairs:
        return set(), ""
    counts = {name: sum(place[0] == name for place, _ in pairs) for name in ("val", "test")}
    told = " and ".join(f"{n:,} of {len(source.splits[name]):,} {name}" for name, n in counts.items() if n)
    place, row = pairs[0]
    what = f"{word} has learnt {told} images, such as {path_of(source, place)} (there {row.split}: {row.path})"
    return {place for place, _ in pairs}, what if row.file.is_file() else f"{what}, by paths and sizes alone"


def elders(cfg: Mapping[str, Any]) -> dict[Path, str]:
    """The run folders that this run learns from, and those that they have learnt from; with the word that says so."""
    found: dict[Path, str] = {}
    left = [(run, f"{key}={run}") for key, run in _named(cfg)]
    while left:
        run, word = left.pop(0)
        if run not in found:
            found[run] = word
            left += [(elder, word) for _, elder in _named(_config(run))]
    return found


def _config(run: Path) -> dict[str, Any]:
    home = folder.RunFolder(run)
    return home.words() if home.config.is_file() else {}


def _named(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    teacher = (cfg.get("distill") or {}).get("teacher") or {}
    for key, run in (("init_from", cfg.get("init_from")), ("distill.teacher.folder", teacher.get("folder"))):
        if run:
            yield key, Path(run)
    body = (cfg.get("model") or {}).get("weights")
    for key, file in (("model.weights", body), ("distill.teacher.weights", teacher.get("weights"))):
        if file and (Path(file).parent.parent / "split.csv").is_file():
            yield key, Path(file).parent.parent


def shared(source: Source, run: Path) -> list[tuple[Place, Row]]:
    """(an image of val or test, the same one in an earlier split of that run, by which it was learnt or chosen).

    Files of one folder are the same by their paths, others where their bytes are; where those of that run are gone, by
    path and size."""
    root = str((_config(run).get("data") or {}).get("root") or os.devnull)
    here = os.path.realpath(root) == os.path.realpath(str(source.root))
    rows = list(_rows(run, Path(root)))
    if not here and all(row.size < 0 for row in rows):
        raise ValueError(f"{run}: nothing is known of its files")
    listed = {row.path: row for row in rows} if here else {}
    alike, digests, found = defaultdict(list), {}, []
    for row in rows:
        alike[row.size].append(row)
    for name in ("val", "test"):
        for i, path in enumerate(source.splits[name].paths if name in source.splits else ()):
            if here and path in listed:
                same: Row | None = listed[path]
            else:
                near = [row for row in alike.get(stat(source.root, path)[0], ()) if RANK[row.split] < RANK[name]]
                same = _same(source.root / path, path, near, digests)
            if same and RANK[same.split] < RANK[name]:
                found.append(((name, i), same))
    return found


def _rows(run: Path, root: Path) -> Iterator[Row]:
    for line, row in enumerate(tables.read(run / "split.csv", ("path", "split")), start=2):
        if row["split"] not in RANK:
            raise tables.damaged(run / "split.csv", line, f"{row['split']!r} is no split")
        size = int(row["bytes"]) if "bytes" in row else stat(root, row["path"])[0]
        yield Row(row["path"], row["split"], size, root / row["path"])


def _same(file: File, path: str, near: Sequence[Row], digests: dict[Path, str]) -> Row | None:
    mine = ""
    for row in near:
        if not row.file.is_file():
            if row.path == path:
                return row
            continue
        mine = mine or folder.sha256(file)
        if row.file not in digests:
            digests[row.file] = folder.sha256(row.file)
        if digests[row.file] == mine:
            return row
    return None
