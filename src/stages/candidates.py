"""The models that a run has made: networks by their weights, each with the heads that suit it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import pad

from src import checkpoint, hardware, lowrank
from src.contracts import Affine, ConfigError, Run, Task, Weights
from src.stages import probe
from src.stages.embed import embed, mirrored
from src.stages.fit import fork_of
from src.stages.predict import predictions

SETTLE = 1_000  # training images that BatchNorm statistics are estimated on again
PREFIX = "network."
AVERAGED = ("ema", "soup", "rival")  # of the fit; of both fits of a sweep; of the other one


@dataclass(frozen=True)
class Candidate:
    name: str  # NETWORK[+closing|+blend|+frozen][+mirror]
    head: Affine | None  # on what `embed` sees; None: as the network has it
    logits: torch.Tensor  # of val (N, outputs)
    target: torch.Tensor
    index: torch.Tensor  # which images of val they are
    weights: Weights  # what the trained and the closing head count in it
    final: Callable[[torch.Tensor], Affine] | None
    # (which images of val (N,)) -> the head, where it is solved, on train and these


@dataclass(frozen=True)
class Seen:
    """What a network sees of some images."""

    x: torch.Tensor  # (N, D)
    target: torch.Tensor
    index: torch.Tensor  # in their split

    def __add__(self, other: Seen) -> Seen:
        return Seen(*(torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))

    def only(self, kept: torch.Tensor) -> Seen:
        return Seen(self.x[kept], self.target[kept], self.index[kept])

    def first(self) -> Seen:
        """What the first of two backbones sees."""
        return replace(self, x=self.x.tensor_split(2, 1)[0])


def parts(name: str) -> tuple[str, str, bool]:
    """network, head, mirror"""
    network, *rest = name.split("+")
    return network, next((part for part in rest if part != "mirror"), ""), "mirror" in rest


def candidates(run: Run, wanted: list[str]) -> list[Candidate]:
    """Those of `wanted` that there are, in their order."""
    networks = dict.fromkeys(parts(name)[0] for name in wanted)
    found = {c.name: c for name in networks for c in _of(run, name, wanted)}
    return [found[name] for name in wanted if name in found]


def _of(run: Run, name: str, wanted: list[str]) -> Iterator[Candidate]:
    if (network := restored(run, name)) is None:
        return
    mine = {other: parts(other) for other in wanted if parts(other)[0] == name}
    if network.dense or (name != "probe" and network.answers() is None):
        yield from _whole(run, network, mine)
        return
    twice = {other: words for other, words in mine.items() if words[1] == "frozen"}
    once = {other: words for other, words in mine.items() if other not in twice}
    network.keep(run.network().backbone if twice else None)
    val = _val(run, network)
    other = _val(run, network, mirrored) if any(mirror for *_, mirror in mine.values()) else val
    train = fitted(run, network) if any(head for _, head, _ in mine.values()) else None
    if twice and train:
        yield from _with_frozen(run, network, twice, train, val, other)
        network.keep(None)
        every = len(train.target) == len(run.source.splits["train"])
        train, val, other = train.first() if every else fitted(run, network), val.first(), other.first()
    if once:
        yield from _with_heads(run, network, once, train, val, other)


def _with_heads(
    run: Run, network: Any, mine: dict[str, tuple[str, str, bool]], train: Seen | None, val: Seen, other: Seen
) -> Iterator[Candidate]:
    """The network's own head, and those that are solved on its features. other: what it sees of val's mirror images."""
    trained = closing = network.answers()
    weights = {"": (1.0, 0.0)}
    if train:
        closing = _closing(run, network, train)
        judged = val if len(val.target) else train  # without a val, the size of the logits is guessed
        weights = {"": (1.0, 0.0), "closing": (0.0, 1.0)}
        if run.task.weigh:
            weights = run.task.weigh(trained, closing, judged.x, judged.target)
    for full, (name, kind, mirror) in mine.items():
        head, final = trained, None
        if name == "probe":
            final = partial(_probe_again, run, network, val)
            head = probe.read(run.home).best if probe.holds(run) else final(torch.zeros(0, dtype=torch.long))
        elif train:
            head = _both(run, trained, closing, weights[kind], train.target)
            final = partial(_mixed_again, run, network, train, val, kind, weights[kind]) if kind else None
        x = (val.x + other.x) / 2 if mirror else val.x
        yield Candidate(full, head, x @ head[0].T + head[1], val.target, val.index, weights[kind], final)


def beside(task: Task) -> bool:
    """Whether answers of the frozen backbone are added to those of the other: where that was measured."""
    return task.target == "class" and not task.by_class and task.mix is not None


def _with_frozen(
    run: Run, network: Any, mine: dict[str, tuple[str, str, bool]], train: Seen, val: Seen, other: Seen
) -> Iterator[Candidate]:
    """Closing heads on the backbone and on what it was before the fit, as one head, in which both count the same
    (docs/results.md, two backbones)."""
    assert run.task.weigh and run.task.mix
    judged, heads = val if len(val.target) else train, _closing_twice(run, network, train)
    weights = run.task.weigh(*heads, judged.x, judged.target)["blend"]
    weight, bias = run.task.mix(*heads, weights, train.target)
    for name, (*_, mirror) in mine.items():
        x = (val.x + other.x) / 2 if mirror else val.x
        final = partial(_mixed_again, run, network, train, val, "frozen", weights)
        yield Candidate(name, (weight, bias), x @ weight.T + bias, val.target, val.index, weights, final)


def _closing_twice(run: Run, network: Any, train: Seen) -> tuple[Affine, Affine]:
    """One on the frozen backbone, one on the other, as heads on what `embed` sees of both."""
    tuned, frozen = (_closing(run, network, replace(train, x=x)) for x in train.x.tensor_split(2, 1))
    own = train.x.shape[1] // 2
    return (pad(frozen[0], (own, 0)), frozen[1]), (pad(tuned[0], (0, own)), tuned[1])


def _whole(run: Run, network: Any, mine: dict[str, tuple[str, str, bool]]) -> Iterator[Candidate]:
    """Where the head is no linear layer, none that is solved can be mixed with it, as of masks: the network as it is,
    and mirrored."""
    shape = (network.outputs, network.outputs) if network.dense else (network.outputs,)
    for full, (_, kind, mirror) in mine.items():
        assert not kind, "a closing head is not asked for"
        network.mirror = mirror
        said = _nothing(*shape)
        if run.cfg["trainer"]["limit_val_batches"] != 0:
            index, logits, target = predictions(run, network, "val")
            said = Seen(logits, target, index)
        yield Candidate(full, None, said.x, said.target, said.index, (1.0, 0.0), None)


def mixed(run: Run, network: Any, train: Seen, kind: str, weights: Weights) -> Affine:
    """The network's own head and one that is solved on `train`, or two that are, as they were weighed."""
    if kind != "frozen":
        return _both(run, network.answers(), _closing(run, network, train), weights, train.target)
    assert run.task.mix
    return run.task.mix(*_closing_twice(run, network, train), weights, train.target)


def _closing(run: Run, network: Any, train: Seen) -> Affine:
    assert run.task.close
    return run.task.close(train.x, train.target, list(probe.columns(network, train.x).values())[-1])


def _both(run: Run, trained: Affine, closing: Affine, weights: Weights, target: torch.Tensor) -> Affine:
    if run.task.mix:
        return run.task.mix(trained, closing, weights, target)
    return closing if weights[1] else trained


def _mixed_again(
    run: Run, network: Any, train: Seen, val: Seen, kind: str, weights: Weights, kept: torch.Tensor
) -> Affine:
    return mixed(run, network, train + val.only(kept), kind, weights)


def _probe_again(run: Run, network: Any, val: Seen, kept: torch.Tensor) -> Affine:
    """On what the probe has looked at: its features are there already, where the recipe left images, view and network
    as they were."""
    assert run.task.solve
    known = probe.read(run.home)
    chosen = probe.some(run, probe.targets(run, "train"), known.images)
    x = embed(run, network, hardware.device(dict(run.cfg)), "train", chosen)
    train = Seen(x, probe.targets(run, "train", chosen), torch.tensor(chosen)) + val.only(kept)
    views = probe.columns(network, train.x)
    best = run.task.solve(train.x, train.target, views, run.cfg["seed"], only=known.name)[0]
    return best.weight, best.bias


def fitted(run: Run, network: Any) -> Seen:
    """The training images, or as many of them as heads are solved on."""
    chosen = probe.some(run, probe.targets(run, "train"), probe.enough(network))
    return seen(run, network, "train", only=chosen)


def _val(run: Run, network: Any, change: Any = None) -> Seen:
    """Nothing where the run looks at none."""
    if run.cfg["trainer"]["limit_val_batches"] == 0:
        return _nothing(network.width())
    return seen(run, network, "val", (lambda image: network.embed(change(image))) if change else None)


def seen(run: Run, network: Any, split: str, see: Any = None, only: list[int] | None = None) -> Seen:
    """On every rank."""
    index, x, target = predictions(run, network, split, see or network.embed, only)
    return Seen(x, target, index)


def _nothing(*shape: int) -> Seen:
    return Seen(torch.zeros(0, *shape), *torch.zeros(2, 0, dtype=torch.long))


def restored(run: Run, name: str) -> Any:
    """The network of this name, or None where the run made none of its own: `best` may be `last`."""
    network = run.network()
    if name == "probe":
        if network.dense:
            network.answer(*probe.read(run.home).best)
        return network.eval()
    file, last = file_of(run, name), run.checkpoints / "last.ckpt"
    alone = run.cfg["select"] != "auto"
    if alone and name in ("soup", "rival") and not run.home.state().get("rival"):
        raise ConfigError(
            f"select={run.cfg['select']}: there is no other fit, since no other rate of the sweep stayed finite.\n"
            f"Go on with resume={run.home.path} select=auto."
        )
    if not file.exists() or (not alone and name == "best" and epoch(file) == epoch(last)):
        if not alone:
            return None
        others = sorted(p.name for p in run.checkpoints.glob("*.ckpt"))
        raise ConfigError(
            f"select={name}: {file} was not written; there is {', '.join(others) or 'no checkpoint'}.\n"
            "`best` needs a validation in the fit. Set select=last, or remove what switches validation off."
        )
    if name in AVERAGED:
        averages = [checkpoint.averaged(checkpoint.load(f)) for f in (file, last)[: 2 if name == "soup" else 1]]
        if None in averages:
            if not alone:
                return None
            raise ConfigError(f"select={name}: the run kept no average.\nAdd callbacks=[default], or set select=last.")
        network.load_state_dict(_mean([lowrank.merged(average) for average in averages if average]))
        run.module(network)  # what the policy freezes was not moved by the fit, and is not to be moved now
        only = probe.sample(len(run.source.splits["train"]), SETTLE, run.cfg["seed"])
        network.reestimate(run.loaders.loader("train", only=only, shared=False))
    else:
        found = checkpoint.load(file)["state_dict"]
        mine = {k.removeprefix(PREFIX): v for k, v in found.items() if k.startswith(PREFIX)}
        network.load_state_dict(lowrank.merged(mine))
    return network.eval()


def file_of(run: Run, name: str) -> Path:
    """The checkpoint of a network; of a soup the one that is not in `last`."""
    if name in ("soup", "rival"):
        return run.checkpoints / fork_of(run.home.state().get("rival") or 0) / "last.ckpt"
    return run.checkpoints / ("best.ckpt" if name == "best" else "last.ckpt")


def _mean(states: list[Any]) -> dict[str, torch.Tensor]:
    """Of weights; what is counted is that of the first (Wortsman et al. 2022: a soup of two)."""
    first = states[0]
    return {
        k: torch.stack([s[k] for s in states]).mean(0) if v.is_floating_point() else v.clone() for k, v in first.items()
    }


def epoch(file: Path) -> int:
    return int(checkpoint.load(file)["epoch"]) if file.exists() else -1
