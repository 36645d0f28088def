"""Tests the model in model/ once, on images that decided nothing: metrics with intervals, and every prediction."""

from __future__ import annotations

import csv
import io

import torch

from src import folder
from src.contracts import UNLABELLED, Run
from src.stages.predict import measure, predictions
from src.stats import bootstrap


def test(run: Run) -> None:
    if "test" not in run.source.splits:
        if run.leader:
            print("test: there is no test split; the val metrics chose the checkpoint and are optimistic.")
        return
    index, logits, target = predictions(run, run.load(), "test")
    if not run.leader:
        return
    folder.write(run.home.path / "predictions.csv", table(run, index, logits, target))
    if not run.source.splits["test"].labelled:
        print("test: it has no labels; predictions.csv has what the model says, and val is all that was measured.")
        return
    headline = run.task.monitor.removeprefix("val/")
    found = measure(run, "test", logits, target)
    if run.task.scores is not None:  # otherwise the metric is no mean over images
        groups = target if run.task.by_class else None
        low, high = bootstrap(run.task.scores(logits, target), seed=run.cfg["seed"], groups=groups)
        found |= {f"test/{headline}/low": low, f"test/{headline}/high": high}
    run.home.add_metrics(found)


def table(run: Run, index: torch.Tensor, logits: torch.Tensor, target: torch.Tensor) -> str:
    """path, target (where there is one), prediction, prob/<class>… of every test image."""
    paths, out = run.source.splits["test"].paths, io.StringIO()
    rows = run.task.decode(logits)
    writer = csv.DictWriter(out, ["path", "target", *rows[0]])
    writer.writeheader()
    for i, truth, row in zip(index.tolist(), target.tolist(), rows, strict=True):
        named = "" if truth == UNLABELLED else run.source.classes[truth]
        writer.writerow({"path": paths[i], "target": named, **row})
    return out.getvalue()
