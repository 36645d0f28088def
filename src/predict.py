"""Predicts with a finished run, without Hydra or Lightning: python -m src.predict RUN_DIR IMAGE|DIR|TABLE.csv."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from src import decisions, folder
from src.contracts import ConfigError, DataError
from src.data.images import EXTENSIONS, read
from src.data.table import rows
from src.data.transforms import evaluation
from src.factory import make
from src.models.network import Network, load_model


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


def answers(
    network: Network, paths: Iterable[Path], resize: str, batch_size: int, bad: list[str]
) -> Iterator[tuple[Path, torch.Tensor, torch.Tensor]]:
    """(path, logits (outputs,), features) of each readable image; the others are described in `bad`."""
    view = evaluation(network.spec, resize)
    waiting: list[tuple[Path, torch.Tensor]] = []

    def flush() -> Iterator[tuple[Path, torch.Tensor, torch.Tensor]]:
        batch = torch.stack([image for _, image in waiting]).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            logits, features = (part.float().cpu() for part in network.both(batch.to(network.mean.device)))
        yield from zip([path for path, _ in waiting], logits, features, strict=True)

    for path in paths:
        try:
            waiting.append((path, view(read(path, network.spec.channels))))
        except DataError as error:
            bad.append(str(error))
            continue
        if len(waiting) >= batch_size:
            yield from flush()
            waiting.clear()
    if waiting:
        yield from flush()


def predict(run_dir: str, where: str, out: str, batch_size: int = 64, column: str = "path") -> int:
    """Writes path, prediction and what else the task says, and returns the exit code: 3 if some images could not be
    read."""
    network, facts = load_model(Path(run_dir) if run_dir.endswith(".ckpt") else Path(run_dir) / "model")
    network.to("cuda" if torch.cuda.is_available() else "cpu").to(memory_format=torch.channels_last)
    paths, bad = images(where, column), list[str]()
    if facts["dense"]:
        return draw(network, facts, paths, Path(where).expanduser(), Path(out).with_suffix(""))
    task = make(facts["task"])(classes=tuple(facts["classes"]))
    if not Path(out).absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {Path(out).absolute().parent}. Make it first.")
    if task.embeds:
        return compare(task, answers(network, paths, facts["resize"], batch_size, bad), bad, Path(out))
    part = Path(out).with_name(f".{Path(out).name}.tmp")
    with part.open("w", encoding="utf-8", newline="") as stream:
        writer, shown, saved = None, [], decisions.load(Path(run_dir) / "model", facts)
        for path, logits, features in answers(network, paths, facts["resize"], batch_size, bad):
            said = task.decode(decisions.scaled(saved, logits[None]), **facts.get("tuned", {}))[0]
            row = {"path": path, **said, **decisions.apply(saved, logits[None], features[None])[0]}
            if writer is None:
                writer = csv.DictWriter(stream, list(row))
                writer.writeheader()
            writer.writerow(row)
            shown.append("  ".join(_said(key, value, row) for key, value in row.items() if not key.startswith("prob/")))
    if not shown:
        part.unlink()
        raise DataError("None of the images could be read; nothing was written.\n" + "\n".join(bad[:20]))
    part.replace(out)
    folder.sync(Path(out).absolute().parent)
    print("\n".join(shown[:10] + ([f"… and {len(shown) - 10} more"] if len(shown) > 10 else [])))
    print(f"{len(shown)} predictions in {out}")
    if bad:
        print(f"{len(bad)} files could not be read and are left out:\n" + "\n".join(bad[:20]), file=sys.stderr)
    return 3 if bad else 0


def compare(task: Any, found: Iterable[tuple[Path, torch.Tensor, torch.Tensor]], bad: list[str], out: Path) -> int:
    """Writes the embeddings, of length 1, beside a table of the nearest other image of each: rows in the same order."""
    pairs = list(found)
    if not pairs:
        raise DataError("None of the images could be read; nothing was written.\n" + "\n".join(bad[:20]))
    paths, embeddings = [path for path, *_ in pairs], normalize(torch.stack([z for _, z, _ in pairs]), dim=1)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["path", "nearest", "similarity"])
    for path, row in zip(paths, task.decode(embeddings), strict=True):
        other = row["nearest"]
        writer.writerow([path, *(("", "") if other is None else (paths[other], row["similarity"]))])
    array = io.BytesIO()
    np.save(array, embeddings.numpy(), allow_pickle=False)
    folder.write(out.with_suffix(".npy"), array.getvalue())
    folder.write(out, text.getvalue())
    print(f"{len(paths)} embeddings of {embeddings.shape[1]} numbers in {out.with_suffix('.npy')}, named in {out}")
    if bad:
        print(f"{len(bad)} files could not be read and are left out:\n" + "\n".join(bad[:20]), file=sys.stderr)
    return 3 if bad else 0


def draw(network: Network, facts: dict[str, Any], paths: list[Path], where: Path, out: Path) -> int:
    """Writes a mask for each image, in its size, into the folder `out`."""
    from src.data.masks import painted
    from src.stages.draw import answer, place

    values, bad, above = facts["labels"]["values"], [], where if where.is_dir() else where.parent
    view = evaluation(network.spec, facts["resize"])
    for path in paths:
        try:
            image = read(path, network.spec.channels)
            found = answer(network, view(image), image.shape[-2:])
        except DataError as error:
            bad.append(str(error))
            continue
        file = place(out, path.relative_to(above).as_posix())
        file.parent.mkdir(parents=True, exist_ok=True)
        painted(found, [values[name] for name in facts["classes"]]).save(file)
    if len(bad) == len(paths):
        raise DataError("None of the images could be read; nothing was written.\n" + "\n".join(bad[:20]))
    print(f"{len(paths) - len(bad)} masks in {out}/")
    if bad:
        print(f"{len(bad)} files could not be read and are left out:\n" + "\n".join(bad[:20]), file=sys.stderr)
    return 3 if bad else 0


def _said(key: str, value: object, row: dict[str, Any]) -> str:
    if f"prob/{value}" in row:
        return f"{value}  {row[f'prob/{value}']:.3f}"
    said = f"{value:.4g}" if isinstance(value, float) else str(value)
    return said if key in ("path", "prediction") else f"{key} {said}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m src.predict", description=__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR", help="a run folder whose stage `select` is done, or a .ckpt file")
    parser.add_argument("images", metavar="IMAGES", help="an image, a folder, or a table with a column `path`")
    parser.add_argument("--out", default="predictions.csv", help="where the table goes (default: %(default)s)")
    parser.add_argument("--path-column", default="path", help="the table's column of files (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64)
    words = parser.parse_args()
    try:
        return predict(words.run_dir, words.images, words.out, words.batch_size, words.path_column)
    except (ConfigError, DataError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 3


if __name__ == "__main__":
    sys.exit(main())
