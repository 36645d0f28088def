"""Heads for one class an image, solved on features: shrinkage LDA (nearest mean at its end), ridge, logistic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch.nn.functional import cross_entropy, one_hot

from src.contracts import Affine, Head, Weights
from src.mixture import mixture
from src.tasks.linear import RIDGE, Method, crossed, folds, ridge, scaled, solver, summed, varying, widened

SHRINKAGE = (0.2, 0.5, 0.8, 0.95, 1.0)  # of the covariance towards the diagonal; at 1 LDA is the nearest mean
DECAY = (1e-2,)  # of the logistic head's weights, likewise
MOST = 5e7  # images × features × classes up to which a logistic head is solved in seconds
LARGEST = 5.0  # size of a head's logits: where held-out images are all right, the best temperature has no limit
CLOSING = (0.8, 0.5)  # shrinkage on features that have seen their targets, of few images a class and of more
FEW = 50  # images a class
NONE = 1e-6  # the size of logits that say nothing
FAIR = 3.0  # strength of a ridge to which all classes are equally frequent
LIKELIEST = {f"lda {s:g}" for s in SHRINKAGE[1:-1]} | {"nearest mean"}  # of these is the probe's head, mostly


def solve(
    x: torch.Tensor,
    target: torch.Tensor,
    columns: Mapping[str, slice],
    seed: int,
    classes: int,
    uniform: bool,
    groups: torch.Tensor | None = None,
    only: str | None = None,
) -> list[Head]:
    """Every method on every view, at the temperature that suits its out-of-fold logits: the chosen one, then those of
    the least cross-entropy.

    only: of the methods (`lda`, to compare views), or one head by its name. uniform: the heads suppose that all classes
    are equally frequent, whatever they are among these images.
    """

    def suited(logits: torch.Tensor, target: torch.Tensor) -> tuple[float, torch.Tensor]:
        return min(temperature(logits, target), LARGEST / _size(logits)), torch.zeros(classes)

    methods = partial(_methods, classes=classes, only=only)
    heads = crossed(x, target, columns, folds(target, seed, groups), methods, suited, cross_entropy, only)
    heads = [_adjusted(head, target) for head in heads] if uniform else heads
    return heads if only or uniform else _chosen_first(heads, target, list(columns)[-1])


def _chosen_first(heads: list[Head], target: torch.Tensor, view: str) -> list[Head]:
    """Of LDA on this view, shrunk half-way or further, that one under which the held-out labels are likeliest, if some
    may be wrong: the more of them are, the further it is shrunk. It is left for another head that is right more often
    by two standard errors of their paired difference. The least cross-entropy of all prefers the logistic head for its
    manners: with 5, 20 and 80 images a class (MobileNetV2 at 96 px, three sets, test accuracy in %) it has 66.6, 83.5
    and 88.2, LDA 0.5 67.4, 84.2 and 89.1. (Not so where rare classes count as much: with a tail of 50 to 1, 67.9 to
    64.6.)"""

    def right(head: Head) -> torch.Tensor:
        assert head.logits is not None
        return (head.logits.argmax(1) == target).double()

    def loss(head: Head) -> float:
        assert head.logits is not None
        return mixture(head.logits, target)[0]

    best = min((head for head in heads if head.name in {f"{name} on {view}" for name in LIKELIEST}), key=loss)
    first = right(best)
    for head in heads:
        more = right(head) - first
        if more.mean() > 2 * more.std() / len(more) ** 0.5 and right(head).mean() > right(best).mean():
            best = head
    return [best, *(head for head in heads if head is not best)]


def close(x: torch.Tensor, target: torch.Tensor, column: slice, classes: int, uniform: bool) -> Affine:
    """LDA on the features (N, D) that a training left; or, where all classes count as much however rare they are, ridge
    on images that weigh as much as their class is rare. The features have seen their targets, so nothing can be
    cross-validated on them: the strengths are given. And how large the logits are says little, since from one fit to
    the next it changes three times: they are brought to one size, so that what the head counts is kept by a refit.

    Raced on MobileNetV2 and DeiT-tiny at 96 px, three sets, test accuracy: shrinkage 0.8 and 0.5 within 0.1 points at
    5 and 20 images a class, 0.5 ahead by 0.2 to 0.5 at 80 and 250, and 3.4 behind with 40 images a class of which 40 %
    have a wrong label (five runs). With a tail of 50 to 1, LDA less the prior has a balanced accuracy of 70.2 and 62.5,
    this ridge 72.1 and 64.4, and blended with the trained head 73.1 and 68.5."""
    if uniform:
        count = torch.bincount(target, minlength=classes)
        weight = len(target) / (count[target] * (count > 0).sum())
        closing = ridge(x[:, column], one_hot(target, classes), (FAIR,), weight)[f"ridge {FAIR:g}"]
    else:
        shrinkage = CLOSING[len(target) > FEW * classes]
        closing = lda(x[:, column], target, classes, (shrinkage,))[_name("lda", shrinkage)]
    return widened(scaled(closing, _to_one(closing, x[:, column])), column, x.shape[1])


def weigh(trained: Affine, closing: Affine, x: torch.Tensor, target: torch.Tensor) -> dict[str, Weights]:
    """What the head that was trained and the closing one count in each candidate. Both are brought to one size, which
    needs no label, and then to the temperature that suits x (N, D): images of val."""
    first, second = (_to_one(head, x) for head in (trained, closing))
    found = {"": (1.0, 0.0), "closing": (0.0, second), "blend": (first, second)}
    for name in ("closing", "blend"):
        weight, bias = summed(trained, closing, found[name])
        factor = 3 * temperature(3 * (x @ weight.T + bias), target)
        found[name] = found[name][0] * factor, found[name][1] * factor
    return found


def mix(
    trained: Affine,
    closing: Affine,
    weights: Weights,
    target: torch.Tensor,
    uniform: bool,
    learnt: torch.Tensor | None = None,
) -> Affine:
    """The weighted sum. The prior leaves the head that was trained before it is weighed, where it was learnt: a head
    that has been made less sure would be corrected too much. learnt (C,): the log of the prior that the loss or the
    sampler let it learn, so that nothing is corrected twice; None: that of the training images."""
    if not uniform:
        return summed(trained, closing, weights)
    prior = _log_prior(target, len(trained[1])) if learnt is None else learnt
    return summed((trained[0], trained[1] - prior), closing, weights)


def _size(logits: torch.Tensor) -> float:
    """The standard deviation over the classes, of the median image."""
    return float(logits.std(1).median().clamp(min=NONE))


def _to_one(head: Affine, x: torch.Tensor) -> float:
    """The factor that brings the root mean square of the logits of x, less their mean over the classes, to 1."""
    logits = x @ head[0].T + head[1]
    size = float((logits - logits.mean(1, keepdim=True)).square().mean().sqrt())
    return 1 / size if size > NONE else 0.0


def _adjusted(head: Head, target: torch.Tensor) -> Head:
    """Post-hoc logit adjustment with tau = 1 (Menon et al. 2021, eq. 9)."""
    assert head.logits is not None
    prior = _log_prior(target, len(head.bias))
    parts = tuple((images, (weight, bias - prior)) for images, (weight, bias) in head.parts)
    return replace(head, bias=head.bias - prior, logits=head.logits - prior, parts=parts)


def _log_prior(target: torch.Tensor, classes: int) -> torch.Tensor:
    return (torch.bincount(target, minlength=classes).clamp(min=1) / len(target)).log()


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


def _methods(x: torch.Tensor, classes: int, only: str | None) -> Iterator[Method]:
    if only:
        name, *strength = only.partition(" on ")[0].replace("nearest mean", "lda 1").split()
        method = {"lda": lda, "ridge": one_hot_ridge, "logistic": logistic}[name]
        words = {"strengths": tuple(map(float, strength))} if strength else {}
        yield partial(method, classes=classes, **words)
        return
    yield partial(lda, classes=classes)
    yield partial(one_hot_ridge, classes=classes)
    if x.numel() * classes <= MOST:
        yield partial(logistic, classes=classes)


def _name(method: str, strength: float) -> str:
    return "nearest mean" if (method, strength) == ("lda", 1.0) else f"{method} {strength:g}"


def lda(x: torch.Tensor, target: torch.Tensor, classes: int, strengths=SHRINKAGE) -> dict[str, Affine]:
    """Fisher 1936 with the pooled covariance of standardised features, shrunk towards the identity (Friedman 1989).
    Where classes have hardly two images, the variance of all of them stands in for what is missing of that within. A
    class without images is as likely as the least likely one at the centre."""
    x = x.double()
    count = torch.bincount(target, minlength=classes).double()
    there, seen = count > 0, int((count > 0).sum())
    mean = torch.zeros(classes, x.shape[1], dtype=x.dtype).index_add_(0, target, x) / count.clamp(min=1)[:, None]
    within, centre = x - mean[target], mean[there].mean(0)
    freedom, missing = len(x) - seen, max(2 * seen - len(x), 0)
    total = missing * x.var(0, correction=0) if missing else 0.0
    scale = varying(((within.square().sum(0) + total) / max(freedom + missing, 1)).sqrt(), centre)
    mean, within = (mean - centre) / scale, within / scale
    solved, prior, found = solver(within, max(freedom, 1)), (count.clamp(min=0.5) / count.sum()).log(), {}
    for s in strengths:
        weight = solved(1 - s, s, mean.T).T
        bias = prior - 0.5 * (weight * mean).sum(1)
        weight = torch.where(there[:, None], weight, 0) / scale
        bias = torch.where(there, bias - weight @ centre, bias[there].min())
        found[_name("lda", s)] = (weight.float(), bias.float())
    return found


def one_hot_ridge(x: torch.Tensor, target: torch.Tensor, classes: int, strengths=RIDGE) -> dict[str, Affine]:
    """Ridge to one-hot targets, ten times as large: towards the size of logits."""
    return {name: scaled(head, 10) for name, head in ridge(x, one_hot(target, classes), strengths).items()}


def logistic(x: torch.Tensor, target: torch.Tensor, classes: int, strengths=DECAY) -> dict[str, Affine]:
    """Cross-entropy with weight decay, by L-BFGS; each strength starts from the stronger one before it."""
    centre = x.mean(0)
    scale = varying(x.std(0, correction=0), centre)
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
