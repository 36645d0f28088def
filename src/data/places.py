"""Where the paths of a table lead: told of all of them, though each folder is listed only once."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from src.data.images import EXTENSIONS

OUTSIDE = "absolute or with '..'; paths are relative to data.root"


def outside(path: str) -> str:
    """What is wrong with a path by its text alone, or ""."""
    if path.startswith(("/", "\\", "~")) or path[1:2] == ":":
        return OUTSIDE
    return OUTSIDE if ".." in path and ".." in path.replace("\\", "/").split("/") else ""


class Places:
    """(normal path that is not `outside`) -> what is wrong with where it leads, or ""; lists a folder instead of asking
    for each of its files. Only the last few are kept in mind: ask in the order of the paths."""

    def __init__(self, root: Path):
        self.root = root
        self.real = os.path.realpath(root)
        self.listed = lru_cache(8)(self._list)
        self.endings = lru_cache(8)(self._endings)

    def __call__(self, path: str) -> str:
        where, _, name = path.rpartition("/")
        found = self.listed(where)
        if found is None or (name in found[1] and not self._inside(path)):
            return "a link that leads out of data.root; copy the file into it"
        if name in found[0]:
            return ""
        if "\\" in path:
            return "no such file in data.root; write / between folders, not \\"
        end = self.endings(where).get(name)
        almost = f", but with {end} there is (set data.suffix={end})" if end else ""
        return f"no such file in data.root{almost}"

    def _endings(self, where: str) -> dict[str, str]:
        """Name without its extension -> that: where it may be all that is missing."""
        names, _ = self.listed(where) or ((), ())
        return {stem: end for stem, end in map(os.path.splitext, names) if end.lower() in EXTENSIONS}

    def _inside(self, path: str) -> bool:
        return os.path.realpath(os.path.join(self.root, path)).startswith(os.path.join(self.real, ""))

    def _list(self, where: str) -> tuple[set[str], set[str]] | None:
        """-> the names of all files, and of those that are links; None: outside the root."""
        if where and not self._inside(where):
            return None
        names, links = set(), set()
        with suppress(OSError), os.scandir(os.path.join(self.root, where)) as entries:
            for entry in entries:
                if link := entry.is_symlink():
                    links.add(entry.name)
                if link or entry.is_file():
                    names.add(entry.name)
        return names, links
