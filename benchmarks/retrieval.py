"""Retrieval of unseen classes: frozen, and fine-tuned by each loss: `python benchmarks/retrieval.py --data DIR`.

DIR holds SET/{train,test}/CLASS/*.jpg. Half of the classes, drawn by the seed, are for training, with --shots images
each; the images of the others are the test, 100 a class at the most. --weights is a file of MobileNetV2-1.0. One json
line a run in --out; runs that are there already are not repeated.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path
from statistics import mean

from runs import options, tested

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


def main() -> None:
    parser = options(__doc__, "logs/retrieval/retrieval.jsonl", ("clothing", "signs"), "0,1")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--shots", type=int, default=40)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("more", nargs="*", help="further words, KEY=VALUE")
    words = parser.parse_args()

    def given(side: str, data: str, seed: int) -> list[str]:
        root, listing = Path(words.data).absolute() / data, Path(words.out).absolute().parent / f"{data}-{seed}.csv"
        table(root, listing, seed, words.shots)
        size = [f"model.image_size={words.size}", f"trainer.max_epochs={words.epochs}"]
        where = ["data=csv", f"data.root={root}", f"data.table={listing}", "task=retrieval"]
        return [*where, *size, *SIDES[side], *words.more]

    for (data, side), runs in tested(words, given, words.sides.split(",")):
        shown = {m: ", ".join(f"{100 * row[f'test/{m}']:.1f}" for row in runs) for m in ("recall_at_1", "map_at_r")}
        told = [f"{metric} {values} %" for metric, values in shown.items()]
        print(f"{data:9} {side:13} {'   '.join(told)}   {mean(row['wall'] for row in runs):.0f} s a run")


if __name__ == "__main__":
    main()
