"""How unlike the training images an image is: by its logits, or by where its features lie. More is stranger."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize, softplus

Tensors = dict[str, torch.Tensor]
MOST = 2_000  # training images that are kept to compare with
NEIGHBOUR = 5  # whose distance counts
AXES = 256  # directions in which the spread of a class is kept, the widest ones; it is taken as equal in the others
FEATURES = ("mahalanobis", "knn")


def energy(logits: torch.Tensor, kind: str) -> torch.Tensor:
    """-log sum exp (Liu et al. 2020); of labels the sum over them (Wang et al. 2021)."""
    return -softplus(logits).sum(1) if kind == "labels" else -logits.logsumexp(1)


def strangeness(
    method: str, kept: Tensors, logits: torch.Tensor, features: torch.Tensor | None, kind: str
) -> torch.Tensor:
    """(N,) by any method."""
    if method == "energy":
        return energy(logits.float(), kind)
    assert features is not None, "this score needs the last features"
    return score(method, kept, features)


def reference(method: str, x: torch.Tensor, group: torch.Tensor) -> Tensors:
    """What is kept of training features (N, D), whose classes are `group` (N,)."""
    if method == "knn":
        return {"known": normalize(x, dim=1).half()}
    from sklearn.covariance import ledoit_wolf_shrinkage  # here, since predicting needs none

    names, own = group.unique(return_inverse=True)
    mean = torch.stack([x[own == c].mean(0) for c in range(len(names))])
    inner = x - mean[own]
    part, size = float(ledoit_wolf_shrinkage(inner.numpy(), assume_centered=True)), float(inner.square().mean())
    _, root, axes = torch.linalg.svd(inner.double() / len(x) ** 0.5, full_matrices=False)
    spread, axes = (1 - part) * root[:AXES].square(), axes[:AXES]
    left = (1 - part) * float(root[AXES:].square().sum()) / max(x.shape[1] - AXES, 1)
    floor = max(left + part * size, 1e-12)
    inverse = (spread - left).clamp(min=0) / (spread + part * size).clamp(min=1e-12)
    return {"mean": mean, "axes": (inverse.sqrt()[:, None] * axes).float(), "floor": torch.tensor(floor)}


def score(method: str, kept: Tensors, x: torch.Tensor) -> torch.Tensor:
    """(N, D) -> (N,). mahalanobis: the squared distance to the nearest class, by the spread that all classes share (Lee
    et al. 2018), shrunk (Ledoit & Wolf 2004); by the Woodbury identity, from its widest axes. knn: the distance to the
    fifth neighbour, of features of length 1 (Sun et al. 2022)."""
    x = x.float().cpu()
    if method == "knn":
        away = torch.cdist(normalize(x, dim=1), kept["known"].float())
        return away.kthvalue(min(NEIGHBOUR, away.shape[1]), 1).values
    away = torch.cdist(x, kept["mean"], compute_mode="donot_use_mm_for_euclid_dist").square()
    along = torch.cdist(x @ kept["axes"].T, kept["mean"] @ kept["axes"].T).square()
    return ((away - along) / kept["floor"]).min(1).values
