"""Linear heads solved on features instead of trained: shrinkage LDA (nearest mean at its end), ridge, logistic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch.nn.functional import cross_entropy, one_hot

from src import rng
from src.contracts import Affine, Head, Weights

SHRINKAGE = (0.2, 0.5, 0.8, 1.0)  # of the covariance towards the diagonal; at 1 LDA is the nearest mean
RIDGE = (0.3, 3.0)  # per image, of standardised features
DECAY = (1e-2,)  # of the logistic head's weights, likewise
MOST = 5e7  # images × features × classes up to which a logistic head is solved in seconds
LARGEST = 5.0  # size of a head's logits: where held-out images are all right, the best temperature has no limit
CLOSING = 0.8  # shrinkage on features that have seen their targets


def solve(
    x: torch.Tensor,
    target: torch.Tensor,
    columns: Mapping[str, slice],
    seed: int,
    classes: int,
    uniform: bool,
    only: str | None = None,
) -> list[Head]:
    """Every method on every view, at the temperature that suits its out-of-fold logits; the least cross-entropy first.

    only: of the methods (`lda`, to compare views), or one head by its name. uniform: the heads suppose that all classes
    are equally frequent, whatever they are among these images.
    """
    fold, heads = _folds(target, seed), []
    held = [torch.nonzero(fold == i)[:, 0] for i in range(int(fold.max()) + 1)]
    wanted = [view for view in columns if only and only.endswith(f" on {view}")] or list(columns)
    for view, column in ((view, columns[view]) for view in wanted):
        inner = x[:, column]
        for method in _methods(inner, classes, only):
            whole = method(inner, target, classes)
            parts = [method(inner[fold != i], target[fold != i], classes) for i in range(len(held))]
            for name in whole:
                wide = [widened(part[name], column, x.shape[1]) for part in parts]
                logits = torch.zeros(len(x), classes)
                for images, (weight, bias) in zip(held, wide, strict=True):
                    logits[images] = x[images] @ weight.T + bias
                factor = min(temperature(logits, target), LARGEST / _size(logits))
                weight, bias = scaled(widened(whole[name], column, x.shape[1]), factor)
                blind = tuple((images, scaled(head, factor)) for images, head in zip(held, wide, strict=True))
                heads.append(Head(f"{name} on {view}", weight, bias, logits * factor, blind))
    heads.sort(key=lambda head: float(cross_entropy(head.logits, target)))
    return [_adjusted(head, target) for head in heads] if uniform else heads


def close(x: torch.Tensor, target: torch.Tensor, column: slice, classes: int, uniform: bool) -> Affine:
    """LDA on the features (N, D) that a training left. They have seen their targets, so nothing can be cross-validated
    on them: the shrinkage is given (raced: 0.8 was best or near it from 5 to 100 images a class)."""
    closing = widened(lda(x[:, column], target, classes, (CLOSING,))[_name("lda", CLOSING)], column, x.shape[1])
    return _fair(closing, target) if uniform else closing


def weigh(trained: Affine, closing: Affine, x: torch.Tensor, target: torch.Tensor) -> dict[str, Weights]:
    """What the head that was trained and the closing one count in each candidate. Both are brought to one size, which
    needs no label, and then to the temperature that suits x (N, D): images of val."""
    first, second = (1 / _spread(head, x) for head in (trained, closing))
    found = {"": (1.0, 0.0), "closing": (0.0, second), "blend": (first, second)}
    for name in ("closing", "blend"):
        weight, bias = _sum(trained, closing, found[name])
        factor = 3 * temperature(3 * (x @ weight.T + bias), target)
        found[name] = found[name][0] * factor, found[name][1] * factor
    return found


def mix(trained: Affine, closing: Affine, weights: Weights, target: torch.Tensor, uniform: bool) -> Affine:
    """The weighted sum. The prior leaves the head that was trained before it is weighed, where it was learnt: a head
    that has been made less sure would be corrected too much."""
    return _sum(_fair(trained, target) if uniform else trained, closing, weights)


def _sum(one: Affine, other: Affine, weights: Weights) -> Affine:
    (weight, bias), (weight_, bias_) = scaled(one, weights[0]), scaled(other, weights[1])
    return weight + weight_, bias + bias_


def _size(logits: torch.Tensor) -> float:
    """The standard deviation over the classes, of the median image: a class that a fold has not seen does not count."""
    return float(logits.std(1).median().clamp(min=1e-6))


def _spread(head: Affine, x: torch.Tensor) -> float:
    """The root mean square of the logits of x, less their mean over the classes."""
    logits = (x @ head[0].T + head[1]).clamp(min=-1e3)
    return float((logits - logits.mean(1, keepdim=True)).square().mean().sqrt().clamp(min=1e-6))


def _adjusted(head: Head, target: torch.Tensor) -> Head:
    """Post-hoc logit adjustment with tau = 1 (Menon et al. 2021, eq. 9)."""
    assert head.logits is not None
    prior = _log_prior(target, len(head.bias))
    parts = tuple((images, (weight, bias - prior)) for images, (weight, bias) in head.parts)
    return replace(head, bias=head.bias - prior, logits=head.logits - prior, parts=parts)


def _fair(head: Affine, target: torch.Tensor) -> Affine:
    return head[0], head[1] - _log_prior(target, len(head[1]))


def _log_prior(target: torch.Tensor, classes: int) -> torch.Tensor:
    return (torch.bincount(target, minlength=classes).clamp(min=1) / len(target)).log()


def scaled(head: Affine, factor: float) -> Affine:
    return head[0] * factor, head[1] * factor


def widened(head: Affine, column: slice, width: int) -> Affine:
    """A head on some columns as one on all `width` of them."""
    wide = torch.zeros(len(head[0]), width)
    wide[:, column] = head[0]
    return wide, head[1]


def temperature(logits: torch.Tensor, target: torch.Tensor) -> float:
    """The factor on logits that minimises the cross-entropy (Guo et al. 2017), held near 1 by a weak prior."""
    log_factor = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([log_factor], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = cross_entropy(logits.float() * log_factor.exp(), target) + 0.01 * log_factor.square()
        found.backward()
        return found

    optimizer.step(loss)
    return float(log_factor.detach().clamp(-7, 3).exp())


def _folds(target: torch.Tensor, seed: int) -> torch.Tensor:
    """-> (N,) the fold of each image; the images of a class are dealt out in turn, in random order."""
    order = rng.permutation(len(target), seed, "folds")
    dealt = order[target[order].argsort(stable=True)]
    fold = torch.empty(len(target), dtype=torch.long)
    fold[dealt] = torch.arange(len(target)) % min(5 if len(target) < 1000 else 3, max(len(target) // 2, 2))
    return fold


def _methods(x: torch.Tensor, classes: int, only: str | None) -> Iterator[Callable[..., dict[str, Affine]]]:
    if only:
        name, *strength = only.partition(" on ")[0].replace("nearest mean", "lda 1").split()
        method = {"lda": lda, "ridge": ridge, "logistic": logistic}[name]
        yield partial(method, strengths=tuple(map(float, strength))) if strength else method
        return
    yield lda
    yield ridge
    if x.numel() * classes <= MOST:
        yield logistic


def _name(method: str, strength: float) -> str:
    return "nearest mean" if (method, strength) == ("lda", 1.0) else f"{method} {strength:g}"


def lda(x: torch.Tensor, target: torch.Tensor, classes: int, strengths=SHRINKAGE) -> dict[str, Affine]:
    """Fisher 1936 with the pooled covariance of standardised features, shrunk towards the identity (Friedman 1989)."""
    x = x.double()
    count = torch.bincount(target, minlength=classes).double()
    mean = torch.zeros(classes, x.shape[1], dtype=x.dtype).index_add_(0, target, x) / count.clamp(min=1)[:, None]
    within = x - mean[target]
    freedom = max(len(x) - int((count > 0).sum()), 1)
    centre = mean[count > 0].mean(0)
    scale = _varying((within.square().sum(0) / freedom).sqrt(), centre)
    mean, within = (mean - centre) / scale, within / scale
    solved, prior, found = _solver(within, freedom), (count.clamp(min=0.5) / count.sum()).log(), {}
    for s in strengths:
        weight = solved(1 - s, s, mean.T).T
        bias = prior - 0.5 * (weight * mean).sum(1)
        weight = torch.where(count[:, None] > 0, weight, 0) / scale
        bias = torch.where(count > 0, bias - weight @ centre, -1e3)
        found[_name("lda", s)] = (weight.float(), bias.float())
    return found


def ridge(x: torch.Tensor, target: torch.Tensor, classes: int, strengths=RIDGE) -> dict[str, Affine]:
    """Least squares to one-hot targets, on standardised features (Hoerl & Kennard 1970)."""
    x, y = x.double(), one_hot(target, classes).double()
    centre = x.mean(0)
    scale = _varying(x.std(0, correction=0), centre)
    inner = (x - centre) / scale
    solved, right, found = _solver(inner, len(x)), inner.T @ (y - y.mean(0)) / len(x), {}
    for strength in strengths:
        weight = solved(1.0, strength, right).T / scale
        bias = y.mean(0) - weight @ centre
        found[_name("ridge", strength)] = (10 * weight.float(), 10 * bias.float())  # towards the size of logits
    return found


def logistic(x: torch.Tensor, target: torch.Tensor, classes: int, strengths=DECAY) -> dict[str, Affine]:
    """Cross-entropy with weight decay, by L-BFGS; each strength starts from the stronger one before it."""
    centre = x.mean(0)
    scale = _varying(x.std(0, correction=0), centre)
    inner = (x - centre) / scale
    weight, bias = torch.zeros(classes, x.shape[1], requires_grad=True), torch.zeros(classes, requires_grad=True)
    found = {}
    for strength in sorted(strengths, reverse=True):
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=50, tolerance_grad=1e-4, line_search_fn="strong_wolfe")

        def loss(optimizer=optimizer, strength=strength) -> torch.Tensor:
            optimizer.zero_grad()
            value = cross_entropy(inner @ weight.T + bias, target) + strength / 2 * weight.square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        scaled = weight.detach() / scale
        found[_name("logistic", strength)] = (scaled.clone(), bias.detach() - scaled @ centre)
    return found


def _varying(scale: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """Infinite, so that its weight is 0, for a feature that is the same in all images but for rounding."""
    return torch.where(scale > 1e-5 * centre.abs() + 1e-9, scale, torch.inf)


def _solver(x: torch.Tensor, n: int) -> Callable[[float, float, torch.Tensor], torch.Tensor]:
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
