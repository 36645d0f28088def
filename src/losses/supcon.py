"""Supervised contrastive loss: images of a class attract each other (Khosla et al. 2020); with two of each, NT-Xent."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import normalize


class SupCon(nn.Module):
    """(embeddings (B, D), batch with target (B,) int) -> eq. 2 of arXiv:2004.11362 (L_out), the mean over the images
    that have another of their class in the batch; under DDP in the batch of each rank. NT-Xent (Chen et al. 2020) is
    the case of two images of each class."""

    takes = "identity"
    several = True  # images of a class must meet in a batch

    def __init__(self, temperature: float = 0.1):
        super().__init__()
        self.temperature = temperature

    def forward(self, embeddings: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        z, target = normalize(embeddings.float(), dim=1), batch["target"]
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        logits = (z @ z.T / self.temperature).masked_fill(itself, -1e9)
        pairs = (target[:, None] == target) & ~itself
        count = pairs.sum(1)
        if not count.any():
            return z.sum() * 0.0
        log_p = (logits.log_softmax(1) * pairs).sum(1) / count.clamp(min=1)
        return -log_p[count > 0].mean()
