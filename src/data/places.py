"""Where the paths of a table lead: told of all of them, though each folder is listed only once."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection
from pathlib import Path

from src.data.images import EXTENSIONS


class Places:
    """(path) -> what is wrong with where it leads, or ""; lists each folder once instead of asking for each file."""

    def __init__(self, root: Path):
        self.root = root
        self.real = os.path.realpath(root)
        self.folders: dict[str, dict[str, bool] | None] = {}  # None: outside the root
        self.endings: dict[str, dict[str, str]] = {}  # folder -> name without its extension -> that

    def __call__(self, path: str) -> str:
        if path.startswith(("/", "\\", "~")) or path[1:2] == ":" or ".." in path.replace("\\", "/").split("/"):
            return "absolute or with '..'; paths are relative to data.root"
        where, name = posixpath.split(posixpath.normpath(path))
        if where not in self.folders:
            self.folders[where] = self._list(where)
        names = self.folders[where]
        if names is None or (names.get(name) and not self._inside(os.path.join(where, name))):
            return "a link that leads out of data.root; copy the file into it"
        return "" if name in names else f"no such file in data.root{self._almost(where, name, names)}"

    def _almost(self, where: str, name: str, names: Collection[str]) -> str:
        """What its extension is, where that is all that is missing."""
        if where not in self.endings:
            parts = (os.path.splitext(other) for other in names)
            self.endings[where] = {stem: end for stem, end in parts if end.lower() in EXTENSIONS}
        end = self.endings[where].get(name)
        return f", but with {end} there is (set data.suffix={end})" if end else ""

    def _inside(self, path: str) -> bool:
        return os.path.realpath(os.path.join(self.root, path)).startswith(os.path.join(self.real, ""))

    def _list(self, where: str) -> dict[str, bool] | None:
        """-> name -> is it a link, of all files."""
        if where and not self._inside(where):
            return None
        try:
            with os.scandir(os.path.join(self.root, where)) as entries:
                return {entry.name: entry.is_symlink() for entry in entries if entry.is_symlink() or entry.is_file()}
        except OSError:
            return {}
