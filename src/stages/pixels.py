"""What the frozen network knows of each pixel: the counterpart of the probe where the target is a mask."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from src import rng
from src.contracts import Head, Run
from src.facts import Probed
from src.stages.embed import Change, grey
from src.stages.probe import Solved, grouped, sample, write

NUMBERS = 1e7  # features of all pixels together that heads are solved on: seconds, at a thousand features each
LEAST, MOST = 16, 1000  # pixels of an image
TIMED = 16  # images by which the speed is guessed
ASKED = 200  # images that each question is asked of


@dataclass(frozen=True)
class Pixels:
    """Some pixels of some images."""

    x: torch.Tensor  # (P, D)
    target: torch.Tensor  # (P,), the place of its class
    image: torch.Tensor  # (P,), which of the images
    stands: torch.Tensor  # (P,), for how many pixels of its image it stands

    def of(self, images: int) -> Pixels:
        """Those of the first so many images."""
        kept = self.image < images
        return Pixels(self.x[kept], self.target[kept], self.image[kept], self.stands[kept])


def probe(run: Run, device: str, questions: tuple[str, ...], seconds: float | None = None) -> Probed:
    """One pass over train, smaller ones for each of `questions`, mirror and grey; over fewer images where they would
    take longer than `seconds`."""
    network = run.network()
    seen, chosen = _train(run, network, device, seconds)
    solve = partial(_solve, run, network)
    heads = solve(seen, chosen)
    best, last = heads[0], next(head for head in heads if head.name.endswith(" on last"))
    few = min(ASKED, len(chosen) if seconds is None else len(chosen) // 4 + 1)
    some, moved = seen.of(few), {}
    if "mirror" in questions:
        other = look(run, network, device, chosen[:few], len(chosen), mirror=True)
        answers = torch.zeros(len(other.x), len(best.bias))
        for held, (weight, bias) in best.parts:
            mine = held[held < len(other.x)]
            answers[mine] = other.x[mine] @ weight.T + bias
        assert best.logits is not None
        plain = _score(run, best.logits[: len(other.x)], some)
        moved["mirror"] = _score(run, answers, other) - plain
    if "grey" in questions:
        other = look(run, network, device, chosen[:few], len(chosen), change=grey)
        plain, without = (solve(part, chosen[:few], only="lda 0.5 on stages")[0] for part in (some, other))
        moved["grey"] = _score(run, without.logits, other) - _score(run, plain.logits, some)
    write(run, Solved((best.weight, best.bias), (best.weight, best.bias), best.name, len(chosen)))
    return Probed(
        head=f"{best.name}, of {len(seen.x):,} pixels",
        score=_score(run, best.logits, seen),
        last=_score(run, last.logits, seen),
        asked=few,
        resize={},
        mirrored=moved.get("mirror"),
        turned=None,  # what is decided by it turns no masks
        grey=moved.get("grey"),
    )


def rank(run: Run, device: str, seconds: float | None = None) -> float:
    """The score of the best head on this network's pixels, to compare networks by."""
    network = run.network()
    seen, chosen = _train(run, network, device, seconds)
    return _score(run, _solve(run, network, seen, chosen)[0].logits, seen)


def _train(run: Run, network: Any, device: str, seconds: float | None) -> tuple[Pixels, list[int]]:
    """Pixels of the training images, and of which, in random order."""
    n, most = len(run.source.splits["train"]), int(NUMBERS / sum(network.widths) / LEAST)
    if seconds is not None:
        began = time.monotonic()
        look(run, network, device, sample(n, TIMED, run.cfg["seed"]), TIMED)
        most = min(most, max(int(seconds / 2 * TIMED / (time.monotonic() - began)), TIMED))
    chosen = rng.permutation(n, run.cfg["seed"], "sample")[:most].tolist()
    return look(run, network, device, chosen, len(chosen)), chosen


def look(
    run: Run,
    network: Any,
    device: str,
    images: Sequence[int],
    of: int,
    change: Change | None = None,
    mirror: bool = False,
) -> Pixels:
    """Pixels of these training images, as many of each as if there were `of` images. Which they are depends on the
    image and the seed alone: a change shows other features of the same pixels."""
    each = int(max(LEAST, min(MOST, NUMBERS / sum(network.widths) / of)))
    network.eval().to(device)
    found = []
    with torch.inference_mode():
        for batch in run.loaders.loader("train", only=images):
            image, height, width = batch["image"].to(device), *batch["image"].shape[-2:]
            chosen = [
                _some(mask, each, network.outputs, rng.key(run.cfg["seed"], "pixels", i))
                for mask, i in zip(batch["target"], batch["index"].tolist(), strict=True)
            ]
            place = torch.zeros(len(image), max(len(index) for index, _ in chosen), 2)
            for row, (index, _) in zip(place, chosen, strict=True):  # centres of pixels
                y, x = index // width, index % width
                row[: len(index)] = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], 1)
            features = network.pixels(change(image) if change else image, place.to(device), mirror).float().cpu()
            for row, mask, (index, stands) in zip(features, batch["target"], chosen, strict=True):
                found.append((row[: len(index)].clone(), mask.flatten()[index], stands))
    x, target, stands = (torch.cat(parts) for parts in zip(*found, strict=True))
    image = torch.repeat_interleave(torch.arange(len(found)), torch.tensor([len(part) for part, *_ in found]))
    return Pixels(x, target, image, stands)


def _some(mask: torch.Tensor, each: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(H, W) -> places of pixels (M,), half of them as frequent as the classes are and half of each class as many; and
    for how many pixels each of them stands."""
    mask, draw = mask.flatten(), torch.Generator().manual_seed(seed)
    there = torch.bincount(mask[mask < classes], minlength=classes)
    wanted = each / 2 * (there / there.sum().clamp(min=1) + (there > 0) / (there > 0).sum().clamp(min=1))
    order, places = torch.randperm(len(mask), generator=draw), []
    for c, n in enumerate(wanted.ceil().long().minimum(there).tolist()):
        places.append(order[mask[order] == c][:n])
    stands = torch.cat([torch.full((len(part),), int(there[c]) / max(len(part), 1)) for c, part in enumerate(places)])
    return torch.cat(places), stands


def _solve(run: Run, network: Any, seen: Pixels, chosen: Sequence[int], only: str | None = None) -> list[Head]:
    """Images are held out whole, and those of one group together."""
    *_, last = network.widths
    views = {"last": slice(sum(network.widths) - last, None), "stages": slice(None)}
    groups = grouped(run, list(chosen))
    held = seen.image if groups is None else groups[seen.image]
    assert run.task.solve is not None
    return run.task.solve(seen.x, seen.target, views, run.cfg["seed"], groups=held, only=only)


def _score(run: Run, logits: torch.Tensor | None, seen: Pixels) -> float:
    """The skill out of fold, of all pixels that these stand for."""
    assert logits is not None
    classes = logits.shape[1]
    counts = torch.zeros(classes * classes, dtype=torch.float64)
    counts.index_add_(0, seen.target * classes + logits.argmax(1), seen.stands.double())
    return float(run.task.skill(counts.view(1, classes, classes), seen.target))
