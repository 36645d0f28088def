"""Symmetric cross-entropy: with the reverse one, which is bounded, for noisy labels (Wang et al. 2019)."""

from __future__ import annotations

import torch
from torch import nn

from src.contracts import ConfigError
from src.losses.classes import of_target


class SymmetricCE(nn.Module):
    """(logits (B, C), batch with target (B,) int, or (B, C) of mixed images) -> the mean of
    alpha CE + beta RCE, where RCE = -sum_k p_k log q_k and log 0 is taken as `floor`: -floor (1 - p_y)
    (arXiv:1908.06112, eq. 5 to 8). In the paper alpha is 0.1 on CIFAR-10, 6 on CIFAR-100, with beta 1 and 0.1."""

    takes, soft = "class", True

    def __init__(self, alpha: float = 0.1, beta: float = 1.0, floor: float = -4.0):
        super().__init__()
        if alpha < 0 or beta < 0 or not alpha + beta > 0:
            raise ConfigError(
                f"loss.alpha={alpha} loss.beta={beta}: they are parts of a loss, and one must count.\n"
                "Set both to 0 or more, and one above 0."
            )
        if not floor < 0:
            raise ConfigError(f"loss.floor={floor} stands for log 0, and is not below 0.\nThe paper has -4.")
        self.alpha, self.beta, self.floor = alpha, beta, floor

    def forward(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        log_p = logits.float().log_softmax(1)
        each = -self.alpha * log_p - self.beta * self.floor * (1 - log_p.exp())
        return of_target(each, batch["target"]).mean()
