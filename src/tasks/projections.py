"""Embeddings in closed form, from frozen features: as they are, standardised, or whitened within the classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from src import rng
from src.contracts import Affine, Head
from src.tasks.linear import folds, varying, widened
from src.tasks.neighbours import recalls

SHRINKAGE = (0.2, 0.5, 0.8, 1.0)  # of the covariance within classes towards the diagonal; 1: features standardised
COMPARED = (0.5,)  # likewise, where views are compared
CLOSING = (0.8,)  # likewise, on features that have seen their targets, as heads.CLOSING
SPARE, ROUNDS = 16, 6  # of the subspace iteration: directions beyond those wanted, and how often it is refined


def solve(
    x: torch.Tensor,
    target: torch.Tensor,
    columns: Mapping[str, slice],
    seed: int,
    outputs: int | None,
    groups: torch.Tensor | None = None,
    only: str | None = None,
) -> list[Head]:
    """Every projection on every view, the best first, by its recall at 1 of classes that it has not seen: classes are
    held out whole (and so `groups` need not be), and looked for among all images.

    only: `lda`, to compare views, or one projection by its name.
    """
    fold = folds(target, seed, target)
    held = [torch.nonzero(fold == i)[:, 0] for i in fold.unique().tolist()]
    wanted = [view for view in columns if only and only.endswith(f" on {view}")] or list(columns)
    width, heads = outputs or _features(columns["last"] if "last" in columns else columns[wanted[0]]), []
    for view in wanted:
        column = columns[view]
        whole = _methods(x[:, column], target, width, view, only)
        parts = [_methods(x[fold != i][:, column], target[fold != i], width, view, only) for i in fold.unique()]
        for name, head in whole.items():
            blind = tuple(
                (images, widened(part[name], column, x.shape[1])) for images, part in zip(held, parts, strict=True)
            )
            score = _recall(x, target, blind)
            heads.append(Head(f"{name} on {view}", *widened(head, column, x.shape[1]), None, blind, score))
    return sorted(heads, key=lambda head: -(head.score or 0.0))


def moved(head: Head, x: torch.Tensor, changed: torch.Tensor, which: list[int], target: torch.Tensor) -> float:
    """By how much recall changes when the queries `which` of x are seen as `changed`, among images that are not: were
    all mirrored, nothing would be missed though b and d had changed places."""
    place, gain, count = {image: i for i, image in enumerate(which)}, 0.0, 0
    for images, (weight, bias) in head.parts:
        own = torch.tensor([i for i in images.tolist() if i in place], dtype=torch.long)
        seen = changed[[place[i] for i in own.tolist()]]
        gallery = x @ weight.T + bias
        before, there = recalls(gallery, target, own=own)
        after, _ = recalls(gallery, target, own=own, query=seen @ weight.T + bias)
        gain, count = gain + float((after - before)[there].sum()), count + int(there.sum())
    return gain / max(count, 1)


def close(x: torch.Tensor, target: torch.Tensor, column: slice, outputs: int | None) -> Affine:
    """The whitened projection of the features (N, D) that a training left."""
    inner = whitened(x[:, column], target, outputs or _features(column), CLOSING)
    return widened(next(iter(inner.values())), column, x.shape[1])


def _features(column: slice) -> int:
    """How many features the network's own head reads: the stages come behind them."""
    return column.start or column.stop


def _recall(x: torch.Tensor, target: torch.Tensor, parts: tuple[tuple[torch.Tensor, Affine], ...]) -> float:
    found = [recalls(x @ weight.T + bias, target, own=images) for images, (weight, bias) in parts]
    hits, there = (torch.cat([pair[i] for pair in found]) for i in (0, 1))
    return float(hits[there].mean()) if there.any() else 0.0


def _methods(x: torch.Tensor, target: torch.Tensor, width: int, view: str, only: str | None) -> dict[str, Affine]:
    name, _, strength = (only or "").partition(" on ")[0].partition(" ")
    if name in ("lda", "whitened", "standardised"):
        given = {"lda": COMPARED, "standardised": (1.0,)}.get(name) or (float(strength),)
        return whitened(x, target, width, given)
    found = {} if only else whitened(x, target, width, SHRINKAGE)
    return {"features": plain(x, width), **found} if view == "last" else found


def plain(x: torch.Tensor, width: int) -> Affine:
    """The features, turned to the `width` directions that keep most of their inner products (Eckart & Young 1936)."""
    x = x.double()
    axes = principal(x.T @ x / len(x), width).T
    return _sized(axes, torch.zeros(len(axes), dtype=x.dtype), x, width)


def whitened(x: torch.Tensor, target: torch.Tensor, width: int, strengths=SHRINKAGE) -> dict[str, Affine]:
    """Features in which images of a class are spread alike in all directions (the covariance within classes, shrunk as
    in heads.lda, is the identity), turned to the `width` directions in which images differ most: first those of LDA
    (Fisher 1936), then the rest, which tells classes that nobody has seen (Radenović et al. 2018, section 3.3)."""
    x = x.double()
    classes, own = target.unique(return_inverse=True)
    count = torch.bincount(own).double()
    mean = torch.zeros(len(classes), x.shape[1], dtype=x.dtype).index_add_(0, own, x) / count[:, None]
    centre = x.mean(0)
    within = x - (mean[own] if len(classes) < len(x) else centre)
    freedom = max(len(x) - len(classes), 1)
    scale = varying((within.square().sum(0) / freedom).sqrt(), centre)
    inner, within = (x - centre) / scale, within / scale
    basis = rows(inner) if inner.shape[1] > len(inner) else None  # few images: what they span is enough
    inner, within = (inner, within) if basis is None else (inner @ basis, within @ basis)
    total, within = inner.T @ inner / len(inner), within.T @ within / freedom
    found = {}
    for s in strengths:
        factor = torch.linalg.cholesky((1 - s) * within + s * torch.eye(len(within), dtype=x.dtype))
        half = torch.linalg.solve_triangular(factor, total, upper=False)
        white = torch.linalg.solve_triangular(factor, half.T, upper=False)
        axes = torch.linalg.solve_triangular(factor.T, principal(white, width), upper=True)
        weight = (axes if basis is None else basis @ axes).T / scale
        found["standardised" if s == 1 else f"whitened {s:g}"] = _sized(weight, -weight @ centre, x, width)
    return found


def rows(x: torch.Tensor) -> torch.Tensor:
    """(N, D), N < D -> (D, r), an orthonormal basis of its rows."""
    values, vectors = torch.linalg.eigh(x @ x.T)
    kept = values > 1e-9 * values[-1].clamp(min=1e-12)
    return x.T @ vectors[:, kept] / values[kept].sqrt()


def principal(gram: torch.Tensor, width: int) -> torch.Tensor:
    """(D, D) -> (D, at most `width`): its first eigenvectors, by subspace iteration (Halko et al. 2011, alg. 4.4)."""
    wide = min(width + SPARE, len(gram))
    start = torch.randn(len(gram), wide, generator=torch.Generator().manual_seed(rng.key("principal")))
    basis = torch.linalg.qr(start.to(gram.dtype)).Q
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(gram @ basis).Q
    values, turn = torch.linalg.eigh(basis.T @ gram @ basis)
    return basis @ turn[:, values.argsort(descending=True)[:width]]


def _sized(weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor, width: int) -> Affine:
    """`width` outputs, the last ones 0 where there are not so many directions; as large as those of a new layer."""
    size = (x @ weight.T + bias).square().sum(1).mean().sqrt().clamp(min=1e-12) / width**0.5
    full_weight, full_bias = torch.zeros(width, x.shape[1]), torch.zeros(width)
    full_weight[: len(weight)], full_bias[: len(weight)] = (weight / size).float(), (bias / size).float()
    return full_weight, full_bias
