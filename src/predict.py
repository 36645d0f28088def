"""Predicts with a finished run, without Hydra or Lightning: python -m src.predict RUN_DIR IMAGE|DIR|TABLE.csv."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from src import folder, tables, world
from src.contracts import ConfigError, DataError
from src.data.images import EXTENSIONS
from src.data.masks import painted
from src.data.table import rows
from src.doors import opened
from src.names import refuse_undecodable
from src.partial import Partial
from src.predictor import Predictor, Row, Seen
from src.progress import Progress

OURS = {"prediction", "prob", "area", "nearest"}  # columns of which a table has one only if a prediction wrote it
AHEAD = 2  # batches that are decoded while one is in the network


def images(where: str, column: str) -> list[Path]:
    """The files that are meant: one image, all images below a folder, or a column of a table (beside the images)."""
    path = Path(where).expanduser()
    if not path.exists():
        raise DataError(f"IMAGES={where}: there is no such file or folder. Nothing was written.")
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and not _hidden(p, path))
    elif path.suffix.lower() in (".csv", ".tsv", ".parquet", ".pq"):
        lines = rows(path)
        _, header = next(lines, (1, []))
        if column not in header:
            raise DataError(
                f"{path} has no column {column}; it has: {', '.join(header)}.\nName one with --path-column."
            )
        place = header.index(column)
        found = [path.parent / cells[place] for _, cells in lines if len(cells) > place]
    else:
        found = [path]
    if not found:
        raise DataError(f"{where} holds no image ({' '.join(sorted(EXTENSIONS))}).\nName a file, a folder or a table.")
    return found


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(root).parts)


def ahead(predictor: Predictor, paths: Sequence[Path], workers: int) -> Iterator[list[Seen | str]]:
    """The images of each batch, decoded by threads (Pillow and torchvision let go of the GIL) before they are asked
    for; or why one cannot be read."""

    def see(path: Path) -> Seen | str:
        try:
            return predictor.see(path)
        except DataError as error:
            return str(error)

    size, pool = predictor.batch_size, ThreadPoolExecutor(workers)
    waiting: deque = deque()
    try:
        for start in range(0, len(paths) + AHEAD * size, size):
            waiting.append([pool.submit(see, path) for path in paths[start : start + size]])
            if len(waiting) > AHEAD:
                yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


def predict(
    run_dir: str,
    where: str,
    out: str,
    batch_size: int = 64,
    column: str = "path",
    workers: int | None = None,
    fresh: bool = False,
) -> int:
    """Writes a row for each image into the table `out`; the exit code is 3 if some images could not be read.

    Killed, it goes on where it was when it is asked for the same again, unless `fresh`.
    """
    file = Path(out) / "predictions.csv" if Path(out).is_dir() else Path(out)
    file = file if file.suffix else file.with_suffix(".csv")
    tables.check(file)
    _refuse_other(file, Path(where).expanduser())
    predictor, paths = Predictor.load(run_dir, batch_size=batch_size), images(where, column)
    refuse_undecodable(where, map(str, paths))
    if predictor.task.embeds:
        _refuse_array(file)
    masks = _masks(paths, Path(where).expanduser(), file.with_suffix("")) if predictor.task.dense else []
    names = hashlib.sha256("\n".join(map(str, paths)).encode(errors="surrogateescape")).hexdigest()
    said = json.dumps(predictor.facts, sort_keys=True).encode()  # the weights by their sha256, and the calibration
    changed = Path(run_dir).stat().st_mtime_ns if run_dir.endswith(".ckpt") else 0
    asked = {"model": f"{hashlib.sha256(said).hexdigest()} {changed}", "images": names}
    with Partial(file.with_name(f".{file.name}.tmp"), asked, batch_size, len(paths), fresh) as part:
        if part.note:
            print(part.note, file=sys.stderr)
        progress, at = Progress(len(paths), part.begun), part.begun
        for seen in ahead(predictor, paths[at:], workers or world.cores()):
            part.add(_told(predictor, seen, paths[at : at + len(seen)], masks[at : at + len(seen)]))
            at += len(seen)
            progress.show(at)
        bad = [row["bad"] for row in part.rows() if "bad" in row]
        if len(bad) < len(paths):
            _write(predictor, part, file)
    if len(bad) == len(paths):
        raise DataError("None of the images could be read; nothing was written.\n" + "\n".join(bad[:20]))
    if bad:
        print(*bad, f"{len(bad)} files could not be read and are left out.", sep="\n", file=sys.stderr)
    return 3 if bad else 0


def _refuse_other(file: Path, where: Path) -> None:
    """ConfigError where a table that no prediction has written, or that of the images, would be lost."""
    if not file.is_file():
        return
    if where.is_file() and file.samefile(where):
        raise ConfigError(f"--out {file}: that is the table of the images itself.\nName another file.")
    head = tables.columns(file)
    if head and (head[0] != "path" or not {name.partition("/")[0] for name in head} & OURS):
        raise ConfigError(
            f"--out {file}: there is a table of something else, with the columns {', '.join(head[:8])}.\n"
            "Name another file, or remove this one."
        )


def _refuse_array(file: Path) -> None:
    """ConfigError where an array that is not of the embeddings named in `file` would be lost."""
    array = file.with_suffix(".npy")
    if array.is_file() and not (file.is_file() and "nearest" in tables.columns(file)):
        raise ConfigError(
            f"--out {file}: the embeddings would go into {array}, which is there, and no table of embeddings beside "
            "it.\nName another file, or remove this one."
        )


def _told(predictor: Predictor, seen: list[Seen | str], paths: list[Path], masks: list[Path]) -> list[Row]:
    """What is kept of one batch: plain rows, and masks as files."""
    found = [one for one in seen if isinstance(one, Seen)]
    answers, told = iter(predictor.answer(found) if found else []), []
    for i, (one, path) in enumerate(zip(seen, paths, strict=True)):
        row: Row = {"path": str(path), **({"bad": one} if isinstance(one, str) else next(answers))}
        if "mask" in row:
            row["mask"] = str(_paint(predictor, row["mask"], masks[i]))
        if "embedding" in row:
            row["embedding"] = row["embedding"].tolist()
        told.append(row)
    return told


def _masks(paths: list[Path], where: Path, out: Path) -> list[Path]:
    """Where the mask of each image goes; ConfigError where images lie, which would be lost or taken for images."""
    above = where if where.is_dir() else where.parent
    found = folder.pictures(out, (path.relative_to(above) if path.is_relative_to(above) else path for path in paths))
    real, images = out.resolve(), {path.resolve() for path in paths}
    if (where.is_dir() and real.is_relative_to(above.resolve())) or any(file.resolve() in images for file in found):
        raise ConfigError(
            f"--out: the masks would go into {out}, where the images of {where} are.\n"
            "Name a table elsewhere: its folder of masks is called as it is, without the end."
        )
    return found


def _paint(predictor: Predictor, mask: np.ndarray, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    values = predictor.facts["labels"]["values"]
    painted(torch.from_numpy(mask).long(), [values[name] for name in predictor.classes]).save(file)
    return file


def _write(predictor: Predictor, part: Partial, file: Path) -> None:
    """The table, beside embeddings as a .npy array; and a part of it on the screen."""

    def good() -> Iterator[Row]:
        return (row for row in part.rows() if "bad" not in row)

    if predictor.task.embeds:
        count = _compare(predictor, list(good()), file)
        print(
            f"{count} embeddings of {predictor.network.outputs} numbers in {file.with_suffix('.npy')}, named in {file}"
        )
        return
    count = tables.write(file, good())
    for _, row in zip(range(10), good(), strict=False):
        print("  ".join(_said(key, value, row) for key, value in row.items() if not key.startswith(("prob/", "area/"))))
    if count > 10:
        print(f"… and {count - 10} more")
    masks = f"masks in {file.with_suffix('')}/, what they cover"
    print(f"{count} {masks if predictor.task.dense else 'predictions'} in {file}")


def _compare(predictor: Predictor, found: list[Row], file: Path) -> int:
    """Writes the embeddings beside a table of the nearest other image of each: rows in the same order."""
    embeddings = torch.tensor([row["embedding"] for row in found])
    array, told = io.BytesIO(), []
    np.save(array, embeddings.numpy(), allow_pickle=False)
    for row, near in zip(found, predictor.task.decode(embeddings), strict=True):
        other = near["nearest"]
        beside = {"nearest": "", "similarity": ""} if other is None else {**near, "nearest": found[other]["path"]}
        told.append({"path": row["path"], **beside})
    count = tables.write(file, told)  # first: it says whose the array is, where this is killed between them
    folder.write(file.with_suffix(".npy"), array.getvalue())
    return count


def _said(key: str, value: object, row: Row) -> str:
    """On the screen: short, and without what a terminal would obey."""
    said = f"{value:.4g}" if isinstance(value, float) else str(value)
    said = "".join(c if c.isprintable() else " " for c in said)
    said = said if len(said) <= 100 or key == "path" else f"{said[:99]}…"
    said += f"  {row[f'prob/{value}']:.3f}" if key == "prediction" and f"prob/{value}" in row else ""
    return said if key in ("path", "prediction") else f"{key} {said}"


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m src.predict", description=__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR", help="a finished run, its model/ folder alone, or a .ckpt file")
    parser.add_argument("images", metavar="IMAGES", help="an image, a folder, or a table with a column `path`")
    parser.add_argument("--out", default="predictions.csv", help="where the table goes: .csv or .parquet (%(default)s)")
    parser.add_argument("--path-column", default="path", help="the table's column of files (%(default)s)")
    parser.add_argument("--batch-size", type=_count, default=64, help="images a pass (%(default)s)")
    parser.add_argument("--workers", type=_count, help="threads that decode (as many as there are cores)")
    parser.add_argument(
        "--fresh", action="store_true", help="begin anew; else a prediction that was killed goes on where it was"
    )
    words = parser.parse_args()
    world.use_cores()
    options = words.out, words.batch_size, words.path_column, words.workers, words.fresh
    return opened(lambda: predict(words.run_dir, words.images, *options), "The same command goes on.")


if __name__ == "__main__":
    sys.exit(main())
