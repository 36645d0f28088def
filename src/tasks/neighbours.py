"""Who is nearest to whom: metrics of embeddings, each image asked for among all others of its split."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.functional import normalize

CHUNK = 1024  # images that are compared with all others at a time


def similarities(
    query: torch.Tensor, own: torch.Tensor, gallery: torch.Tensor, target: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(cosines (n, N), whether of the same class (n, N)), a chunk of queries at a time. own (n,): the place of each
    query (n, D) among the gallery (N, D), where it is not to be found: its cosine is -inf."""
    gallery, query = normalize(gallery.float(), dim=1), normalize(query.float(), dim=1)
    for some, places in zip(query.split(CHUNK), own.split(CHUNK), strict=True):
        itself = places[:, None] == torch.arange(len(gallery), device=places.device)
        yield (some @ gallery.T).masked_fill(itself, -torch.inf), (target[places][:, None] == target) & ~itself


def recalls(
    embeddings: torch.Tensor,
    target: torch.Tensor,
    k: int = 1,
    own: torch.Tensor | None = None,
    query: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(whether one of the k nearest is of the same class (n,), whether there is any (n,)): of all images, or of `own`
    alone, seen as `query`. Of equally near ones, the chance that the k drawn have one: a constant embedding knows
    nothing."""
    own = torch.arange(len(embeddings), device=embeddings.device) if own is None else own
    query = embeddings[own] if query is None else query
    hits, there = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)]
    for cosine, same in similarities(query, own, embeddings, target):
        edge = cosine.topk(min(k, cosine.shape[1]), 1).values[:, -1:]
        above, tied = cosine > edge, cosine == edge
        ties, alike = tied.sum(1).float(), (tied & same).sum(1).float()
        missed, taken = torch.ones_like(ties), above.sum(1)
        for j in range(k):  # drawn without putting back
            chance = ((ties - alike - j) / (ties - j).clamp(min=1)).clamp(min=0)
            missed = torch.where(taken + j < k, missed * chance, missed)
        hits.append(torch.where((above & same).any(1), 1.0, 1 - missed).cpu())
        there.append(same.any(1).cpu())
    return torch.cat(hits), torch.cat(there)


def precisions(embeddings: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(average precision at R (N,), whether R > 0 (N,)); R: how many others are of the image's class (Musgrave et al.
    2020, section 3.2: 1/R times the sum over the R nearest of the precision at each that is of the class). Those as
    near as the R-th one come in any order, and the mean over all orders counts."""
    own = torch.arange(len(embeddings), device=embeddings.device)
    found, there = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)]
    for cosine, same in similarities(embeddings, own, embeddings, target):
        r = same.sum(1, keepdim=True)
        most = int(r.max().clamp(min=1))
        near, order = cosine.topk(most, 1)
        hit = same.gather(1, order).float()
        edge = near.gather(1, (r - 1).clamp(min=0))
        above, tied, place = near > edge, cosine == edge, torch.arange(1, most + 1, device=cosine.device)
        before, sure = (cosine > edge).sum(1, keepdim=True), (hit * above).sum(1, keepdim=True)
        ties, alike = tied.sum(1, keepdim=True), (tied & same).sum(1, keepdim=True)
        drawn = (place - before - 1) * (alike - 1) / (ties - 1).clamp(min=1)  # hits among the ties before this place
        precision = torch.where(above, hit * hit.cumsum(1), alike / ties.clamp(min=1) * (sure + 1 + drawn)) / place
        found.append(((precision * (place <= r)).sum(1) / r[:, 0].clamp(min=1)).cpu())
        there.append((r[:, 0] > 0).cpu())
    return torch.cat(found), torch.cat(there)


def nearest(embeddings: torch.Tensor) -> tuple[list[int | None], list[float]]:
    """The place of the image that is nearest to each, and its cosine; None where there is no other."""
    places, values = [], []
    own = torch.arange(len(embeddings))
    for cosine, _ in similarities(embeddings, own, embeddings, own):
        best = cosine.max(1)
        places += best.indices.tolist()
        values += best.values.tolist()
    return ([None], [0.0]) if len(embeddings) == 1 else (places, values)
