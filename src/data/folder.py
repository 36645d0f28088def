"""Images in folders named after their classes: ROOT/{train,val,test}/CLASS/**, or ROOT/CLASS/** divided by us."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

from src.contracts import DataError, Source
from src.data.images import EXTENSIONS
from src.data.split import NAMES, UNDIVIDED, Division, Item, assemble
from src.labels import Labels, OneClass
from src.names import refuse_undecodable, shorten

LAYOUTS = (
    "A folder of images is laid out as ROOT/CLASS/*.jpg (divided by the template), or as ROOT/train/CLASS/*.jpg with "
    "val and test beside train.\nIf the labels are in a table, use data=csv."
)
_JUNK = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir"})  # hidden names are left out besides
_Found = dict[str, dict[str, list[str]]]  # folder in ROOT -> folder in that, or "" -> paths relative to ROOT


def folder(root: str | Path, labels: Labels | None = None, **division: Any) -> Source:
    """-> the images under `root`, with the folder names of train as classes, or as what else `labels` reads in them.
    division: see Division.

    Without splits, train, val, and test are cut per class; with train but no val, val is cut out of train; with train
    and val but no test there is no test. Where no image of test lies in a class folder, they have no labels. Hidden
    files and folders, and files that are not images by their name, are left out. Raises DataError where there are no
    images, no class folders, or the classes differ between splits.
    """
    root, how = existing(root), Division(**division)
    other: Counter[str] = Counter()
    found, stray = _scan(root, other)
    notes = [*_about_stray(stray, "the root"), *_about_other(other)]
    splits = _splits(root, found)
    if not any(paths for subs in found.values() for paths in subs.values()):
        lying = f"{len(stray)} images, but not in class folders ({stray[0]}, ...)" if stray else "no images"
        raise DataError(f"data.root={root}: found {lying}. {LAYOUTS}{''.join(f' {note}' for note in notes)}")
    if splits is None:
        _refuse_nested(root, found)
        rows = [Item(path, (label,)) for label, subs in found.items() for path in chain.from_iterable(subs.values())]
        empty = {label for label, subs in found.items() if not any(subs.values())}
        return assemble(root, {UNDIVIDED: rows}, _readable(root, labels, rows), how, empty, notes)
    items, named = {}, set()
    for name, top in splits.items():
        items[name] = [Item(path, (label,)) for label, paths in found[top].items() if label for path in paths]
        if name == "test" and not items[name]:  # images without class folders: they are only to be predicted
            items[name] = [Item(path, ("",)) for path in found[top].get("", [])]
            continue
        named |= {label for label in found[top] if label}
        notes += _about_stray(found[top].get("", []), f"{top}/")
    if beside := sorted(set(found) - set(splits.values())):
        notes.append(f"Left out what lies beside the splits: {shorten(beside)}.")
    rows = [item for found in items.values() for item in found if item.cells[0]]
    empty = named - {item.cells[0] for item in rows}
    return assemble(root, items, _readable(root, labels, rows), how, empty, notes)


def _readable(root: Path, labels: Labels | None, items: list[Item]) -> Labels:
    labels = labels or OneClass()
    if labels.files:
        raise DataError(f"data.root={root}: a folder does not say which mask belongs to an image.\nUse data=csv.")
    wrong = {item.cells[0]: fault for item in items if (fault := labels.fault(item.cells))}
    if wrong:
        raise DataError(
            f"data.root={root}: {len(wrong)} folder(s) are no labels of this task, such as {shorten(sorted(wrong))}: "
            f"{next(iter(wrong.values()))}.\nRename them, list the images in a table (data=csv), or set another task."
        )
    return labels


def existing(root: str | Path) -> Path:
    """-> `root` if it is a folder; raises DataError that names the nearest one there is."""
    path = Path(root).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise DataError(f"data.root={path} is a file, not a folder. Unpack it if it is an archive. {LAYOUTS}")
    parent = path.absolute().parent
    while not parent.is_dir():
        parent = parent.parent
    siblings = [entry.name for entry in os.scandir(parent) if entry.is_dir()] if os.access(parent, os.R_OK) else []
    names = {name.lower(): name for name in siblings}
    missing = path.absolute().relative_to(parent).parts[0]
    near = difflib.get_close_matches(missing.lower(), names, 1)
    nearest = f"Did you mean {parent / names[near[0]]}?" if near else f"The nearest folder that exists is {parent}."
    raise DataError(f"data.root={path}: no such folder. {nearest}")


def _scan(root: Path, other: Counter[str]) -> tuple[_Found, list[str]]:
    real = os.path.realpath(root)
    folders, stray = _list(str(root), other)
    found: _Found = {}
    for name, is_link in folders:
        top = os.path.join(root, name)
        if not (place := _enter(top, is_link, (real,))):
            continue
        subs, lying = _list(top, other)
        found[name] = {"": [f"{name}/{file}" for file in lying]} if lying else {}
        for sub, sub_is_link in subs:
            paths = found[name][sub] = []
            _walk(os.path.join(top, sub), f"{name}/{sub}/", sub_is_link, place, paths, other)
    return found, stray


def _walk(path: str, prefix: str, is_link: bool, above: tuple[str, ...], paths: list[str], other: Counter[str]) -> None:
    if not (here := _enter(path, is_link, above)):
        return
    folders, files = _list(path, other)
    paths += [prefix + file for file in files]
    for name, link in folders:
        _walk(os.path.join(path, name), f"{prefix}{name}/", link, here, paths, other)


def _enter(path: str, is_link: bool, above: tuple[str, ...]) -> tuple[str, ...]:
    """-> the real paths from the root down to `path`, or () if a link leads back to one of them: a loop."""
    real = os.path.realpath(path) if is_link else os.path.join(above[-1], os.path.basename(path))
    return () if real in above else (*above, real)


def _list(path: str, other: Counter[str]) -> tuple[list[tuple[str, bool]], list[str]]:
    """-> (name, is it a link) of the folders, and the names of the images; without a stat per file."""
    folders, files = [], []
    try:
        entries = list(os.scandir(path))
    except OSError as error:
        raise DataError(
            f"{path}: the folder cannot be read ({error.strerror}). Make it readable, or remove it."
        ) from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in _JUNK:
            continue
        if entry.is_dir():
            folders.append((entry.name, entry.is_symlink()))
        elif (extension := os.path.splitext(entry.name)[1].lower()) in EXTENSIONS:
            files.append(entry.name)
        else:
            other[extension or entry.name] += 1
    refuse_undecodable(path, (*files, *(name for name, _ in folders)))
    return folders, files


def _splits(root: Path, found: _Found) -> dict[str, str] | None:
    """-> split -> its folder, or None where the folders in the root are the classes."""
    named = [name for name in sorted(found) if name.lower() in NAMES]
    with_classes = [name for name in named if any(paths for sub, paths in found[name].items() if sub)]
    filled = [name for name in found if any(found[name].values())]
    if filled and not with_classes and set(filled) <= set(named):
        raise DataError(f"data.root={root}: {shorten(filled)} hold images, but no class folders. {LAYOUTS}")
    if not with_classes or "train" not in {NAMES[name.lower()] for name in named}:
        return None
    splits: dict[str, str] = {}
    for name in named:
        if twin := splits.get(NAMES[name.lower()]):
            raise DataError(f"data.root={root}: {twin!r} and {name!r} both mean {NAMES[name.lower()]}. Keep one.")
        splits[NAMES[name.lower()]] = name
    return splits


def _refuse_nested(root: Path, found: _Found) -> None:
    """Raises where the class folders are probably one level further down."""
    inner = {
        top: [sub for sub, paths in subs.items() if sub and paths] for top, subs in found.items() if any(subs.values())
    }
    if len(inner) == 1 and len(subs := next(iter(inner.values()))) > 1:
        top = next(iter(inner))
        raise DataError(
            f"data.root={root}: found one class folder, {top!r}, with folders of its own: {shorten(sorted(subs))}.\n"
            f"If these are the classes, set data.root={root / top}."
        )
    words = {top: {NAMES[word] for word in re.split("[^a-z]+", top.lower()) if word in NAMES} for top in inner}
    alike = [top for top in inner if words[top] and len(inner[top]) > 1]
    if len(alike) > 1 and len(set.intersection(*(set(inner[top]) for top in alike))) > 1:
        raise DataError(
            f"data.root={root}: {shorten(sorted(alike))} hold the same folders, {shorten(sorted(inner[alike[0]]))}, so "
            "they seem to be splits and not classes.\n"
            "Rename them to train, val and test; or, if they are classes, to names without these words."
        )


def _about_stray(paths: list[str], where: str) -> list[str]:
    lying = f"Left out {len(paths)} image(s) that lie in {where} outside any class folder: {shorten(sorted(paths), 3)}."
    return [lying] if paths else []


def _about_other(other: Counter[str]) -> list[str]:
    kinds = ", ".join(f"{kind!r} ({n})" for kind, n in other.most_common(3))
    return [f"Left out {other.total()} file(s) that are not images by their name, such as {kinds}."] if other else []
