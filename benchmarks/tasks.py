"""The other tasks: our default, its probe, a plain fine-tune, a blind answer: `python benchmarks/tasks.py --data DIR`.

DIR holds posters/labels.csv (path, split, labels), steering/labels.csv (path, split, target; test in blocks of time)
and wbc/splits.csv (path, mask, split, cell: a class, 77 : 1); --weights is a file of MobileNetV2-1.0. One json line a
run in --out; runs that are there already are not repeated. The U-Net beside it is benchmarks/unet.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).parent.parent
MASKS = "task.labels.values={background: 0, cytoplasm: 128, nucleus: 255}"
TASKS = {
    "posters": (["task=multilabel", "data.table=labels.csv"], "test/map_macro"),
    "steering": (["task=regression", "data.table=labels.csv"], "test/r2"),
    "wbc": (["task=segmentation", "data.table=splits.csv", MASKS, "task.labels.stray=nearest"], "test/miou"),
    "wbc/cells": (["data.table=splits.csv", "data.columns.target=cell"], "test/balanced_acc"),
}
# As users of the common Lightning-Hydra template would write it: Adam on all layers, the best checkpoint on val.
PLAIN = [
    *("recipe=off", "optimizer=timm", "optimizer.opt=adam", "optimizer.lr=1e-3", "optimizer.weight_decay=0"),
    *("scheduler=constant", "scheduler.warmup=0", "select=best"),
]
ALSO = {"steering": ["data.flip=0", "loss=mse"], "wbc": ["loss.dice=0"]}
SIDES = ("default", "probe", "plain")


def run(words: argparse.Namespace, side: str, data: str, seed: int) -> dict[str, Any]:
    place = Path(words.out).absolute().parent / "runs" / f"{side}-{data.replace('/', '-')}-{seed}"
    more, _ = TASKS[data]
    root = Path(words.data).absolute() / data.partition("/")[0]
    command = [
        *(sys.executable, str(ROOT / "train.py"), "data=csv", f"data.root={root}", *more),
        *("model.name=mobilenetv2_100", f"model.weights={Path(words.weights).absolute()}", "model.image_size=128"),
        *("trainer.max_epochs=8", f"seed={seed}", f"run_dir={place}", "logger=[csv]"),
        f"paths.cache={Path(words.out).absolute().parent / 'cache'}",
        *([*PLAIN, *ALSO.get(data, [])] if side == "plain" else []),
        *(["recipe=probe"] if side == "probe" else []),
    ]
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    found = json.loads((place / "metrics.json").read_text())
    state = json.loads((place / "run.json").read_text())
    found = {key: value for key, value in found.items() if key.startswith("test/")}
    wall = round(time.monotonic() - began)
    return {"side": side, "set": data, "seed": seed, "wall": wall, "chosen": state["chosen"], **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = ROOT.parent / "shared"
    parser.add_argument("--data", default=str(shared / "data"))
    parser.add_argument("--weights", default=str(shared / "weights" / "mobilenetv2_100.google_in1k.safetensors"))
    parser.add_argument("--out", default="logs/tasks/tasks.jsonl")
    parser.add_argument("--sets", default=",".join(TASKS))
    parser.add_argument("--seeds", default="0,1,2")
    words = parser.parse_args()
    out = Path(words.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []
    for seed in map(int, words.seeds.split(",")):
        for data in words.sets.split(","):
            for side in SIDES:
                if not any((row["side"], row["set"], row["seed"]) == (side, data, seed) for row in rows):
                    rows.append(run(words, side, data, seed))
                    with out.open("a") as stream:
                        stream.write(json.dumps(rows[-1]) + "\n")
    groups = defaultdict(list)
    for row in rows:
        groups[row["set"], row["side"]].append(row)
    for (data, side), runs in sorted(groups.items()):
        _, metric = TASKS[data]
        values, blind = (", ".join(f"{100 * row[key]:.1f}" for row in runs) for key in (metric, f"{metric}/constant"))
        wall = mean(row["wall"] for row in runs)
        print(f"{data:9} {side:8} {metric} {values} % (blind {blind})   {wall:.0f} s a run")


if __name__ == "__main__":
    main()
