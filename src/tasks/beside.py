"""Heads of several kinds beside each other: each is solved, weighed and measured on the images that have its label."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from src.contracts import Affine, Head, Part, Task, Weights
from src.mixed_labels import known, own

FEW = 8  # images with a label below which nothing can be solved on them, or told by them
WORST = -1.0  # of a skill, so that one head that has gone astray does not hide what the others learn


@dataclass(frozen=True)
class One:
    """One of the heads: where it is, and the task that it would be alone."""

    part: Part
    task: Task

    def rows(self, target: torch.Tensor) -> torch.Tensor:
        """(N, outputs) -> the indices of the images that have its label."""
        return torch.nonzero(known(self.part, target))[:, 0]

    def read(self, logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Its logits and targets, of the images that have its label, on the CPU."""
        rows = known(self.part, target)
        return logits[rows][:, self.part.columns].cpu(), own(self.part, target[rows]).cpu()

    def slice(self, head: Affine) -> Affine:
        return head[0][self.part.columns], head[1][self.part.columns]

    def constant(self, target: torch.Tensor) -> torch.Tensor:
        """(n,) of its own -> (its outputs,): the best blind answer, or its unit's zero where no image is known."""
        if len(target):
            return self.task.constant(target)
        return torch.tensor(self.task.unit[0]) if self.task.unit else torch.zeros(self.task.outputs)

    def skill(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """1 is perfect, 0 what the best blind answer to these images has (no less than WORST); NaN: nothing to tell."""
        found, true = self.read(logits, target)
        if not len(true):
            return torch.tensor(torch.nan, device=logits.device)
        blind = self.task.skill(self.task.constant(true).expand(len(true), -1), true).double()
        value = (self.task.skill(found, true).double() - blind) / (1 - blind)
        return (value.clamp(min=WORST) if blind < 1 else value * torch.nan).float().to(logits.device)

    def measured(self, metric: Any, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """A metric of the task that it would be alone; NaN where no image is known. `metric` is only a calculator: what
        it is given comes from all ranks already."""
        found, true = self.read(logits, target)
        if not len(true):
            return torch.tensor(torch.nan, device=logits.device)
        metric.distributed_available_fn = _alone
        metric.reset()
        metric.update(found, true)
        return metric.compute().to(logits.device)

    def monitored(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        found, true = self.read(logits, target)
        if self.task.scores is not None:
            return self.task.scores(found, true).double().mean()
        assert self.task.score is not None
        return self.task.score(found, true) if len(true) else torch.tensor(torch.nan)


def _alone() -> bool:
    return False


def solve(
    x: torch.Tensor,
    target: torch.Tensor,
    columns: Mapping[str, slice],
    seed: int,
    heads: Sequence[One],
    groups: torch.Tensor | None = None,
    only: str | None = None,
) -> list[Head]:
    """The best of each head beside each other, then, for each view, the best that read it. `only`: `lda`, or one of
    these by its name."""
    asked = _asked(only, heads)
    each = [_solved(one, x, target, columns, seed, groups, word) for one, word in zip(heads, asked, strict=True)]
    chosen = {_name(some, heads): some for some in [[found[0] for found in each]]}
    for view in columns if only is None else ():
        read = [next((h for h in found if h.name.endswith(f" on {view}")), found[0]) for found in each]
        chosen.setdefault(_name(read, heads), read)
    return [_beside(name, some, heads, target) for name, some in chosen.items()]


def _solved(
    one: One,
    x: torch.Tensor,
    target: torch.Tensor,
    columns: Mapping[str, slice],
    seed: int,
    groups: torch.Tensor | None,
    only: str | None,
) -> list[Head]:
    """The heads of one part, on the images that have its label, in its own outputs."""
    rows = one.rows(target)
    mine = own(one.part, target[rows])
    if len(rows) < FEW:
        return [Head("blind", torch.zeros(one.task.outputs, x.shape[1]), one.constant(mine))]
    assert one.task.solve is not None
    inner = None if groups is None else groups[rows]
    return one.task.solve(x[rows], mine, columns, seed, groups=inner, only=None if only == "blind" else only)


def _name(some: Sequence[Head], heads: Sequence[One]) -> str:
    """`colour: lda 0.5; width: ridge 1 on stages`, or, where they read several views, all in brackets."""
    views = {head.name.partition(" on ")[2] for head in some} - {""}
    if len(views) == 1:
        told = [f"{one.part.name}: {head.name.partition(' on ')[0]}" for one, head in zip(heads, some, strict=True)]
        return f"{'; '.join(told)} on {views.pop()}"
    return f"({'; '.join(f'{one.part.name}: {head.name}' for one, head in zip(heads, some, strict=True))})"


def _asked(only: str | None, heads: Sequence[One]) -> list[str | None]:
    """The name of a head as `_name` writes it -> that of each part."""
    pattern = "; ".join(f"{re.escape(one.part.name)}: (.+?)" for one in heads)
    if only and (found := re.fullmatch(rf"\({pattern}\)", only)):
        return list(found.groups())
    if only and (found := re.fullmatch(rf"{pattern} on (\w+)", only)):
        *names, view = found.groups()
        return [name if name == "blind" else f"{name} on {view}" for name in names]
    return [only] * len(heads)


def _beside(name: str, some: Sequence[Head], heads: Sequence[One], target: torch.Tensor) -> Head:
    """One head of them all. Each was cross-validated in its own folds, so `parts` has each fold of each, with zeros for
    the others: they add up."""
    weight, bias = torch.cat([head.weight for head in some]), torch.cat([head.bias for head in some])
    logits, folds = torch.zeros(len(target), len(bias)), []
    for one, head in zip(heads, some, strict=True):
        rows, place = one.rows(target), one.part.columns
        logits[rows, place] = head.bias if head.logits is None else head.logits
        for images, part in head.parts:
            wide = torch.zeros_like(weight), torch.zeros_like(bias)
            wide[0][place], wide[1][place] = part
            folds.append((rows[images], wide))
    return Head(name, weight, bias, logits, tuple(folds))


def _joined(found: Sequence[Affine]) -> Affine:
    return torch.cat([weight for weight, _ in found]), torch.cat([bias for _, bias in found])


def close(x: torch.Tensor, target: torch.Tensor, column: slice, heads: Sequence[One]) -> Affine:
    found = []
    for one in heads:
        rows = one.rows(target)
        mine = own(one.part, target[rows])
        assert one.task.close is not None
        blind = torch.zeros(one.task.outputs, x.shape[1]), one.constant(mine)
        found.append(one.task.close(x[rows], mine, column) if len(rows) >= FEW else blind)
    return _joined(found)


def weigh(
    trained: Affine, closing: Affine, x: torch.Tensor, target: torch.Tensor, heads: Sequence[One]
) -> dict[str, Weights]:
    """Those of each part; where too few images of val can tell, the head that was trained stays."""
    found: dict[str, list[Any]] = {"": [], "closing": [], "blend": []}
    for one in heads:
        rows = one.rows(target)
        mine: dict[str, Weights] = dict.fromkeys(found, (1.0, 0.0))
        if len(rows) >= FEW:
            assert one.task.weigh is not None
            mine = one.task.weigh(one.slice(trained), one.slice(closing), x[rows], own(one.part, target[rows]))
        for name in found:
            found[name].append(mine[name])
    return found


def mix(trained: Affine, closing: Affine, weights: Weights, target: torch.Tensor, heads: Sequence[One]) -> Affine:
    found = []
    for one, mine in zip(heads, weights, strict=True):
        known_of = own(one.part, target[one.rows(target)])
        assert one.task.mix is not None
        found.append(one.task.mix(one.slice(trained), one.slice(closing), mine, known_of))
    return _joined(found)
