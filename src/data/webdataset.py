"""Images in tar shards, as WebDataset lays them out: KEY.jpg beside KEY.cls, KEY.txt or KEY.json, which are its label.

Shards on a local disk need not be streamed from their beginning: their headers are read once, and each image is then
read where it lies. So the order is shuffled exactly, the length is known, and resume and DDP are as with files, by the
same loaders. Reads are as scattered as those of files are; the cache of decoded copies (data.cache_gb) is the remedy.
Pipes, URLs and compressed shards are not read.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.contracts import DataError, Source
from src.data.cells import cell
from src.data.folder import existing
from src.data.found import Found, by_name
from src.data.images import EXTENSIONS
from src.data.split import Division, Item
from src.data.tar import Entry, Part, Shards, index
from src.labels import Cells, Labels, OneClass
from src.names import shorten

LABELS = ("cls", "txt", "json")  # members that may hold the label, the likeliest first
ARCHIVES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
REMEDY = "Write these shards again, or leave them out with data.shards; data.columns says which members are meant."


def webdataset(
    root: str | Path,
    cache: str | Path,
    labels: Labels | None = None,
    shards: Mapping[str, str | None] | None = None,
    image_member: str | None = None,
    target_member: str | None = None,
    fields: str | Sequence[str] | None = None,
    group_field: str | None = None,
    classes: Sequence[str] | None = None,
    **division: Any,
) -> Source:
    """-> the images of the shards below `root`, of which all headers are read (or an index of them in `cache`).

    shards: train, val, test -> a pattern below `root`, with * ** ? [] and {000..009} or {a,b}; all None: each *.tar, in
    the split of which its name speaks. A path is SHARD/MEMBER. image_member, target_member: what follows the first dot
    of a member's name, None: any image, and cls, txt or json. fields: of the JSON, None: as `labels` calls them.
    classes: the names of the numbers in cls. division: see Division. Raises DataError with all faults: missing,
    compressed or damaged shards, members without a label or image, labels that cannot be read or are not in the list.
    """
    root, how, labels = existing(root), Division(**division), labels or OneClass()
    if fields:
        labels = labels.on([fields] if isinstance(fields, str) else fields)
    if labels.files and not target_member:
        raise DataError(f"data.root={root}: which member is the mask is not said. Set data.columns.target=mask.png.")
    found, parts, times = Found(labels), {}, {}
    reading = _Label(target_member, group_field, labels, tuple(classes or ()))
    for split, names in _shards(root, shards or {}, found).items():
        for shard in names:
            try:
                times[shard] = (root / shard).stat().st_mtime_ns
                entries = index(root / shard, Path(cache))
            except DataError as error:
                found.faults[f"shards that are {error}"].append(shard)
                continue
            for item, part in _items(root, split, shard, entries, image_member, reading, found):
                parts[item.path] = part
                found.add(split, item)
            if labels.files:
                parts |= {f"{shard}/{name}": Part(shard, start, size) for name, start, size in entries}
    return found.source(Shards(root, times, parts), how, REMEDY)


def _shards(root: Path, patterns: Mapping[str, str | None], found: Found) -> dict[str, list[str]]:
    """split -> the shards in it; what is missing or unclear becomes a fault."""
    chosen: dict[str, list[str]] = defaultdict(list)
    for split, pattern in patterns.items():
        for one in expanded(pattern) if pattern else ():
            there = _matching(root, one)
            if not there:
                found.faults[f"no such shard (data.shards.{split})"].append(one)
            chosen[split] += there
    if not any(patterns.values()):
        every = sorted(f.relative_to(root).as_posix() for f in root.rglob("*") if f.name.lower().endswith(ARCHIVES))
        if not every:
            raise DataError(f"data.root={root}: there is no .tar below it. Name the folder of the shards.")
        named, unclear = by_name(every)
        chosen.update(named)
        if unclear:
            found.faults["shards of no split, or of several, by their names (set data.shards.train)"] += unclear
    twice = {name for names in chosen.values() for name in names if sum(name in other for other in chosen.values()) > 1}
    if twice:
        found.faults["shards in several splits"] += sorted(twice)
    return {split: list(dict.fromkeys(names)) for split, names in chosen.items()}


def _matching(root: Path, pattern: str) -> list[str]:
    if pattern.startswith(("/", "~")) or ".." in pattern.split("/"):
        return []
    return sorted(file.relative_to(root).as_posix() for file in root.glob(pattern) if file.is_file())


def expanded(pattern: str) -> list[str]:
    """As a shell does: a-{08..10}.tar -> a-08.tar, a-09.tar, a-10.tar; {a,b}.tar -> a.tar, b.tar."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if not braces:
        return [pattern]
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", braces[1]):
        low, high = numbers.groups()
        width = max(len(low), len(high)) if "0" in (low[0], high[0]) else 0
        parts = [f"{number:0{width}d}" for number in range(int(low), int(high) + 1)]
    else:
        parts = braces[1].split(",")
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return [whole for part in parts for whole in expanded(f"{before}{part}{after}")]


def _items(
    root: Path, split: str, shard: str, entries: list[Entry], wanted: str | None, label: _Label, found: Found
) -> Iterator[tuple[Item, Part]]:
    """The samples of one shard; those that are not whole become faults."""
    samples: dict[str, dict[str, Entry]] = defaultdict(dict)
    for entry in entries:
        where, base = posixpath.split(entry[0])
        stem, dot, extension = base.partition(".")
        if not stem or not dot:
            continue  # hidden, or what the convention leaves out
        sample = samples[posixpath.join(where, stem)]
        if extension.lower() in sample:
            found.faults["members that occur twice"].append(f"{shard}/{entry[0]}")
        sample[extension.lower()] = entry
    handle = os.open(root / shard, os.O_RDONLY)
    try:
        for key, sample in samples.items():
            images = [wanted] if wanted else [e for e in sample if _is_image(e) and e != label.member]
            if len(images) != 1 or images[0] not in sample:
                which = "several images (set data.columns.image)" if len(images) > 1 else f"no {wanted or 'image'}"
                found.faults[f"samples with {which}"].append(f"{shard}/{key}.{','.join(sample)}")
                continue
            name, start, size = sample[images[0]]
            try:
                cells, group = label(sample, shard, lambda at: os.pread(handle, at[2], at[1]))
            except DataError as error:
                found.faults[str(error)].append(f"{shard}/{key}")
                continue
            if cells is None and split != "test":
                found.faults[f"samples without a label ({label.member or ', '.join(LABELS)})"].append(f"{shard}/{key}")
                continue
            yield Item(f"{shard}/{name}", cells or label.blank, group), Part(shard, start, size)
    finally:
        os.close(handle)


def _is_image(extension: str) -> bool:
    return f".{extension.rpartition('.')[2]}" in EXTENSIONS


class _Label:
    """(members of a sample, its shard, reader) -> the cells of its label, and its group. None: it has no label."""

    def __init__(self, member: str | None, group: str | None, labels: Labels, classes: tuple[str, ...]):
        self.member, self.group, self.labels, self.classes = member, group, labels, classes
        self.separator = getattr(labels, "separator", None)
        self.blank = ("",) * len(labels.columns)

    def __call__(
        self, sample: Mapping[str, Entry], shard: str, read: Callable[[Entry], bytes]
    ) -> tuple[Cells | None, str | None]:
        group = self._group(sample, read) if self.group else None
        member = self.member or next((name for name in LABELS if name in sample), "")
        if member not in sample:
            return None, group
        if self.labels.files:
            return (f"{shard}/{sample[member][0]}",), group
        text = _text(read(sample[member]))
        if member.rpartition(".")[2] == "json":
            record = _record(text)
            if all(record.get(name) is None for name in self.labels.columns):
                raise DataError(f"JSON without {shorten(self.labels.columns)} (set data.fields; it has {list(record)})")
            cells = tuple(cell(record.get(name), self.separator or "|") for name in self.labels.columns)
        else:
            cells = tuple(re.split(r"[\s,;]+", text)) if len(self.blank) > 1 else (text,)
        if len(cells) != len(self.blank):
            raise DataError(f"not {len(self.blank)} numbers in {member}")
        return tuple(self._named(one) for one in cells), group

    def _named(self, text: str) -> str:
        if not self.classes or not text:
            return text
        parts = text.split(self.separator) if self.separator else [text]
        return (self.separator or "").join(self._class(part.strip()) for part in parts)

    def _class(self, text: str) -> str:
        if text in self.classes:
            return text
        if text.isdecimal() and int(text) < len(self.classes):
            return self.classes[int(text)]
        raise DataError(f"label {text!r}, which data.classes, 0 to {len(self.classes) - 1}, does not name")

    def _group(self, sample: Mapping[str, Entry], read: Callable[[Entry], bytes]) -> str:
        group = cell(_record(_text(read(sample["json"]))).get(self.group)) if "json" in sample else ""
        if not group:
            raise DataError(f"no {self.group} in the JSON (data.group)")
        return group


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise DataError("a label that is not UTF-8") from None


def _record(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DataError("JSON that is no record")
    return found
