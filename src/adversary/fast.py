"""Fast adversarial training: one step from a random start (Wong et al. 2020, arXiv:2001.03994, alg. 3)."""

from __future__ import annotations

from src.adversary.pgd import PGD


class Fast(PGD):
    """One step of 1.25 eps: shorter ones find less, and longer ones bring the overfitting to one step of section 5."""

    def __init__(self, eps: float | str = "4/255", norm: str = "linf", step: float = 1.25):
        super().__init__(eps, 1, norm, step)
