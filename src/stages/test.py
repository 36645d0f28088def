"""Tests the model in model/ once, on images that decided nothing: metrics with intervals, and every prediction."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch.nn.functional import normalize

from src import folder
from src.columns import tensor
from src.contracts import Run, Task
from src.stages.draw import masks
from src.stages.predict import calibration, groups, measure, predictions, table
from src.stats import interval, metric


def test(run: Run) -> None:
    if "test" not in run.source.splits:
        if run.leader:
            print("test: there is no test split; the val metrics chose the checkpoint and are optimistic.")
        return
    network, saved = run.load(), calibration(run)
    wide = run.decisions.needs_features(saved)
    if run.task.dense:
        index, logits, rows = masks(run, network, "test") if run.leader else (torch.zeros(0), torch.zeros(0), None)
        target = torch.zeros(len(logits), dtype=torch.long)
    else:
        see = (lambda image: torch.cat(network.both(image), 1)) if wide else None
        index, logits, target = predictions(run, network, "test", see)
        rows = None
    if not run.leader:
        return
    logits, features = logits.tensor_split([network.outputs], 1) if wide else (logits, None)
    rows = run.decisions.apply(saved, logits, features) if saved else rows
    shipped = run.decisions.scaled(saved, logits)
    folder.write(run.home.path / "predictions.csv", table(run, "test", index, shipped, rows))
    if run.task.embeds:
        folder.write(run.home.path / "embeddings.npy", array(logits))
    if not run.source.splits["test"].labelled:
        print("test: it has no labels; predictions.csv has what the model says, and val is all that was measured.")
        return
    found = {}
    if saved and rows:
        found = {f"test/{k}": v for k, v in run.decisions.measure(saved, logits, target, run.cfg["seed"]).items()}
        if "unfamiliar" in rows[0]:
            found["test/unfamiliar"] = sum(row["unfamiliar"] for row in rows) / len(rows)
    blind = blindly(run, shipped, target)
    found = measure(run, "test", shipped, target) | found
    alike = groups(run, "test", index)
    found |= judged(run.task, shipped, target, blind, run.cfg["seed"], "test/", alike)
    headline = f"test/{run.task.monitor.removeprefix('val/')}"
    whole = len(target) == len(run.source.splits["test"])  # a few of them may be of one class
    if whole and (value := found.get(f"{headline}/constant")) is not None:
        better = found[headline] > value if run.task.mode == "max" else found[headline] < value
        run.home.update(beaten=better)
    if of := run.task.alone:
        wide = None if alike is None else of(alike[:, None].double().expand_as(shipped), target)
        for i, ((name, task, z, t), (_, _, b, _)) in enumerate(
            zip(of(shipped, target), of(blind, target), strict=True)
        ):
            together = wide[i][2][:, 0] if wide else None
            found |= judged(task, z, t, b, run.cfg["seed"], f"test/{name}/", together)
            found[f"test/{name}/images"] = len(t)
    run.home.add_metrics(found)


def judged(
    task: Task,
    logits: torch.Tensor,
    target: torch.Tensor,
    blind: torch.Tensor,
    seed: int,
    where: str,
    groups: torch.Tensor | None,
) -> dict[str, float]:
    """The interval of the monitored metric, and what the answer has that does not look at the images."""
    key, bounds = where + task.monitor.removeprefix("val/"), interval(task, logits, target, seed, groups)
    constant = metric(task, blind, target)
    found = {} if bounds is None else {f"{key}/low": bounds[0], f"{key}/high": bounds[1]}
    return found if constant is None else {**found, f"{key}/constant": constant}


def array(embeddings: torch.Tensor) -> bytes:
    """As a .npy file: (N, D) float32, of length 1, so that the inner product is the cosine."""
    out = io.BytesIO()
    np.save(out, normalize(embeddings.float(), dim=1).numpy(), allow_pickle=False)
    return out.getvalue()


def blindly(run: Run, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The best answer that does not look at the images, as `logits` are given."""
    if run.task.dense:  # all pixels for the most frequent class
        return torch.stack([run.task.constant(counts) for counts in logits.sum(2)])
    return run.task.constant(tensor(run.source.splits["train"].targets)).expand(len(target), -1)
