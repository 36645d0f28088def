"""Each technique on top of the default, with the schedule that it had before this table, the cosine one: `python
benchmarks/techniques.py --data DIR --weights FILE`.

DIR holds weather/, signs/, clothing/ as {train,…}/CLASS/*.jpg, FILE is of MobileNetV2-1.0. A run has 400 training
images of one set (as many of each class; 15 % of them are val), 8 epochs at 96 px, and is tested on up to 1,000 of the
set's other images. One json line a run in --out; runs that are there already are not repeated, so it can be stopped
at any time. The table, by `--table`, has the mean difference to it on the same images, its standard error over
sets and seeds, and the cost: for the model that the run chose, and for its trained head alone (average of the weights).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
from collections import defaultdict
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from runs import ROOT, read

SETS = ("weather", "signs", "clothing")
IMAGES, MOST = 400, 1_000  # that are trained on, and tested on
BASE = "scheduler=cosine"  # what the others are compared with
TECHNIQUES: dict[str, list[str]] = {
    BASE: [BASE],
    "start=random": ["start=random"],
    # losses
    "no label smoothing": ["loss.label_smoothing=0"],
    "loss=focal": ["loss=focal"],
    "loss=poly1": ["loss=poly1"],
    "loss=generalised_ce": ["loss=generalised_ce"],
    "loss=symmetric_ce": ["loss=symmetric_ce"],
    "loss=elr": ["loss=elr"],
    # optimizers and schedules
    "learning rate x 2": ["optimizer.lr=1e-3"],  # the recipe gives these runs 5e-4
    "learning rate / 2": ["optimizer.lr=2.5e-4"],
    "optimizer=sgd": ["optimizer=sgd"],
    "optimizer.opt=nadamw": ["optimizer=timm", "optimizer.opt=nadamw"],
    "optimizer.opt=lamb": ["optimizer=timm", "optimizer.opt=lamb", "optimizer.lr=2e-3"],
    "optimizer.opt=lion": ["optimizer=timm", "optimizer.opt=lion", "optimizer.lr=1e-4"],
    "optimizer.opt=muon": ["optimizer=timm", "optimizer.opt=muon"],
    "optimizer=sam": ["optimizer=sam"],
    "optimizer=sam, of norms": ["optimizer=sam", "optimizer.perturb=norm"],
    "scheduler=linear": ["scheduler=linear"],
    "scheduler=one_cycle": ["scheduler=one_cycle"],
    "scheduler=warmup_stable_decay": ["scheduler=warmup_stable_decay"],
    "scheduler=step": ["scheduler=step"],
    "scheduler=constant": ["scheduler=constant"],
    # regularisation
    "no weight decay": ["optimizer.weight_decay=0"],
    "weight decay 0.2": ["optimizer.weight_decay=0.2"],
    "dropout 0.2": ["model.drop_rate=0.2"],
    "drop-path 0.1": ["model.drop_path_rate=0.1"],
    "mix=mixup": ["mix=mixup"],
    "mix=cutmix": ["mix=cutmix"],
    "penalty=l2_sp": ["penalty=l2_sp"],
    "clip by agc": ["trainer.gradient_clip_algorithm=agc", "trainer.gradient_clip_val=0.1"],
    "no clipping": ["trainer.gradient_clip_val=0"],
    "SWA instead of EMA": ["callbacks.ema.last=0.25"],
    # augmentation
    "augment=none": ["augment=none"],
    "augment=light": ["augment=light"],
    "augment=randaug": ["augment=randaug"],
    "augment=augmix": ["augment=augmix"],
    "augment=three_augment": ["augment=three_augment"],
    "data.crop_scale=[1,1]": ["data.crop_scale=[1,1]"],
    "data.resize=crop": ["data.resize=crop"],
    # structure
    "finetune=full": ["finetune=full"],
    "finetune=head": ["finetune=head"],
    "finetune=norm": ["finetune=norm"],
    "finetune=bitfit": ["finetune=bitfit"],
    "finetune=lora": ["finetune=lora"],
    "finetune=stage": ["finetune=stage"],
    "model.batchnorm=train": ["model.batchnorm=train"],
    "model.head=mlp": ["model.head=mlp"],
    "model.head=cosine": ["model.head=cosine"],
    "model.head=bnneck": ["model.head=bnneck"],
    "model.pool=gem": ["model.pool=gem"],
    "model.pool=catavgmax": ["model.pool=catavgmax"],
}


def table(folder: Path, root: Path, seed: int) -> Path:
    """A csv of the set: of all its images as many of each class for training, and others for the test."""
    files: dict[str, list[str]] = defaultdict(list)
    for image in sorted(root.glob("*/*/*")):
        files[image.parent.name].append(image.relative_to(root).as_posix())
    draw, train, most = np.random.default_rng(seed), IMAGES // len(files), MOST // len(files)
    rows = []
    for name, images in files.items():
        drawn = draw.permutation(images).tolist()
        rows += [[path, name, "train"] for path in drawn[:train]]
        rows += [[path, name, "test"] for path in drawn[train : train + most]]
    file = folder / f"{root.name}-{seed}.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "target", "split"], *rows])
    return file


def one(job: tuple[str, list[str], str]) -> dict[str, Any]:
    """One run, in a process that has imported everything already: how it tests, and how its trained head alone does."""
    import runpy

    from src import folder
    from src.build import build
    from src.stages.candidates import restored
    from src.stages.predict import measure, predictions

    name, words, place = job
    home = folder.RunFolder(Path(place))
    screen = home.path.with_suffix(".txt")
    screen.parent.mkdir(parents=True, exist_ok=True)
    with screen.open("w") as stream, redirect_stdout(stream), redirect_stderr(stream):
        sys.argv = ["train.py", *words, f"run_dir={place}"]
        try:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"{name}: {screen} says why") from None
        r = build(home.words(), home)
        alone = measure(r, "test", *predictions(r, restored(r, "ema"), "test")[1:])["test/acc"]
    found, state, usage = home.metrics(), home.state(), resource.getrusage(resource.RUSAGE_SELF)
    shutil.rmtree(home.path)
    return {
        **{"acc": found["test/acc"], "head": alone, "chosen": state["chosen"], "images": found["test/images"]},
        **{"cpu": round(usage.ru_utime + usage.ru_stime, 1), "commit": commit()},
    }


def commit() -> str:
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def paired(rows: list[dict[str, Any]]) -> dict[str, list[tuple[dict[str, Any], dict[str, Any]]]]:
    """Technique, in the order of TECHNIQUES -> its runs, each with the base's on the same images."""
    found = {(row["name"], row["set"], row["seed"]): row for row in rows}
    pairs: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {name: [] for name in TECHNIQUES}
    for (name, *where), row in found.items():
        if name in pairs and (base := found.get((BASE, *where))):
            pairs[name].append((row, base))
    return {name: both for name, both in pairs.items() if both}


def moved(both: list[tuple[dict[str, Any], dict[str, Any]]], what: str) -> tuple[float, float]:
    """(mean difference to the base, in points, its standard error; infinite of one run)"""
    points = [100 * (row[what] - base[what]) for row, base in both]
    return mean(points), stdev(points) / math.sqrt(len(points)) if len(points) > 1 else math.inf


def summary(rows: list[dict[str, Any]]) -> str:
    """Markdown: of each technique the mean difference to the base, in points, with its standard error."""
    lines = [
        f"| technique | chosen model | trained head | {' | '.join(SETS)} | CPU time | runs |",
        f"|---|---|---|{'---|' * len(SETS)}---|---|",
    ]
    for name, both in paired(rows).items():
        sets = [[pair for pair in both if pair[0]["set"] == one] for one in SETS]
        if name == BASE:
            shown = [f"{100 * mean(row[k] for row, _ in both):.1f} %" for k in ("acc", "head")]
            shown += [f"{100 * mean(row['acc'] for row, _ in one):.1f} %" if one else "" for one in sets]
        else:
            shown = [_surely(*moved(both, k)) for k in ("acc", "head")]
            shown += [f"{moved(one, 'acc')[0]:+.1f}" if one else "" for one in sets]
        cost = mean(row["cpu"] / base["cpu"] for row, base in both)
        lines.append(f"| {name} | {' | '.join(shown)} | {cost:.2f} | {len(both)} |")
    return "\n".join(lines)


def _surely(centre: float, error: float) -> str:
    """Mean ± one standard error, which one run has not; bold beyond two."""
    told = f"{centre:+.1f}" + ("" if math.isinf(error) else f" ± {error:.1f}")
    return f"**{told}**" if abs(centre) > 2 * error else told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, default=Path("logs/techniques/techniques.jsonl"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="names, or parts of them, by commas")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    asked = parser.parse_args()
    folder = asked.out.absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    rows = read(asked.out)
    if asked.table:
        print(summary(rows))
        return
    there = {(row["name"], row["set"], row["seed"]) for row in rows}
    names = [name for name in TECHNIQUES if any(part in name for part in asked.only.split(","))]
    keys = [(n, s, seed) for seed in map(int, asked.seeds.split(",")) for n in names for s in SETS]
    keys = [key for key in keys if key not in there]
    jobs = [
        (name, words(asked, name, data, seed), str(folder / "runs" / f"{list(TECHNIQUES).index(name)}-{data}-{seed}"))
        for name, data, seed in keys
    ]
    os.environ["OMP_NUM_THREADS"] = "1"
    ready = multiprocessing.get_context("forkserver")
    ready.set_forkserver_preload(["src.run"])
    with ready.Pool(asked.jobs, maxtasksperchild=1) as pool, asked.out.open("a") as stream:
        for (name, data, seed), row in zip(keys, pool.imap(one, jobs), strict=True):
            stream.write(json.dumps({"name": name, "set": data, "seed": seed, **row}) + "\n")
            stream.flush()
            print(f"{name}, {data}, seed {seed}: {100 * row['acc']:.1f} % in {row['cpu']} s", flush=True)
        pool.close()
        pool.join()


def words(asked: argparse.Namespace, name: str, data: str, seed: int) -> list[str]:
    folder, root = asked.out.absolute().parent, asked.data.absolute() / data
    return [
        *("data=csv", f"data.root={root}", f"data.table={table(folder, root, seed)}", f"seed={seed}"),
        *("model.name=mobilenetv2_100", f"model.weights={asked.weights.absolute()}", "model.image_size=96"),
        *("trainer.max_epochs=8", "refit=head", "logger=[]", "stages=[fit,select,refit,test]"),
        f"paths.cache={folder / 'cache'}",
        *([] if name.startswith("scheduler=") else [BASE]),
        *TECHNIQUES[name],
    ]


if __name__ == "__main__":
    main()
