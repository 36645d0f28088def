"""Data sets of Hugging Face's `datasets` on the local disk: a `save_to_disk` folder, or Parquet or Arrow files.

Their bytes are not copied into files: rows are read at random from the mapped Arrow files. Parquet, which must be read
from its beginning, is rewritten as Arrow once, into the cache. Needs pyarrow, not `datasets` itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.contracts import ConfigError, DataError, Source
from src.data.arrow import Tables, opened
from src.data.cells import cell
from src.data.folder import existing
from src.data.found import Found, by_name
from src.data.split import NAMES, UNDIVIDED, Division, Item
from src.labels import Labels, OneClass
from src.names import shorten

SAVE = "python -c \"from datasets import load_dataset; load_dataset('NAME').save_to_disk('DIR')\""
USUAL = {"target": ["label", "fine_label", "class"], "labels": ["label"], "mask": ["label", "annotation"]}
ROWS = 256  # of a Parquet file, that are in memory together


def huggingface(
    root: str | Path,
    cache: str | Path,
    labels: Labels | None = None,
    image_column: str | None = None,
    target_column: str | Sequence[str] | None = None,
    group_column: str | None = None,
    **division: Any,
) -> Source:
    """-> the images of the data set in the folder `root`; a path is SPLIT/ROW.COLUMN.

    Splits are those that were saved; of Parquet or Arrow files those of which their names speak, as train-00000.parquet
    does. image_column, None: the only one with images. target_column, None: as `labels` calls it, or label. The names
    of a ClassLabel are the classes, and its -1 is no label. division: see Division. Raises ConfigError without pyarrow;
    DataError where there is no data set or column, and with all rows that lack an image or a label that can be read.
    """
    _need_pyarrow()
    root, how, labels = existing(root), Division(**division), labels or OneClass()
    found, tables, notes = Found(labels), {}, []
    for split, files in _files(root).items():
        name = split if split == UNDIVIDED else NAMES.get(split.lower())
        if name is None:
            notes.append(f"Left out the split {split!r}, which is none of train, val and test.")
        elif name in tables:
            raise DataError(f"data.root={root}: {split!r} and another split both mean {name}. Save one of them.")
        else:
            tables[name] = tuple(str(_as_arrow(file, Path(cache))) for file in files)
    if not tables:
        raise DataError(f"data.root={root}: no split is called train, val or test. {' '.join(notes)}")
    for split, files in tables.items():
        table = _open(files)
        names = _Columns(root, table, labels, image_column, target_column)
        found.labels = labels = names.labels
        _collect(split, table, names, group_column, found)
    time = max((os.stat(file).st_mtime_ns for files in tables.values() for file in files), default=0)
    remedy = "Correct the rows, or say with data.columns which columns are meant."
    return found.source(Tables(root, tables, time), how, remedy, notes)


def _need_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            "data=huggingface needs pyarrow, which is not installed.\nInstall it with `pip install pyarrow`."
        ) from error


def _files(root: Path) -> dict[str, list[Path]]:
    """split -> its files, in their order."""
    if (root / "dataset_dict.json").is_file():
        splits = json.loads((root / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        return {split: _saved(root / split) for split in splits}
    if (root / "state.json").is_file():
        return {UNDIVIDED: _saved(root)}
    every = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.suffix in (".parquet", ".arrow"))
    if not every:
        raise DataError(
            f"data.root={root}: holds no data set: neither what `save_to_disk` writes (dataset_dict.json or state.json)"
            f" nor .parquet or .arrow files.\nOne of the hub is put into a folder by {SAVE}."
        )
    named, unclear = by_name(every)
    if unclear:
        raise DataError(
            f"data.root={root}: of which split is not told by the names of {shorten(unclear)}, though others tell.\n"
            "Name each file as train-00000.parquet, or none of them."
        )
    return {split: [root / path for path in paths] for split, paths in named.items()}


def _saved(folder: Path) -> list[Path]:
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        files = [folder / one["filename"] for one in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: its state.json is missing or damaged ({error}). Save the data set again.") from None
    if not files:
        raise DataError(f"{folder}: its state.json names no file. Save the data set again.")
    if missing := [file.name for file in files if not file.is_file()]:
        raise DataError(f"{folder}: {shorten(missing)} of its files are missing. Save the data set again.")
    return files


def _as_arrow(file: Path, cache: Path) -> Path:
    if file.suffix != ".parquet":
        return file
    import pyarrow
    from pyarrow import parquet

    status = file.stat()
    known = repr((os.path.realpath(file), status.st_size, status.st_mtime_ns))
    kept = cache / "arrow" / f"{hashlib.sha256(known.encode()).hexdigest()}.arrow"
    if kept.is_file():
        return kept
    part = kept.with_suffix(f".{os.getpid()}.tmp")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with (
            parquet.ParquetFile(file) as source,
            pyarrow.OSFile(str(part), "wb") as out,
            pyarrow.ipc.new_stream(out, source.schema_arrow) as stream,
        ):
            for batch in source.iter_batches(ROWS):
                stream.write_batch(batch)
        os.replace(part, kept)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(file, error) from error
    finally:
        part.unlink(missing_ok=True)
    return kept


def _open(files: tuple[str, ...]) -> Any:
    import pyarrow

    try:
        return opened(files)
    except (pyarrow.ArrowException, OSError) as error:
        first, *more = map(Path, files)
        raise _damaged(first.parent if more else first, error) from error


def _damaged(file: Path, error: Exception) -> DataError:
    reason = str(error).split("\n")[0]
    return DataError(f"{file}: cannot be read as Parquet or Arrow, or rewritten in paths.cache ({reason}). Mend that.")


class _Columns:
    """Which columns of a table are meant, and what their values say."""

    def __init__(self, root: Path, table: Any, labels: Labels, image: str | None, target: str | Sequence[str] | None):
        there, said = table.column_names, json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        self.features: Mapping[str, Any] = said.get("info", {}).get("features", {})
        targets = [target] if isinstance(target, str) else list(target or labels.columns)
        if not target and len(targets) == 1 and targets[0] not in there:
            usual = [*USUAL.get(targets[0], []), "labels"]
            targets = [next((name for name in usual if name in there), targets[0])]
        images = [image] if image else [f.name for f in table.schema if _holds_images(f.type) and f.name not in targets]
        self.images, self.labels = images, labels.on(targets)
        if missing := [name for name in (*images, *targets) if name not in there]:
            raise DataError(
                f"data.root={root}: no column {shorten(missing)}. Its columns: {', '.join(there)}.\n"
                "Set data.columns.image and data.columns.target to two of them."
            )
        if len(images) != 1:
            what = f"several columns have images: {shorten(images)}" if images else f"none of {', '.join(there)} has"
            raise DataError(f"data.root={root}: {what} images.\nSet data.columns.image to the one that is meant.")
        self.image = images[0]
        self.names = {name: _names(self.features.get(name)) for name in targets}
        self.separator = getattr(labels, "separator", "|")

    def text(self, column: str, value: Any) -> str:
        names = self.names[column]
        return cell(value if names is None else _named(value, names), self.separator)


def _holds_images(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return types.is_binary(kind) or types.is_large_binary(kind)


def _names(feature: Any) -> list[str] | None:
    """Of a ClassLabel, or of a list of them."""
    if isinstance(feature, list):
        return _names(feature[0])
    if not isinstance(feature, Mapping):
        return None
    return feature["names"] if feature.get("_type") == "ClassLabel" else _names(feature.get("feature"))


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    if value is None or value == -1:
        return None
    if not 0 <= value < len(names):
        raise DataError(f"label {value}, which is none of the {len(names)} names of its ClassLabel")
    return names[value]


def _collect(split: str, table: Any, names: _Columns, group: str | None, found: Found) -> None:
    if group and group not in table.column_names:
        raise DataError(f"data.group={group}: there is no such column, but {', '.join(table.column_names)}.")
    groups = [cell(value) for value in table.column(group).to_pylist()] if group else [None] * len(table)
    said = {name: _there(table, name) if names.labels.files else table.column(name).to_pylist() for name in names.names}
    for row, image in enumerate(_there(table, names.image)):
        place = f"{split}/{row:06d}"
        if not image or groups[row] == "":
            found.faults["rows without an image" if not image else f"rows without {group} (data.group)"].append(place)
            continue
        try:
            if names.labels.files:
                cells = tuple(f"{place}.{name}" if there[row] else "" for name, there in said.items())
            else:
                cells = tuple(names.text(name, values[row]) for name, values in said.items())
        except DataError as error:
            found.faults[str(error)].append(place)
            continue
        found.add(split, Item(f"{place}.{names.image}", cells, groups[row]))


def _there(table: Any, name: str) -> list[bool]:
    """Whether each row has something in this column of images."""
    from pyarrow import compute, types

    column = table.column(name)
    if not types.is_struct(column.type):
        return column.is_valid().to_pylist()
    fields = [compute.struct_field(column, [i]) for i in range(column.type.num_fields)]
    return [any(row) for row in zip(*(field.is_valid().to_pylist() for field in fields), strict=True)]
