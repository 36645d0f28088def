"""ArcFace: cross-entropy of cosines, with a margin on the angle to the right class (Deng et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from src.losses.proxies import Proxies


class ArcFace(Proxies):
    """(embeddings (B, D), batch with target (B,) int) -> eq. 3 of arXiv:1801.07698, the mean over the batch. margin: in
    radians. Beyond pi - margin the cosine is continued by a line, as the authors' code does, so that it never rises
    again."""

    def __init__(
        self, counts: Sequence[int], outputs: int, scale: float = 30.0, margin: float = 0.5, rate: float = 10.0
    ):
        super().__init__(counts, outputs, rate)
        self.scale, self.margin = scale, margin

    def forward(self, embeddings: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        cos, target = self.cosines(embeddings), self.place[batch["target"]][:, None]
        own = cos.gather(1, target).clamp(-1 + 1e-6, 1 - 1e-6)  # the angle has no slope at its ends
        turned = (own.acos() + self.margin).cos()
        line = own - self.margin * math.sin(self.margin)
        moved = torch.where(own > math.cos(math.pi - self.margin), turned, line)
        return cross_entropy(self.scale * cos.scatter(1, target, moved), target[:, 0])
