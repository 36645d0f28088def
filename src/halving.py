"""Successive halving: all begin, after each round the better half goes on, until one is left, which ends its fit."""

from __future__ import annotations

import math


def ends(rivals: int, epochs: int) -> list[int]:
    """The epochs after which `rivals` are halved: of 2, after a half of their fit, of 4 after a quarter and a half
    (Karnin et al. 2013, alg. 3; Jamieson & Talwalkar 2016: all rounds but the first cost the same)."""
    rounds = math.ceil(math.log2(rivals))
    return [math.ceil(epochs / 2 ** (rounds - turn)) for turn in range(rounds)]


def kept(rivals: int) -> int:
    return math.ceil(rivals / 2)


def cost(rivals: int) -> float:
    """Of all of it, in fits: 1 for one, 1.5 for two, 2 for four, 2.5 for eight."""
    fits, before, many = 0.0, 0.0, 2**20
    for end in (*ends(rivals, many), many):
        fits, before, rivals = fits + rivals * (end - before) / many, end, kept(rivals)
    return fits


def looks(rivals: int) -> int:
    """How many times a network is measured."""
    return 0 if rivals < 2 else rivals + looks(kept(rivals))
