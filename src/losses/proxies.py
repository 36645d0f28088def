"""What losses of embeddings with a learnt vector for each class share: the vectors, and where they begin."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import normalize


class Proxies(nn.Module):
    """One vector for each class that has a training image. They are parameters of the loss: the optimizer moves them at
    `rate` times its learning rate, without decay, and they are in the checkpoint, but in no model that is shipped."""

    takes = "identity"
    place: torch.Tensor  # class -> its proxy

    def __init__(self, counts: Sequence[int], outputs: int, rate: float = 10.0):
        super().__init__()
        there = torch.tensor(counts) > 0
        self.rate = rate
        self.register_buffer("place", there.cumsum(0) - 1, persistent=False)
        self.proxies = nn.Parameter(torch.randn(int(there.sum()), outputs))

    @torch.no_grad()
    def begin(self, embeddings: torch.Tensor, target: torch.Tensor) -> None:
        """Puts proxies where the classes are before the fit: at random they would first undo what the network knows."""
        for c in target.unique().tolist():
            mean = normalize(embeddings[target == c].float(), dim=1).mean(0)
            self.proxies[self.place[c]] = normalize(mean, dim=0) if bool(mean.any()) else self.proxies[self.place[c]]

    def cosines(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, proxies)"""
        return normalize(embeddings.float(), dim=1) @ normalize(self.proxies.float(), dim=1).T
