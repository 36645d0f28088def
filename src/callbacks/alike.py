"""Before the first step all ranks say what they run: on machines with other files, words or versions they would train
one network on two things."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from src import world
from src.contracts import ConfigError


class Alike(pl.Callback):
    """said: what -> a short text that must be equal on every rank. Raises ConfigError on all of them."""

    def __init__(self, **said: str):
        self.said = said

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        told = world.gather(self.said)
        for what, mine in told[0].items():
            if others := [rank for rank, said in enumerate(told) if said[what] != mine]:
                raise ConfigError(
                    f"The ranks run different things: {what} of rank {others[0]} is {told[others[0]][what]}, of rank 0 "
                    f"{mine} ({len(others)} of {len(told)} ranks differ).\n"
                    "Give all machines the same code, packages and files, and the run folder on a shared disk."
                )
