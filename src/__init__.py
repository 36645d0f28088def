"""Every door comes through here before it imports torch, whose threads (libgomp) read this once."""

import os

from src import world

# A thread that waits for another spins for 10 µs instead of 3 ms: that one may have no core to run on meanwhile. On two
# cores (docs/results.md, crowded cores) it is twice as fast beside another job; alone it would be a tenth slower.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ) and world.crowded():
    os.environ["GOMP_SPINCOUNT"] = "1000"
