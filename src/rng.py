"""Keyed randomness: every random draw is a function of what it is for, so nothing random is ever stored."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from src import buffers


def key(*what: int | str) -> int:
    """A 63-bit seed that depends on every part of `what`: key(seed, "order", epoch)."""
    text = "\x1f".join(map(str, what)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def seed(*what: int | str) -> None:
    """Starts the global generators of torch (all devices), NumPy and Python from `key(*what)`."""
    value = key(*what)
    torch.manual_seed(value)
    np.random.seed(value % 2**32)
    random.seed(value)


def permutation(n: int, *what: int | str) -> torch.Tensor:
    """A permutation of 0..n-1, without touching the global generators."""
    found = torch.from_numpy(buffers.empty(n, np.int64))
    return torch.randperm(n, generator=torch.Generator().manual_seed(key(*what)), out=found)


@contextmanager
def keyed(*what: int | str) -> Iterator[None]:
    """Runs the block under `key(*what)` and puts the CPU generators back: for augmentation inside a loader."""
    value, python, numpy, cpu = key(*what), random.getstate(), np.random.get_state(), torch.get_rng_state()
    torch.default_generator.manual_seed(value)
    np.random.seed(value % 2**32)
    random.seed(value)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
