"""What the frozen network knows of these images already: a head that can be shipped, the number to beat, the start of
the fine-tune, and answers that the recipe needs (resize policy, mirroring, colours)."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from src import folder, rng
from src.columns import take, tensor
from src.contracts import Affine, ConfigError, Head, Run
from src.facts import Probed, Shaken
from src.stages import doubts
from src.stages.embed import embed, grey, kept, look, mirrored, shaken, upside_down
from src.stages.twins import twins

MOST = 20_000  # images that heads are solved on,
NUMBERS = 5e7  # and the features of all of them together: 200 MB, and minutes at the most
TIMED = 64  # images by which the speed is guessed
TWINS = 2_000  # images of val, and of test, that are compared with those before them
ASKED = 400  # images that each question is asked of
SQUARE = 0.1  # spread of log aspect ratios below which all resize policies show the same


@dataclass(frozen=True)
class Solved:
    """What the probe leaves in the run folder."""

    best: Affine  # on all features
    last: Affine  # on those that the network's own head reads
    name: str  # of the best, as the task knows it
    images: int  # of train, that the network has looked at


def probe(run: Run, device: str, questions: tuple[str, ...], seconds: float | None = None) -> Probed:
    """One pass over train, smaller ones for each of `questions`: resize, mirror, turn, bend, grey; over fewer images
    where they would take longer than `seconds`. And `labels`: wrong ones are told, and the heads learn without them."""
    network = run.network()
    x, target, chosen, most = features(run, network, device, seconds)
    assert run.task.solve is not None
    groups = grouped(run, chosen)
    read = "stages" if network.stages else "last"  # by the head that is trained
    best, last, *_ = heads = _solved(run, x, target, columns(network, x), groups, read)
    judged = doubts.Judged(best, chosen, target)
    if "labels" in questions:  # of LDA heads, whatever head was asked for
        solve = partial(run.task.solve, x, target, columns(network, x), run.cfg["seed"], groups=groups)
        lda = solve(only="lda") if run.cfg["probe"]["head"] else heads
        judged = doubts.judged(run, network, device, judged, lda, seconds is None)
    asked = some(run, target, min(ASKED, most if seconds is None else most // 4))
    answers = _answers(run, network, device, questions, best, x, target, chosen, asked)
    noise, first, second = judged.noise, best, last
    if noise and noise.wrong.any():
        kept = torch.nonzero(~noise.wrong[: len(chosen)])[:, 0]
        mine = None if groups is None else groups[kept]
        first, second = _solved(run, x[kept], target[kept], columns(network, x), mine, read)[:2]
    width = x.shape[1] if network.stages else network.features
    write(run, Solved((first.weight, first.bias), (second.weight[:, :width], second.bias), first.name, len(x)))
    notes = [twins(run, network, device, x, chosen, min(TWINS, most // 4)), doubts.told(run, judged)]
    return Probed(
        head=best.name,
        score=held_out(run, best, target),
        last=held_out(run, last, target),
        asked=len(asked),
        noise=noise.share if noise else None,
        wrong=int(noise.wrong.sum()) if noise else 0,
        notes=tuple(filter(None, notes)),
        **answers,
    )


def _answers(
    run: Run,
    network: Any,
    device: str,
    questions: tuple[str, ...],
    best: Head,
    x: torch.Tensor,
    target: torch.Tensor,
    chosen: list[int],
    asked: list[int],
) -> dict[str, Any]:
    """What is asked of some of the images of the probe, `chosen`: of those at the places `asked`."""
    assert run.task.solve is not None
    solve, groups = partial(run.task.solve, seed=run.cfg["seed"]), grouped(run, chosen)
    these, view = [chosen[i] for i in asked], dict(list(columns(network, x).items())[-1:])
    seen = partial(embed, run, network, device, "train", these)

    def score(x: torch.Tensor) -> float:
        head = solve(x, target[asked], view, only="lda", groups=None if groups is None else groups[asked])[0]
        return held_out(run, head, target[asked])

    def changed(how: Any) -> float:
        return float(run.task.skill(_changed(best, seen(change=how), asked), target[asked]))

    found = {"resize": {}, "mirrored": None, "turned": None, "grey": None}
    plain = score(x[asked]) if {"grey", "resize"} & set(questions) else 0.0
    if "mirror" in questions:
        change = partial(run.task.moved, best, x) if run.task.moved else partial(_moved, run, best)
        found["mirrored"] = change(seen(change=mirrored), asked, target)
    blind = float(run.task.skill(run.task.constant(target).expand(len(asked), -1), target[asked]))
    if "turn" in questions:
        found["turned"] = changed(upside_down), blind
    if "bend" in questions:
        assert best.logits is not None
        still = float(run.task.skill(best.logits[asked], target[asked]))
        bent = changed(shaken(tuple(run.cfg["data"]["crop_scale"]), run.cfg["seed"]))
        found["shaken"] = Shaken(still, blind, bent)
    if "grey" in questions:
        found["grey"] = score(seen(change=grey)) - plain
    if "resize" in questions:
        found["resize"] = {run.cfg["data"]["resize"]: plain}
        for policy in ("squash", "crop", "pad"):
            if policy not in found["resize"]:
                found["resize"][policy] = score(seen(resize=policy))
    return found


def _solved(run: Run, x: torch.Tensor, target: torch.Tensor, views: dict[str, slice], groups: Any, read: str) -> Any:
    """The best head, the best of those on `read`, and all."""
    if run.cfg["probe"]["head"]:
        return [named(run, x, target, views, groups, view) for view in (None, read)]
    assert run.task.solve is not None
    heads = run.task.solve(x, target, views, run.cfg["seed"], groups=groups)
    return [heads[0], next(head for head in heads if head.name.endswith(f" on {read}")), *heads]


def named(run: Run, x: torch.Tensor, target: torch.Tensor, views: dict[str, slice], groups: Any, view: Any) -> Head:
    """The head that the words ask for; on another view of x (N, D) where there is one."""
    asked, view = run.cfg["probe"], view or run.cfg["probe"]["view"]
    found = []
    assert run.task.solve is not None
    if view in views and not run.task.parts:
        with suppress(KeyError):  # a method that this task does not have
            only = f"{asked['head']} {asked['strength']:g} on {view}"
            found = run.task.solve(x, target, views, seed=run.cfg["seed"], groups=groups, only=only)
    name = "nearest mean" if (asked["head"], asked["strength"]) == ("lda", 1) else asked["head"]
    if not found or not found[0].name.startswith(name):
        kinds = {head.name.split()[0] for head in run.task.solve(x, target, views, run.cfg["seed"], groups=groups)}
        raise ConfigError(
            f"probe.head={asked['head']} probe.view={view}: the probe of this task has no such head.\n"
            f"It has {', '.join(sorted(kinds))} on {', '.join(views)}. Set one of these, or leave probe.* out."
        )
    return found[0]


def features(
    run: Run, network: Any, device: str, seconds: float | None
) -> tuple[torch.Tensor, torch.Tensor, list[int], int]:
    """(x (N, D), targets, which training images, how many there may be)"""
    n, most = len(run.source.splits["train"]), enough(network)
    chosen = some(run, targets(run, "train"), most)
    if seconds is not None and not kept(run, network, device, "train", chosen):
        began = time.monotonic()
        look(network, device, run.loaders.loader("train", only=sample(n, TIMED, run.cfg["seed"])), None)
        affordable = int(seconds / 2 * TIMED / (time.monotonic() - began))
        most = min(most, max(affordable, 10 * len(run.source.classes)))
        chosen = some(run, targets(run, "train"), most)
    return embed(run, network, device, "train", chosen), targets(run, "train", chosen), chosen, most


def columns(network: Any, x: torch.Tensor) -> dict[str, slice]:
    """The views of `embed`'s output: what the head reads, and all stages, where the network shows them."""
    views = {"last": slice(0, network.features), "stages": slice(network.features, x.shape[1])}
    return views if x.shape[1] > network.features else {"last": views["last"]}


def enough(network: Any) -> int:
    """Images that heads are solved on."""
    return min(MOST, int(NUMBERS / network.width()))


def sample(n: int, most: int, seed: int) -> list[int]:
    """At most `most` of n, in their order, chosen at random."""
    return list(range(n)) if n <= most else sorted(rng.permutation(n, seed, "sample")[:most].tolist())


def some(run: Run, target: torch.Tensor, most: int) -> list[int]:
    """`sample` of images with these targets, of each class two if it can be; whole classes, where images are compared
    with each other."""
    seed = run.cfg["seed"]
    if len(target) <= most or not (run.task.embeds or run.task.target == "class"):
        return sample(len(target), most, seed)
    if not run.task.embeds:
        order = rng.permutation(len(target), seed, "sample")
        classes, place = target[order].sort(stable=True)
        turn = torch.empty_like(order)  # the first, second, … of its class in this order
        turn[place] = torch.arange(len(order)) - torch.searchsorted(classes, classes)
        return sorted(order[turn.clamp(max=2).argsort(stable=True)[:most]].tolist())
    names, own = target.unique(return_inverse=True)
    turn = rng.permutation(len(names), seed, "sample")
    ends = torch.bincount(own)[turn].cumsum(0)
    kept = torch.zeros(len(names), dtype=torch.bool)
    kept[turn[ends <= most]] = True
    return torch.nonzero(kept[own])[:, 0].tolist() if kept.sum() > 1 else sample(len(target), most, seed)


def targets(run: Run, split: str, only: list[int] | None = None) -> torch.Tensor:
    found = run.source.splits[split].targets
    return tensor(found if only is None else take(found, only))


def grouped(run: Run, only: list[int]) -> torch.Tensor | None:
    """Which of these training images are held out together."""
    groups = run.source.splits["train"].groups
    return tensor(take(groups, only)) if groups else None


def held_out(run: Run, head: Head, target: torch.Tensor) -> float:
    """The skill out of fold."""
    if head.score is not None:
        return head.score
    assert head.logits is not None
    return float(run.task.skill(head.logits, target))


def _moved(run: Run, head: Head, seen: torch.Tensor, asked: list[int], target: torch.Tensor) -> float:
    """The change of the score when held-out images are changed."""
    assert head.logits is not None
    before = run.task.skill(head.logits[asked], target[asked])
    return float(run.task.skill(_changed(head, seen, asked), target[asked]) - before)


def _changed(head: Head, seen: torch.Tensor, asked: list[int]) -> torch.Tensor:
    """Out-of-fold logits where held-out images are changed to `seen`, but those that the head was solved on are not."""
    place = {image: i for i, image in enumerate(asked)}
    logits = torch.zeros(len(asked), len(head.bias))
    for held, (weight, bias) in head.parts:
        rows = [(place[i], i) for i in held.tolist() if i in place]
        if rows:
            to = [j for j, _ in rows]
            logits[to] += seen[to] @ weight.T + bias
    return logits


def write(run: Run, solved: Solved) -> None:
    heads = {"best": solved.best, "last": solved.last}
    tensors = {f"{name}.{i}": part.float().clone() for name, head in heads.items() for i, part in enumerate(head)}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    facts = {"name": solved.name, "images": str(solved.images), "for": _purpose(run)}
    folder.write(run.home.path / "probe.safetensors", save(tensors, facts))


def _purpose(run: Run) -> str:
    """What the heads are solved for: how images are squared, and what counts."""
    return f"{run.cfg['data']['resize']} {run.task.monitor}"


def holds(run: Run) -> bool:
    """Whether its heads are for this run, of which the recipe may have decided something else since."""
    with safe_open(run.home.path / "probe.safetensors", "pt") as file:
        return file.metadata().get("for") == _purpose(run)


def there(home: Any) -> bool:
    return (home.path / "probe.safetensors").is_file()


def read(home: Any) -> Solved:
    with safe_open(home.path / "probe.safetensors", "pt") as file:
        best, last = ((file.get_tensor(f"{name}.0"), file.get_tensor(f"{name}.1")) for name in ("best", "last"))
        return Solved(best, last, file.metadata()["name"], int(file.metadata()["images"]))
