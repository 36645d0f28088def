"""Early-learning regularisation: what was said of an image early holds against its noisy label (Liu et al. 2020)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from src import world
from src.contracts import ConfigError


class ELR(nn.Module):
    """(logits (B, C), batch with target (B,) int and index (B,) of the training images) -> the mean over the batch of
    CE + strength log(1 - <p, t>), where t <- memory t + (1 - memory) p is a running prediction of each image
    (arXiv:2007.00151, eq. 6 and 9; p in t is held within 1e-4 of its ends and scaled to 1, as the authors' code does).

    t is in the checkpoint (N, C). With several processes each is told what the others saw, in every step: all hold the
    same t, whichever of them meets an image next. In eval mode (the second pass of SAM) t is read and not moved.
    """

    takes = "class"

    def __init__(self, strength: float = 3.0, memory: float = 0.7, counts: tuple[int, ...] = (), images: int = 0):
        super().__init__()
        if strength < 0:
            raise ConfigError(f"loss.strength={strength} is below 0.\nAt 0 it is cross-entropy; the paper has 3 and 7.")
        if not 0 <= memory < 1:
            raise ConfigError(f"loss.memory={memory} is outside 0 <= memory < 1.\nThe paper has 0.7 and 0.9.")
        self.strength, self.memory = strength, memory
        self.said = torch.zeros(images, len(counts))  # no buffer, which DDP would broadcast in each step

    def forward(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        index, p = batch["index"], logits.float().softmax(1).clamp(1e-4, 1 - 1e-4)
        self.said = self.said.to(p.device)
        if self.training:
            now = p.detach() / p.detach().sum(1, keepdim=True)
            for where, values in zip(world.rows(index), world.rows(now), strict=True):
                self.said[where] = self.memory * self.said[where] + (1 - self.memory) * values
        agreed = (p * self.said[index]).sum(1)
        return (
            cross_entropy(logits.float(), batch["target"], reduction="none") + self.strength * (1 - agreed).log()
        ).mean()

    def get_extra_state(self) -> torch.Tensor:
        return self.said

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.said = state.clone()
