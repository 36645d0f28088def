"""Every door comes through here before it imports torch, whose threads (libgomp) read this once."""

import os

from src import world

# A thread that waits for another spins for 10 µs instead of 3 ms: beside another job, on few cores, that other one has
# none to run on meanwhile. Measured on two (docs/results.md, crowded cores); many would take long to be woken.
if world.cores() <= 4 and not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
    os.environ["GOMP_SPINCOUNT"] = "1000"
