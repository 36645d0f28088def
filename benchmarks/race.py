"""Our default against what other tools reach on the same files: `python benchmarks/race.py --data DIR --weights DIR`.

DIR holds weather/, signs/, clothing/ as {train,val,test}/CLASS/*.jpg, and the weights by timm's names. One json line a
run in --out; runs that are there already are not repeated, so the race can be stopped at any time. Every word behind
`--` goes to train.py: an ablation is `python benchmarks/race.py --name no_trivial -- augment=light`.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from runs import read, train

WEIGHTS = {
    "mobilenetv2_100": "mobilenetv2_100.google_in1k.safetensors",
    "deit_tiny_patch16_224": "deit_tiny_patch16_224.fb_in1k_mat.safetensors",
}
# Test accuracy (%) of the others with mobilenetv2_100 at 128 px after 8 epochs, seed 0: LHT style, HF Trainer,
# AutoGluon 1.6.3, timm's strong recipe, fastai; each run in its documented way on the same files.
PEERS = {
    "weather": (98.2, 94.7, 84.0, 81.5, 90.4),
    "signs": (98.2, 90.0, 77.8, 81.3, 78.7),
    "clothing": (82.0, 80.9, 78.2, 76.1, 72.3),
}


def table(folder: Path, words: argparse.Namespace, data: str, seed: int) -> Path:
    """A csv of the set: whole, with `shots` images a class, with a long tail, or with flipped training labels."""
    root, rows, draw = Path(words.data) / data, [], np.random.default_rng(seed)
    for split in sorted(p.name for p in root.iterdir() if p.is_dir()):
        classes = sorted(p.name for p in (root / split).iterdir() if p.is_dir())
        for i, name in enumerate(classes):
            files = sorted(f"{split}/{name}/{f.name}" for f in (root / split / name).iterdir())
            if split == "train":
                keep = words.shots or len(files)
                if words.tail > 1:  # from all images of the first class to 1 / tail of them for the last
                    keep = max(2, round(len(files) * words.tail ** (-i / (len(classes) - 1))))
                files = sorted(draw.permutation(files)[:keep].tolist())
            rows += [[f, name, split] for f in files]
    if words.shots:  # the validation images of the set would be many times the training images
        rows = [row for row in rows if row[2] != "val"]
    if words.noise:
        names = sorted({row[1] for row in rows})
        for row in (row for row in rows if row[2] == "train" and draw.random() < words.noise):
            row[1] = names[(names.index(row[1]) + int(draw.integers(1, len(names)))) % len(names)]
    file = folder / f"{data}-{words.shots}-{words.tail:g}-{words.noise:g}-{seed}.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "target", "split"], *rows])
    return file


def run(words: argparse.Namespace, net: str, data: str, seed: int) -> dict[str, Any]:
    folder = Path(words.out).absolute().parent
    kind = (words.name, net, data, words.shots, f"{words.tail:g}", f"{words.noise:g}", words.size, words.epochs, seed)
    place = folder / "runs" / "-".join(map(str, kind))
    given = [
        *("data=csv", f"data.root={Path(words.data).absolute() / data}"),
        f"data.table={table(folder, words, data, seed)}",
        *(f"model.name={net}", f"model.weights={Path(words.weights).absolute() / WEIGHTS[net]}"),
        *(f"model.image_size={words.size}", f"seed={seed}", "logger=[csv]"),
        f"paths.cache={folder / 'cache'}",
        *([f"trainer.max_epochs={words.epochs}"] if words.epochs else []),
        *words.words,
    ]
    found, state, wall = train(given, place, words.threads)
    return {
        **{k: getattr(words, k) for k in ("name", "shots", "tail", "noise", "size", "epochs", "words")},
        **{
            "net": net,
            "set": data,
            "seed": seed,
            "wall": round(wall, 1),
            "seconds": state["seconds"],
        },
        **{"acc": found["test/acc"], "balanced_acc": found["test/balanced_acc"], "chosen": state["chosen"]},
        **{"val": found.get("val/acc"), "updates": found.get("fit/updates", 0), "candidates": state.get("candidates")},
    }


def summary(rows: list[dict[str, Any]]) -> None:
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[k] for k in ("name", "net", "size", "shots", "tail", "noise", "set"))].append(row)
    print(
        f"{'name':12} {'net':10} {'px':>4} {'shots':>5} {'set':9} {'acc %':>14} {'balanced %':>11} {'best peer':>9} "
        f"{'wall s':>7}  chosen"
    )
    ratios = defaultdict(list)
    for (name, net, size, shots, tail, noise, data), runs in groups.items():
        acc = [100 * row["acc"] for row in runs]
        spread = f"± {stdev(acc):.1f}" if len(acc) > 1 else ""
        peer = max(PEERS[data]) if (net, size, shots, tail, noise) == ("mobilenetv2_100", 128, 0, 1, 0) else None
        if peer:
            ratios[name].append(max(100 - mean(acc), 0.05) / (100 - peer))
        kind = "".join(f" {k}{v:g}" for k, v in (("tail", tail), ("noise", noise)) if v not in (0, 1))
        print(
            f"{name:12} {net[:10]:10} {size:4} {shots:5} {data + kind:9} {mean(acc):8.1f} {spread:5} "
            f"{mean(100 * row['balanced_acc'] for row in runs):11.1f} {peer or '':>9} "
            f"{mean(row['wall'] for row in runs):7.0f}  {', '.join(row['chosen'] for row in runs)}"
        )
    for name, found in ratios.items():
        ratio = math.exp(mean(map(math.log, found)))
        print(f"{name}: geometric mean of our error / best peer's error over {len(found)} sets: {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", default="logs/race/race.jsonl")
    parser.add_argument("--name", default="default", help="of this variant, in the table")
    parser.add_argument("--sets", default="weather,signs,clothing")
    parser.add_argument("--nets", default="mobilenetv2_100")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=8, help="0: what the recipe decides")
    parser.add_argument("--shots", type=int, default=0, help="training images a class; 0: all")
    parser.add_argument("--tail", type=float, default=1, help="imbalance to make")
    parser.add_argument("--noise", type=float, default=0, help="part of the training labels to flip")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("words", nargs="*", help="behind --: words for train.py")
    words = parser.parse_args()
    out = Path(words.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = read(out)
    keys = ("name", "shots", "tail", "noise", "size", "epochs", "net", "set", "seed")
    there = {tuple(row[k] for k in keys) for row in rows}
    wanted = [
        (net, data, int(seed))
        for seed in words.seeds.split(",")
        for net in words.nets.split(",")
        for data in words.sets.split(",")
        if (words.name, words.shots, words.tail, words.noise, words.size, words.epochs, net, data, int(seed))
        not in there
    ]
    with ThreadPoolExecutor(words.jobs) as pool, out.open("a") as stream:
        for row in pool.map(lambda job: run(words, *job), wanted):
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            rows.append(row)
            print(
                f"{row['set']} seed {row['seed']}: {100 * row['acc']:.1f} % by {row['chosen']} in {row['wall']:.0f} s",
                flush=True,
            )
    summary(rows)


if __name__ == "__main__":
    main()
