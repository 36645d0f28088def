"""Losses of pixels: cross-entropy, Dice, focal, Lovász, and their sums."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from src.contracts import ConfigError


class Mask(nn.Module):
    """(logits (B, C, H, W), batch with target (B, H, W) int) -> the weighted sum; a target outside 0 … C - 1 does not
    count. ce: cross-entropy. dice: 1 - soft Dice of the batch, the mean over its classes (Milletari et al. 2016).
    focal: gamma = 2 (Lin et al. 2017). lovasz: the convex surrogate of 1 - IoU (Berman et al. 2018, alg. 1)."""

    takes = "mask"

    def __init__(self, ce: float = 1.0, dice: float = 1.0, focal: float = 0.0, lovasz: float = 0.0):
        super().__init__()
        self.weights = {_ce: ce, _dice: dice, _focal: focal, _lovasz: lovasz}
        if not any(self.weights.values()):
            raise ConfigError("loss: ce, dice, focal and lovasz are all 0, and nothing is learnt. Set one above 0.")

    def forward(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        pixels = logits.float().movedim(1, -1).reshape(-1, logits.shape[1])
        target = batch["target"].reshape(-1)
        counts = target < logits.shape[1]
        if not counts.any():
            return logits.sum() * 0.0
        pixels, target = pixels[counts], target[counts]
        found = [weight * loss(pixels, target) for loss, weight in self.weights.items() if weight]
        return torch.stack(found).sum()


def _ce(pixels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return cross_entropy(pixels, target)


def _focal(pixels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    log_p = pixels.log_softmax(1).gather(1, target[:, None])[:, 0]
    return -((1 - log_p.exp()).square() * log_p).mean()


def _dice(pixels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    p, true = pixels.softmax(1), one_hot(target, pixels.shape[1]).float()
    there = true.sum(0) > 0
    return (1 - 2 * (p * true).sum(0) / (p.sum(0) + true.sum(0)))[there].mean()


def _lovasz(pixels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    found = []
    for c, p in enumerate(pixels.softmax(1).T):
        true = (target == c).float()
        if true.any():
            error, order = (true - p).abs().sort(descending=True)
            ranked = true[order]
            rest = true.sum() - ranked.cumsum(0)
            jaccard = 1 - rest / (rest + (1 - ranked).cumsum(0) + ranked.cumsum(0)).clamp(min=1e-12)
            slope = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
            found.append((error * slope).sum())
    return torch.stack(found).mean()
