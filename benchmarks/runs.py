"""What the races share: train.py in a process of its own, and a json line for each run, of which none is repeated."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
Row = dict[str, Any]


def options(doc: str | None, out: str, sets: Iterable[str], seeds: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", default=out)
    parser.add_argument("--sets", default=",".join(sets))
    parser.add_argument("--seeds", default=seeds)
    return parser


def read(file: Path) -> list[Row]:
    """The runs; none where there is no such file yet."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def train(words: list[str], place: Path, threads: int = 1) -> tuple[Row, Row, float]:
    """-> (its metrics, its state, seconds); ends this process where it fails."""
    command = [sys.executable, str(ROOT / "train.py"), *words, f"run_dir={place}"]
    env, began = os.environ | {"OMP_NUM_THREADS": str(threads)}, time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    metrics, state = (json.loads((place / f"{name}.json").read_text()) for name in ("metrics", "run"))
    return metrics, state, time.monotonic() - began


def tested(words: argparse.Namespace, given: Callable[[str, str, int], list[str]], sides: Iterable[str]) -> Any:
    """Tests what is missing of all sides, sets and seeds by the words `given` to each; -> (set, side), its runs."""
    out = Path(words.out).absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    sides, rows, groups = list(sides), read(out), defaultdict(list)
    there = {(row["side"], row["set"], row["seed"]) for row in rows}
    sets, seeds = words.sets.split(","), map(int, words.seeds.split(","))
    for side, data, seed in ((side, data, seed) for seed in seeds for data in sets for side in sides):
        if (side, data, seed) in there:
            continue
        place = out.parent / "runs" / f"{side}-{data.replace('/', '-')}-{seed}"
        net = ["model.name=mobilenetv2_100", f"model.weights={Path(words.weights).absolute()}", "logger=[csv]"]
        always = [*net, f"seed={seed}", f"paths.cache={out.parent / 'cache'}"]
        found, state, wall = train([*always, *given(side, data, seed)], place)
        told = {key: value for key, value in found.items() if key.startswith("test/")}
        row = {"side": side, "set": data, "seed": seed, "wall": round(wall), "chosen": state["chosen"], **told}
        rows.append(row)
        with out.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
    for row in rows:
        groups[row["set"], row["side"]].append(row)
    return sorted(groups.items())
