"""Merges the folds of a sweep, without Hydra or Lightning: python -m src.merge SWEEP_DIR after -m data.fold=0,1,2,3,4.

Writes SWEEP_DIR/merged/: oof.csv (each image of train and val, by the model that did not learn it), predictions.csv (of
test, the mean over the folds), metrics.json (both, and the mean over the folds with its 95 % interval). Embeddings and
masks have metrics.json alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from src import few, folder, tables
from src.contracts import ConfigError, DataError
from src.doors import opened
from src.factory import LABELS, TASK, make_within
from src.finished import logits, unfinished
from src.tables import read

Row = dict[str, str]


def runs(sweep: Path) -> list[Path]:
    """The run folders in it that were finished; one a fold."""
    found = []
    for run in sorted(file.parents[1] for file in sweep.glob("*/model/model.json")):
        if why := unfinished(run):
            print(f"left out: {run}: {why} (python train.py resume={run})", file=sys.stderr)
        else:
            found.append(run)
    if len(found) < 2:
        raise ConfigError(
            f"{sweep} holds {len(found)} finished run(s) with a model; folds to merge are two or more.\n"
            "Name the folder above the runs, as logs/NAME after `train.py -m name=NAME data.fold=0,1,2,3,4`."
        )
    return found


def averaged(folds: list[torch.Tensor], task: Any) -> torch.Tensor:
    """Probabilities are averaged, and numbers."""
    if task.parts:
        return torch.cat([_averaged([found[:, p.columns] for found in folds], p.target) for p in task.parts], 1)
    return _averaged(folds, task.target)


def _averaged(parts: list[torch.Tensor], target: str) -> torch.Tensor:
    if target == "class":
        return torch.stack([part.softmax(1) for part in parts]).mean(0).clamp(min=1e-12).log()
    if target == "labels":
        return torch.stack([part.sigmoid() for part in parts]).mean(0).logit()
    return torch.stack(parts).mean(0)


def merge(sweep: Path) -> dict[str, float]:
    """Of embeddings and masks only the metrics: two embeddings have no mean, and the masks of val are not kept."""
    folds = runs(sweep)
    facts = [folder.model_json(fold / "model") for fold in folds]
    first = facts[0]
    for fold, other in zip(folds, facts, strict=True):
        if (other["classes"], other["task"]) != (first["classes"], first["task"]):
            raise ConfigError(f"{fold} has other classes or another task than {folds[0]}. Merge runs of one sweep.")
    _refuse_overlaps(folds)
    asked = folder.RunFolder(folds[0]).words()["data"].get("folds") or len(folds)
    if len(folds) < asked:
        print(f"{len(folds)} of {asked} folds are here: the images that the others hold out are missing", flush=True)
    task, said, out = make_within(first["task"], TASK)(classes=tuple(first["classes"])), over(folds), sweep / "merged"
    out.mkdir(exist_ok=True)
    if not (task.embeds or task.dense):
        labels, tuned = make_within(first["labels"], LABELS), _mean([fact.get("tuned", {}) for fact in facts])
        held = [read(fold / "predictions_val.csv") for fold in folds]
        each = torch.cat([logits(rows, task, fact) for rows, fact in zip(held, facts, strict=True)])
        found = _write(out / "oof.csv", [row for rows in held for row in rows], each, task, labels, first, tuned)
        said = {f"oof/{key}": value for key, value in found.items()} | said
        if all((fold / "predictions.csv").is_file() for fold in folds):
            tested = [sorted(read(fold / "predictions.csv"), key=lambda row: row["path"]) for fold in folds]
            if len({tuple(row["path"] for row in rows) for rows in tested}) > 1:
                raise DataError(f"{sweep}: the folds were tested on different images. Merge runs of one sweep.")
            parts = [logits(rows, task, fact) for rows, fact in zip(tested, facts, strict=True)]
            found = _write(out / "predictions.csv", tested[0], averaged(parts, task), task, labels, first, tuned)
            said |= {f"test/{key}": value for key, value in found.items()}
    folder.write(out / "metrics.json", json.dumps(said, indent=1))
    return said


def _refuse_overlaps(folds: list[Path]) -> None:
    seen: dict[str, Path] = {}
    for fold in folds:
        mine = [row["path"] for row in read(fold / "split.csv", ("path", "split")) if row["split"] == "val"]
        if twice := next((path for path in mine if path in seen), None):
            raise DataError(
                f"{twice} is in val of {seen[twice]} and of {fold}: these are not folds of one division.\n"
                "Name a folder that holds one run for each data.fold, of one data.split_seed."
            )
        seen |= dict.fromkeys(mine, fold)


def over(folds: list[Path]) -> dict[str, float]:
    """The mean of each metric over the folds, and its 95 % interval."""
    said, found = {}, [json.loads((fold / "metrics.json").read_text(encoding="utf-8")) for fold in folds]
    for key in sorted(set.intersection(*(set(folder.measured(metrics)) for metrics in found))):
        if None not in (values := [metrics[key] for metrics in found]):
            said |= few.bounds(f"folds/{key}", values)
    return said


def _mean(tuned: list[dict[str, Any]]) -> dict[str, Any]:
    """What was tuned in each fold, on average."""
    found = {}
    for key in (key for key in tuned[0] if all(key in t for t in tuned)):
        values = [t[key] for t in tuned]
        found[key] = _mean(values) if isinstance(values[0], dict) else [*map(mean, zip(*values, strict=True))]
    return found


def _write(
    file: Path, rows: list[Row], found: torch.Tensor, task: Any, labels: Any, facts: Any, tuned: dict[str, Any]
) -> dict[str, float]:
    """The table of these images, by their logits `found`; -> its metrics, where there are labels."""
    columns = [key for key in rows[0] if key == "target" or key.startswith("target/")]
    said = task.decode(found, **tuned)
    tables.write(file, ({c: row[c] for c in ("path", *columns)} | more for row, more in zip(rows, said, strict=True)))
    told = [tuple(row[column] for column in columns) for row in rows]
    if any(labels.fault(cells) for cells in told) or not any(map(any, told)):
        return {}
    encode = labels.encoder(tuple(facts["classes"]))
    measured = task.metrics(**tuned)
    measured.update(found, torch.tensor([encode(cells) for cells in told]))
    return {key: float(value) for key, value in measured.compute().items() if not value.isnan()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m src.merge", description=__doc__)
    parser.add_argument("sweep", metavar="SWEEP_DIR", help="the folder that holds the folds' run folders")
    sweep = Path(parser.parse_args().sweep)
    return opened(lambda: show(merge(sweep), sweep / "merged"))


def show(said: dict[str, float], place: Path) -> None:
    told = {
        "oof": "Each image of train and val, by the model that did not learn it:",
        "folds": "The mean over the folds, and its 95 % interval:",
        "test": "The test images, by the mean of all folds' predictions:",
    }
    for key, value in said.items():
        if heading := told.pop(key.partition("/")[0], ""):
            print(f"\n{heading}")
        if not key.endswith(("/low", "/high")):
            low, high = said.get(f"{key}/low"), said.get(f"{key}/high")
            print(f"{key:24} {value:.4f}{'' if low is None else f'  ({low:.4f} – {high:.4f})'}")
    if not any(key.startswith("oof/") for key in said):
        print("Only the metrics are merged: two embeddings have no mean, and the masks of val are not kept.")
    print(f"\nmerged    {place}")


if __name__ == "__main__":
    sys.exit(main())
