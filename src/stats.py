"""Statistics of a finite test set: how far a mean may be from what more images would give."""

from __future__ import annotations

from statistics import NormalDist

import torch

from src import rng


def bootstrap(
    scores: torch.Tensor, seed: int = 0, draws: int = 2000, level: float = 0.95, groups: torch.Tensor | None = None
) -> tuple[float, float]:
    """Percentile interval of the mean of `scores` (N,) over `draws` resamples with replacement (Efron 1979).

    Where all scores are equal (100 % right) resampling cannot vary, so the Wilson interval (1927) of a proportion is
    given instead: 60 of 60 right is not certainty. groups (N,): images are resampled within theirs, as the parts of a
    mean over classes need it.
    """
    n, mean = len(scores), float(scores.double().mean())
    alike = all(bool((part == part[0]).all()) for part in _parts(scores, groups))
    if alike and round(mean, 6) in (0.0, 1.0):
        return _wilson(round(mean), n, NormalDist().inv_cdf((1 + level) / 2))
    generator = torch.Generator().manual_seed(rng.key(seed, "bootstrap"))
    means = torch.empty(draws, dtype=torch.float64)
    parts = _parts(scores.double(), groups)
    for i in range(draws):
        drawn = [part[torch.randint(len(part), (len(part),), generator=generator)] for part in parts]
        means[i] = torch.cat(drawn).mean()
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def _parts(scores: torch.Tensor, groups: torch.Tensor | None) -> list[torch.Tensor]:
    return [scores] if groups is None else [scores[groups == group] for group in groups.unique()]


def _wilson(p: float, n: int, z: float) -> tuple[float, float]:
    centre, spread = p + z * z / (2 * n), z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5
    return max((centre - spread) / (1 + z * z / n), 0.0), min((centre + spread) / (1 + z * z / n), 1.0)
