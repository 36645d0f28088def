"""Retrieval of unseen classes: frozen, and fine-tuned by each loss: `python benchmarks/retrieval.py --data DIR`.

DIR holds SET/{train,test}/CLASS/*.jpg. Half of the classes, drawn by the seed, are for training, with --shots images
each; the images of the others are the test, 100 a class at the most. --weights is a file of MobileNetV2-1.0. One json
line a run in --out; runs that are there already are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).parent.parent
SIDES = {
    "frozen": ["recipe=probe"],
    "default": [],
    "proxy_anchor": ["loss=proxy_anchor"],
    "supcon": ["loss=supcon", "data.per_class=4"],
}
TEST = 100  # images a class


def table(root: Path, file: Path, seed: int, shots: int) -> None:
    """path, target, split"""
    draw = random.Random(seed)
    names = sorted(p.name for p in (root / "train").iterdir())
    draw.shuffle(names)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        out = csv.writer(stream)
        out.writerow(["path", "target", "split"])
        for i, name in enumerate(names):
            learnt = i < len(names) // 2
            found = sorted(p for split in ("train", "test") for p in (root / split / name).iterdir())
            for path in draw.sample(found, min(shots if learnt else TEST, len(found))):
                out.writerow([path.relative_to(root), name, "train" if learnt else "test"])


def run(words: argparse.Namespace, side: str, data: str, seed: int) -> dict[str, Any]:
    home, root = Path(words.out).absolute().parent, Path(words.data).absolute() / data
    place, listing = home / "runs" / f"{side}-{data}-{seed}", home / f"{data}-{seed}.csv"
    table(root, listing, seed, words.shots)
    command = [
        *(sys.executable, str(ROOT / "train.py"), "data=csv", f"data.root={root}", f"data.table={listing}"),
        *("task=retrieval", "model.name=mobilenetv2_100", f"model.weights={Path(words.weights).absolute()}"),
        *(f"model.image_size={words.size}", f"trainer.max_epochs={words.epochs}", f"seed={seed}"),
        *(f"run_dir={place}", f"paths.cache={home / 'cache'}", "logger=[csv]", *SIDES[side], *words.more),
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
    parser.add_argument("--out", default="logs/retrieval/retrieval.jsonl")
    parser.add_argument("--sets", default="clothing,signs")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--shots", type=int, default=40)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("more", nargs="*", help="further words, KEY=VALUE")
    words = parser.parse_args()
    out = Path(words.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []
    for seed in map(int, words.seeds.split(",")):
        for data in words.sets.split(","):
            for side in words.sides.split(","):
                if not any((row["side"], row["set"], row["seed"]) == (side, data, seed) for row in rows):
                    rows.append(run(words, side, data, seed))
                    with out.open("a") as stream:
                        stream.write(json.dumps(rows[-1]) + "\n")
    groups = defaultdict(list)
    for row in rows:
        groups[row["set"], row["side"]].append(row)
    for (data, side), runs in sorted(groups.items()):
        told = [f"{m} {', '.join(_percent(row, m) for row in runs)} %" for m in ("recall_at_1", "map_at_r")]
        print(f"{data:9} {side:13} {'   '.join(told)}   {mean(row['wall'] for row in runs):.0f} s a run")


def _percent(row: dict[str, Any], metric: str) -> str:
    return f"{100 * row[f'test/{metric}']:.1f}"


if __name__ == "__main__":
    main()
