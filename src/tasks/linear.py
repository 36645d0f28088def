"""What the solved heads of all tasks share: cross-validation, ridge, and their algebra."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from src import rng
from src.contracts import Affine, Head, Weights

ALONE = 0.9  # of the squares of a feature
RIDGE = (0.3, 3.0)  # per image, of standardised features
Method = Callable[[torch.Tensor, torch.Tensor], dict[str, Affine]]  # features, targets -> name -> head


def crossed(
    x: torch.Tensor,
    target: torch.Tensor,
    columns: Mapping[str, slice],
    fold: torch.Tensor,
    methods: Callable[[torch.Tensor], Iterator[Method]],
    suited: Callable[[torch.Tensor, torch.Tensor], tuple[float, torch.Tensor]],
    risk: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    only: str | None = None,
) -> list[Head]:
    """Every method on every view, with the factor and shift that suit its out-of-fold logits; the least risk first.

    only: the methods may be those of one head, `NAME on VIEW`, and then other views are left out.
    """
    held, heads = [torch.nonzero(fold == i)[:, 0] for i in fold.unique().tolist()], []
    wanted = [view for view in columns if only and only.endswith(f" on {view}")] or list(columns)
    for view, column in ((view, columns[view]) for view in wanted):
        inner = x[:, column]
        for method in methods(inner):
            whole = method(inner, target)
            parts = [method(inner[rest], target[rest]) for rest in (_without(len(x), images) for images in held)]
            for name in whole:
                wide = [widened(part[name], column, x.shape[1]) for part in parts]
                logits = torch.zeros(len(x), len(whole[name][1]))
                for images, (weight, bias) in zip(held, wide, strict=True):
                    logits[images] = x[images] @ weight.T + bias
                factor, shift = suited(logits, target)
                weight, bias = moved(widened(whole[name], column, x.shape[1]), factor, shift)
                blind = tuple((images, moved(head, factor, shift)) for images, head in zip(held, wide, strict=True))
                logits = logits * factor + shift
                heads.append((float(risk(logits, target)), Head(f"{name} on {view}", weight, bias, logits, blind)))
    return [head for _, head in sorted(heads, key=lambda pair: pair[0])]


def _without(n: int, images: torch.Tensor) -> torch.Tensor:
    kept = torch.ones(n, dtype=torch.bool)
    kept[images] = False
    return torch.nonzero(kept)[:, 0]


def folds(strata: torch.Tensor, seed: int, groups: torch.Tensor | None = None) -> torch.Tensor:
    """-> (N,) the fold of each image; the images of a stratum, or whole groups, are dealt out in turn, at random."""
    count = min(5 if len(strata) < 1000 else 3, max(len(strata) // 2, 2))
    if groups is not None:
        names, place = groups.unique(return_inverse=True)
        dealt = rng.permutation(len(names), seed, "folds")
        turn = torch.empty(len(names), dtype=torch.long)
        turn[dealt] = torch.arange(len(names)) % min(count, max(len(names), 2))
        if len(names) > 1:
            return turn[place]
    order = rng.permutation(len(strata), seed, "folds")
    dealt = order[strata[order].argsort(stable=True)]
    fold = torch.empty(len(strata), dtype=torch.long)
    fold[dealt] = torch.arange(len(strata)) % count
    return fold


def ridge(
    x: torch.Tensor, y: torch.Tensor, strengths: Sequence[float] = RIDGE, weight: torch.Tensor | None = None
) -> dict[str, Affine]:
    """Least squares to y (N, C), on standardised features (Hoerl & Kennard 1970). weight (N,), 1 on average: of each
    image, as if there were so many of it. A feature that one image alone moves has no weight: a channel that wakes up
    in it, a little, would be worth thousands of standard deviations in the next one, and numbers have no limit."""
    x, y = x.double(), y.double()
    much = torch.ones(len(x), 1, dtype=x.dtype) if weight is None else weight.double()[:, None]
    centre, level = (much * x).mean(0), (much * y).mean(0)
    off = much * (x - centre).square()
    scale = varying(off.mean(0).sqrt(), centre)
    scale[off.max(0).values > ALONE * off.sum(0)] = torch.inf
    inner, found = much.sqrt() * (x - centre) / scale, {}
    solved, right = solver(inner, len(x)), inner.T @ (much.sqrt() * (y - level)) / len(x)
    for strength in strengths:
        solution = solved(1.0, strength, right).T / scale
        found[f"ridge {strength:g}"] = (solution.float(), (level - solution @ centre).float())
    return found


def varying(scale: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """Infinite, so that its weight is 0, for a feature that is the same in all images but for rounding."""
    return torch.where(scale > 1e-5 * centre.abs() + 1e-9, scale, torch.inf)


def solver(x: torch.Tensor, n: int) -> Callable[[float, float, torch.Tensor], torch.Tensor]:
    """-> (a, c, right (D, C)) -> (a x'x / n + c I)^-1 right, by the smaller of the two Gram matrices (Woodbury)."""
    wide = x.shape[1] > len(x)
    gram = (x @ x.T if wide else x.T @ x) / n
    one = torch.eye(len(gram), dtype=x.dtype)

    def solved(a: float, c: float, right: torch.Tensor) -> torch.Tensor:
        factor = torch.linalg.cholesky(a * gram + c * one)
        if not wide:
            return torch.cholesky_solve(right, factor)
        return (right - a / n * (x.T @ torch.cholesky_solve(x @ right, factor))) / c

    return solved


def scaled(head: Affine, factor: float) -> Affine:
    return head[0] * factor, head[1] * factor


def moved(head: Affine, factor: float, shift: torch.Tensor) -> Affine:
    return head[0] * factor, head[1] * factor + shift


def widened(head: Affine, column: slice, width: int) -> Affine:
    """A head on some columns as one on all `width` of them."""
    wide = torch.zeros(len(head[0]), width)
    wide[:, column] = head[0]
    return wide, head[1]


def summed(one: Affine, other: Affine, weights: Weights) -> Affine:
    """The weighted sum of two heads."""
    (weight, bias), (weight_, bias_) = scaled(one, weights[0]), scaled(other, weights[1])
    return weight + weight_, bias + bias_
