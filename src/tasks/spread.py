"""How sure a regression is: which of its outputs are the numbers, and which say how far off they may be."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import torch

from src.contracts import Affine, Head

Said = dict[str, torch.Tensor]  # column of predictions.csv -> (N, T)


@dataclass(frozen=True)
class Spread(ABC):
    """The outputs (N, K x T) of T numbers are K blocks; block `point` has the numbers themselves. follows: which blocks
    move when the numbers do. part: of the images, that low … high shall hold."""

    point: int
    follows: tuple[bool, ...]
    part: float

    @abstractmethod
    def unit(self, mean: torch.Tensor, deviation: torch.Tensor) -> Affine:
        """Of the numbers (T,) -> shift and scale of all outputs (K x T,)."""

    @abstractmethod
    def about(self, error: torch.Tensor) -> torch.Tensor:
        """Errors (N, T) of a head that knows the numbers only -> what its other blocks are to say, (K, T)."""

    @abstractmethod
    def said(self, found: torch.Tensor) -> Said:
        """prediction, low, high … of outputs."""

    @abstractmethod
    def heard(self, said: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The outputs that `said` said."""

    def middle(self, found: torch.Tensor) -> torch.Tensor:
        return self.said(found)["prediction"]

    def rows(self, width: int) -> slice:
        """Of a head with `width` outputs those that are the numbers."""
        each = width // len(self.follows)
        return slice(self.point * each, (self.point + 1) * each)

    def opened(self, head: Affine, more: torch.Tensor) -> Affine:
        """A head of T numbers as one of all outputs; `more` as `about` gives it."""
        weight = torch.cat([head[0] if moves else torch.zeros_like(head[0]) for moves in self.follows])
        return weight, torch.cat([head[1] * moves + more[k] for k, moves in enumerate(self.follows)])

    def opened_head(self, head: Head, target: torch.Tensor) -> Head:
        """Likewise, by its errors out of fold."""
        assert head.logits is not None
        more = self.about(target - head.logits)
        weight, bias = self.opened((head.weight, head.bias), more)
        logits = torch.cat([head.logits * moves + more[k] for k, moves in enumerate(self.follows)], 1)
        parts = tuple((images, self.opened(part, more)) for images, part in head.parts)
        return replace(head, weight=weight, bias=bias, logits=logits, parts=parts)


@dataclass(frozen=True)
class Nothing(Spread):
    """The numbers alone."""

    point: int = 0
    follows: tuple[bool, ...] = (True,)
    part: float = 0.0

    def unit(self, mean: torch.Tensor, deviation: torch.Tensor) -> Affine:
        return mean, deviation

    def about(self, error: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, error.shape[1])

    def said(self, found: torch.Tensor) -> Said:
        return {"prediction": found}

    def heard(self, said: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return said["prediction"]


@dataclass(frozen=True)
class Quantiles(Spread):
    """The numbers at rising levels, of which 0.5 is one. They are sorted before they are read: what is learnt may
    cross (Chernozhukov et al. 2010: sorting never takes them further from the truth)."""

    levels: tuple[float, ...] = ()

    def unit(self, mean: torch.Tensor, deviation: torch.Tensor) -> Affine:
        return mean.repeat(len(self.levels)), deviation.repeat(len(self.levels))

    def about(self, error: torch.Tensor) -> torch.Tensor:
        found = error.double().quantile(torch.tensor(self.levels, dtype=torch.float64), dim=0).float()
        found[: self.point].clamp_(max=0)
        found[self.point] = 0
        found[self.point :].clamp_(min=0)
        return found

    def said(self, found: torch.Tensor) -> Said:
        first, *between, last = found.unflatten(1, (len(self.levels), -1)).sort(1).values.unbind(1)
        inner = dict(zip(map(self._name, self.levels[1:-1]), between, strict=True))
        return {"prediction": inner.pop("prediction"), "low": first, "high": last, **inner}

    def heard(self, said: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([said["low"], *(said[self._name(level)] for level in self.levels[1:-1]), said["high"]], 1)

    def _name(self, level: float) -> str:
        return "prediction" if level == 0.5 else f"quantile/{level:g}"


@dataclass(frozen=True)
class Gaussian(Spread):
    """The means, and the logarithms of the standard deviations."""

    @property
    def reach(self) -> float:
        """Standard deviations from the mean to low, and to high."""
        return NormalDist().inv_cdf((1 + self.part) / 2)

    def unit(self, mean: torch.Tensor, deviation: torch.Tensor) -> Affine:
        return torch.cat([mean, deviation.log()]), torch.cat([deviation, torch.ones_like(deviation)])

    def about(self, error: torch.Tensor) -> torch.Tensor:
        size = error.square().mean(0).sqrt().clamp(min=1e-12)
        return torch.stack([torch.zeros_like(size), size.log()])

    def said(self, found: torch.Tensor) -> Said:
        mean, log_deviation = found.unflatten(1, (2, -1)).unbind(1)
        away = self.reach * log_deviation.clamp(-80, 80).exp()  # what float32 can hold
        return {"prediction": mean, "low": mean - away, "high": mean + away}

    def heard(self, said: Mapping[str, torch.Tensor]) -> torch.Tensor:
        deviation = (said["high"] - said["low"]) / (2 * self.reach)
        return torch.cat([said["prediction"], deviation.clamp(min=1e-30).log()], 1)


def spread_of(words: Sequence[float] | float | None) -> Spread:
    """None: the numbers alone | levels of quantiles | the part that an interval of a normal distribution holds."""
    if words is None:
        return Nothing()
    if isinstance(words, int | float):
        return Gaussian(0, (True, False), float(words))
    levels = tuple(words)
    return Quantiles(levels.index(0.5), (True,) * len(levels), levels[-1] - levels[0], levels)


def margin(said: Said, target: torch.Tensor, part: float) -> list[float]:
    """For each number, by how much low … high must grow (or may shrink) to hold `part` of images like these, which the
    network has not learnt: conformalised quantile regression (Romano et al. 2019, eq. 8)."""
    beyond = torch.maximum(said["low"] - target, target - said["high"]).sort(0).values
    place = min(math.ceil((len(target) + 1) * part), len(target)) - 1
    return [float(f"{value:.6g}") for value in beyond[place].tolist()]


def widened_by(said: Said, margin: Sequence[float] | None) -> Said:
    """`said` with low … high grown by a margin for each number; what they enclose stays between them."""
    if margin is None or "low" not in said:
        return said
    more = torch.tensor(margin, dtype=said["low"].dtype, device=said["low"].device)
    inner = torch.stack([value for name, value in said.items() if name not in ("low", "high")])
    low, high = (said["low"] - more).minimum(inner.amin(0)), (said["high"] + more).maximum(inner.amax(0))
    return {**said, "low": low, "high": high}
