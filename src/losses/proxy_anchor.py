"""Proxy-Anchor: each class pulls and pushes all images of the batch, the worst ones most (Kim et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import one_hot, softplus

from src.losses.proxies import Proxies


class ProxyAnchor(Proxies):
    """(embeddings (B, D), batch with target (B,) int) -> eq. 4 of arXiv:2003.13911: the mean over the classes of the
    batch of log(1 + sum over their images of exp(-alpha (cos - margin))), and over all classes of log(1 + sum over the
    others of exp(alpha (cos + margin)))."""

    def __init__(
        self, counts: Sequence[int], outputs: int, alpha: float = 32.0, margin: float = 0.1, rate: float = 10.0
    ):
        super().__init__(counts, outputs, rate)
        self.alpha, self.margin = alpha, margin

    def forward(self, embeddings: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        cos = self.cosines(embeddings)
        own = one_hot(self.place[batch["target"]], cos.shape[1]).bool()
        here = own.any(0)
        pull = (-self.alpha * (cos - self.margin))[:, here].masked_fill(~own[:, here], -torch.inf)
        push = (self.alpha * (cos + self.margin)).masked_fill(own, -1e4)  # a class may be all of a batch
        return softplus(pull.logsumexp(0)).mean() + softplus(push.logsumexp(0)).mean()
