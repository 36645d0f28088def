"""Collects what a source finds, image by image, and all that is wrong with it, which is told at once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from src.contracts import DataError, Root, Source
from src.data.rows import Gathered, Item
from src.data.split import NAMES, UNDIVIDED, Division, assemble
from src.labels import Labels


@dataclass
class Found:
    labels: Labels
    splits: dict[str, Gathered] = field(default_factory=lambda: defaultdict(Gathered))
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # kind -> where

    def add(self, split: str, item: Item) -> None:
        """Of test an image may lack its label, if all do."""
        unlabelled = split == "test" and not any(item.cells)
        if why := "" if unlabelled else self.labels.fault(item.cells):
            self.faults[why].append(item.path)
        else:
            self.splits[split].add(item)

    def source(self, root: Root, how: Division, remedy: str, notes: Sequence[str] = ()) -> Source:
        """Raises DataError with all faults and the remedy; else as `assemble`."""
        splits = {name: found.rows() for name, found in self.splits.items()}
        if "test" in splits and splits["test"].labelled:
            pairs = zip(splits["test"].paths, splits["test"].cells, strict=True)
            half = [path for path, cells in pairs if self.labels.fault(cells)]
            self.faults |= {"no target, but others of test have one": half} if half else {}
        if self.faults:
            count = sum(len(places) for places in self.faults.values())
            kinds = "\n".join(f"  {kind}: {some(places)}" for kind, places in self.faults.items())
            raise DataError(f"{root}: {count} thing(s) cannot be used.\n{kinds}\n{remedy}")
        return assemble(root, splits, self.labels, how, notes=notes)


def some(places: list[str], most: int = 10) -> str:
    return ", ".join(places[:most]) + (f", ... ({len(places)} in all)" if len(places) > most else "")


def by_name(paths: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """-> split -> the files whose path speaks of it, as train-000.tar does, UNDIVIDED if none does of any; and those
    that speak of none or of several."""
    said = [{NAMES[word] for word in re.split("[^a-z]+", path.lower()) if word in NAMES} for path in paths]
    if not any(said):
        return {UNDIVIDED: list(paths)}, []
    found = defaultdict(list)
    for path, names in zip(paths, said, strict=True):
        found[min(names) if len(names) == 1 else ""].append(path)
    unclear = found.pop("", [])
    return dict(found), unclear
