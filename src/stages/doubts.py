"""Which training labels are wrong, by what the probe's heads say of images that they were not solved on."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from src import folder, rng
from src.columns import take, tensor
from src.contracts import LEFT, SUSPECTS, Head, Noise, Run
from src.mixture import LIKELY, MANY, SURE

KNOWN = 0.4  # how sure the answers are: a probe that knows little contradicts clean labels (docs/negative-results.md)
LOGITS = 5e7  # images × classes that are judged: 2 GB, for a while


@dataclass(frozen=True)
class Judged:
    head: Head  # by whose held-out logits
    images: list[int]  # of train
    target: torch.Tensor
    noise: Noise | None = None


def judged(run: Run, network: Any, device: str, known: Judged, heads: list[Head], all_: bool) -> Judged:
    """With what these heads say of the labels; all_: and of the other training images', if many are wrong."""
    found = replace(known, noise=noise(run, heads, known.target))
    return further(run, network, device, found) if all_ and found.noise and found.noise.wrong.any() else found


def noise(run: Run, heads: list[Head], target: torch.Tensor) -> Noise | None:
    """Which labels are wrong, where they are enough, and surely more than none; None where that cannot be told."""
    if run.task.noise is None or not (found := run.task.noise(heads, target)) or found.known < KNOWN:
        return None
    if found.share < MANY:
        return replace(found, wrong=torch.zeros_like(found.wrong))
    return found if found.sure >= SURE else None


def further(run: Run, network: Any, device: str, judged: Judged) -> Judged:
    """And those of the training images that were not looked at, behind the others: one more pass, over these. Their
    features are not kept: they may be more than a disk holds."""
    assert judged.noise and run.task.noise
    head, split = judged.noise.head, run.source.splits["train"]
    assert head.logits is not None
    rest = np.setdiff1d(np.arange(len(split)), judged.images)
    most = max(int(LOGITS / run.task.outputs) - len(judged.images), 0)
    rest = np.sort(rest[rng.permutation(len(rest), run.cfg["seed"], "doubts")[:most]]).tolist()
    if not rest:
        return judged
    logits = [head.logits]
    network.eval().to(device)
    with torch.inference_mode():
        for batch in run.loaders.loader("train", only=rest):
            logits.append(network.embed(batch["image"].to(device)).float().cpu() @ head.weight.T + head.bias)
    images, head = [*judged.images, *rest], replace(head, logits=torch.cat(logits))
    target = tensor(take(split.targets, images))
    found = run.task.noise([head], target)
    return Judged(head, images, target, found) if found else judged


def right(run: Run, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(N,) bool: which images of val are learnt once the model is chosen, by what it says of them (N, outputs). Where
    many labels of train were found to be wrong, and many of these are: those whose label is not rather wrong."""
    every = torch.ones(len(target), dtype=torch.bool)
    if run.cfg["data"]["suspects"] == "keep" or run.task.noise is None or not len(target):
        return every
    found = run.task.noise([Head("lda", torch.empty(0), torch.empty(0), logits)], target)
    many = found and found.share >= MANY and found.sure >= LIKELY and found.known >= KNOWN
    return ~found.wrong if found and many else every


def listed(run: Run, index: torch.Tensor) -> str:
    """Writes which images of val are not learnt to a file; -> its name."""
    split, out, file = run.source.splits["val"], io.StringIO(), "suspects_val.csv"
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["path", "label"])
    for i in index.tolist():
        rows.writerow([split.paths[i], "; ".join(run.source.labels.text(split.targets[i], run.source.classes))])
    folder.write(run.home.path / file, out.getvalue())
    return file


def told(run: Run, judged: Judged) -> str:
    """Writes those whose label the rest of them contradict, the surest first, to suspects.csv; -> a sentence."""
    head, noise, split = judged.head, judged.noise, run.source.splits["train"]
    wrong = noise.wrong if noise and noise.wrong.any() else None
    also = {} if wrong is None else {"also": wrong}
    found = run.task.doubts(head.logits, judged.target, **also) if run.task.doubts and head.logits is not None else []
    share = f"about {100 * noise.share:.0f} % of the training labels are wrong, by held-out answers" if noise else ""
    said = [share] if wrong is not None else []
    if found:
        out, last = io.StringIO(), [] if wrong is None else [LEFT]
        rows = csv.DictWriter(out, ["path", "label", *found[0][1], *last])
        rows.writeheader()
        for i, doubt in found:
            image = judged.images[i]
            label = "; ".join(run.source.labels.text(split.targets[image], run.source.classes))
            left = {} if wrong is None else {LEFT: "yes" if wrong[i] else "no"}
            rows.writerow({"path": split.paths[image], "label": label, **doubt, **left})
        folder.write(run.home.path / SUSPECTS, out.getvalue())
        what = "" if said else " training labels"
        said.append(f"{len(found):,}{what} are contradicted by the other images ({SUSPECTS})")
    looked = (
        f"; {len(judged.images):,} of {len(split):,} images were looked at" if len(judged.images) < len(split) else ""
    )
    return "; ".join(said) + looked if said else ""
