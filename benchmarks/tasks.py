"""The other tasks: our default, its probe, a plain fine-tune, a blind answer: `python benchmarks/tasks.py --data DIR`.

DIR holds posters/labels.csv (path, split, labels), steering/labels.csv (path, split, target; test in blocks of time)
and wbc/splits.csv (path, mask, split, cell: a class, 77 : 1); --weights is a file of MobileNetV2-1.0. One json line a
run in --out; runs that are there already are not repeated. The U-Net beside it is benchmarks/unet.py.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from runs import options, tested

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


def main() -> None:
    words = options(__doc__, "logs/tasks/tasks.jsonl", TASKS, "0,1,2").parse_args()

    def given(side: str, data: str, seed: int) -> list[str]:
        root = Path(words.data).absolute() / data.partition("/")[0]
        how = {"default": [], "probe": ["recipe=probe"], "plain": [*PLAIN, *ALSO.get(data, [])]}[side]
        return [
            *("data=csv", f"data.root={root}", "model.image_size=128", "trainer.max_epochs=8", *TASKS[data][0], *how)
        ]

    for (data, side), runs in tested(words, given, SIDES):
        _, metric = TASKS[data]
        values = ", ".join(f"{100 * row[metric]:.1f}" for row in runs)
        blind = runs[0].get(f"{metric}/constant")  # of R², nothing: rmse has one
        beside = "" if blind is None else f" (blind {100 * blind:.1f})"
        wall = mean(row["wall"] for row in runs)
        print(f"{data:9} {side:8} {metric} {values} %{beside}   {wall:.0f} s a run")


if __name__ == "__main__":
    main()
