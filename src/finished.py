"""Finished runs, read from their folders."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from src import folder
from src.contracts import ConfigError

OWN = ("seed", "run_dir", "resume", "name", "stages", "paths.", "logger.", "hydra.", "callbacks.progress")
# of each run, so that it is no difference


@dataclass(frozen=True)
class Entry:
    """A finished run. `name` tells it from the others."""

    name: str
    path: Path
    state: Mapping[str, Any]
    metrics: Mapping[str, Any]
    cfg: Mapping[str, Any]

    @property
    def headline(self) -> str:
        return str(self.cfg["task"]["monitor"]).removeprefix("val/")

    @property
    def split(self) -> str:
        return "test" if f"test/{self.headline}" in self.metrics else "val"

    @property
    def value(self) -> float:
        return float(self.metrics[f"{self.split}/{self.headline}"])

    @property
    def words(self) -> tuple[str, ...]:
        """What was typed, but for what each run has of its own."""
        return tuple(sorted(word for word in self.state.get("overrides", ()) if not word.lstrip("+").startswith(OWN)))

    @cached_property
    def keys(self) -> dict[str, str]:
        """The config in one level; paths in the run folder are alike in all runs."""
        here = str(self.cfg["run_dir"])
        found = {key: str(value).replace(here, "RUN_DIR") for key, value in _flat(self.cfg)}
        return {key: value for key, value in found.items() if not key.startswith(OWN)}

    @cached_property
    def facts(self) -> dict[str, Any]:
        return folder.model_json(self.path / "model")


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def runs(asked: Sequence[str]) -> list[Entry]:
    """The runs that are named, and the finished ones of the folders; of one task and the same classes."""
    paths: list[Path] = []
    for word in asked:
        path = Path(word).absolute()
        if (path / "run.json").is_file() and not any(path.glob("*/run.json")):  # a group of src.repeat has one, too
            paths.append(path)
            continue
        below = sorted(file.parent for file in (*path.glob("*/run.json"), *path.glob("*/*/run.json")))
        if not below:
            what = "it holds no run" if path.is_dir() else "there is no such folder"
            raise ConfigError(f"{word}: {what} (no run.json).\nName run folders, or the folder above them.")
        for one in below:
            if unfinished(one):
                print(f"left out: {one} is not finished", file=sys.stderr)
            else:
                paths.append(one)
    paths = list(dict.fromkeys(paths))
    if len(paths) < 2:
        raise ConfigError(f"{' '.join(asked)}: {len(paths)} finished run(s); to compare takes two. Name another one.")
    entries = [_entry(path, name) for path, name in zip(paths, _names(paths), strict=True)]
    for other in entries[1:]:
        same_task(entries[0], other)
    return entries


def unfinished(path: Path) -> str:
    """Why a run cannot be compared, or ''."""
    state = folder.RunFolder(path).state()
    if state.get("state") != "finished":
        return f"it is {state.get('state', 'not begun')}; done: {', '.join(state.get('done', ())) or 'nothing'}"
    missing = [name for name in ("config.yaml", "metrics.json") if not (path / name).is_file()]
    return f"it has no {missing[0]}" if missing else ""


def _entry(path: Path, name: str) -> Entry:
    if why := unfinished(path):
        raise ConfigError(f"{path} is not finished: {why}.\nFinish it first: python train.py resume={path}")
    home = folder.RunFolder(path)
    found = Entry(name, path, home.state(), home.metrics(), home.words())
    if found.metrics.get(f"{found.split}/{found.headline}") is None:
        raise ConfigError(f"{path} has measured no {found.headline}: it planned only, or nothing has labels.")
    return found


def _names(paths: Sequence[Path]) -> list[str]:
    """As few folders as tell them apart."""
    for n in range(1, min(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-n:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return list(map(str, paths))


def same_task(first: Entry, other: Entry) -> None:
    for what, of in (
        ("task", lambda e: e.cfg["task"]["_target_"].rpartition(".")[2]),
        ("task.monitor", lambda e: e.headline),
        ("split that was measured", lambda e: e.split),
        ("list of classes", lambda e: e.facts["classes"]),
    ):
        if of(first) != of(other):
            raise ConfigError(
                f"{other.path} has another {what} than {first.path}: {of(other)} instead of {of(first)}.\n"
                "Compare runs of one task and one metric."
            )


def logits(rows: list[dict[str, str]], task: Any, facts: dict[str, Any]) -> torch.Tensor:
    """(N, outputs), back from what the table of a fold says."""
    if task.undo:
        return task.undo(rows, **facts.get("tuned", {}))
    if task.parts:
        return torch.cat([_logits(rows, p.target, p.classes, f"/{p.name}") for p in task.parts], 1)
    return _logits(rows, task.target, facts["classes"])


def _logits(rows: list[dict[str, str]], target: str, classes: Sequence[str], head: str = "") -> torch.Tensor:
    """head: what a table with several targets says behind `prediction` and `prob`."""
    if target == "numbers":
        columns = [f"prediction/{name}" for name in classes] if len(classes) > 1 or head else ["prediction"]
        return torch.tensor([[float(row[column]) for column in columns] for row in rows])
    p = torch.tensor([[float(row[f"prob{head}/{name}"]) for name in classes] for row in rows]).clamp(1e-7, 1 - 1e-7)
    return p.log() if target == "class" else p.logit()
