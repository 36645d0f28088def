"""What a table costs until the first batch: seconds, which grow no faster than its rows, and memory, which does not.

python benchmarks/table.py --rows 10000 100000 1000000 10000000 --place DIR [--shuffled]

The images are of 8 x 8 pixels, and all folders but the first are links to it, so that what is measured is the table:
reading it, dividing it, the scan (of 1,000 images), the audit, the fingerprint, the first batches. --shuffled: its rows
are in no order. Memory is what the process holds for itself beyond what its imports took, RssAnon of /proc/self/status,
looked at every 10 ms; not the pages of files, which the system takes back where it is short.
"""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
FOLDER = 10_000  # images in a folder


def made(place: Path, rows: int, shuffled: bool) -> Path:
    """place/<rows>/table.csv with columns path and target, and the images, all there."""
    root = place / f"{rows}{'-shuffled' if shuffled else ''}"
    first = root / "0000"
    if (root / "table.csv").is_file():
        return root
    shutil.rmtree(root, ignore_errors=True)
    first.mkdir(parents=True)
    for i in range(min(FOLDER, rows)):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
            first / f"{i:06d}.png"
        )
    for folder in range(1, -(-rows // FOLDER)):
        (root / f"{folder:04d}").symlink_to(first, target_is_directory=True)
    with (root / "part.csv").open("w") as out:
        out.write("path,target\n")
        order = np.random.default_rng(0).permutation(rows) if shuffled else range(rows)
        out.writelines(f"{i // FOLDER:04d}/{i % FOLDER:06d}.png,class_{i % 10}\n" for i in order)
    return (root / "part.csv").rename(root / "table.csv").parent


class Memory(threading.Thread):
    """MiB that the process holds for itself: `now`, and `most` since it was last set."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.first = self.now()
        self.most = 0.0
        self.start()

    def now(self) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

    def run(self) -> None:
        while True:
            self.most = max(self.most, self.now() - self.first)
            time.sleep(0.01)


def measured(root: Path, cache: Path) -> dict[str, float]:
    """Seconds of each part, and MiB at most; of all, the seconds of the CPU, the MiB at the end, and those of the
    images as a worker that is spawned is sent them."""
    from src import buffers
    from src.contracts import InputSpec
    from src.data.audit import audit
    from src.data.loader import Loaders
    from src.data.scan import fingerprint, scan
    from src.data.table import table

    buffers.folder = cache
    spec = InputSpec((8, 8), 3, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    memory, began, spent, found = Memory(), time.monotonic(), time.process_time(), {}

    def part(name: str) -> None:
        nonlocal began
        found[name] = time.monotonic() - began
        found[f"{name} MiB"], memory.most = memory.most, 0.0
        began = time.monotonic()

    source = table(root, "table.csv")
    part("table")
    source = scan(source, 3, "error", cache, 1000)
    part("scan")
    audit(source, 1000)
    part("audit")
    fingerprint(source)
    part("fingerprint")
    loaders = Loaders(source, spec, 0, lambda spec: None)
    for batch in (loaders.loader("train", train=True), loaders.loader("val")):
        next(iter(batch))
    part("batch")
    ended = {"CPU": time.process_time() - spent, "held": memory.now() - memory.first}
    return found | ended | {"sent": len(pickle.dumps(source)) / 2**20}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    words.add_argument("--place", type=Path, required=True, help="where the tables and their images are made")
    words.add_argument("--shuffled", action="store_true", help="the rows are in no order")
    words.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    said = words.parse_args()
    if said.one:
        print(json.dumps(measured(said.one, said.place / "cache")))
        return
    print("| rows | s | CPU s | MiB, at most | at the end | pickled | parts |\n|---|---|---|---|---|---|---|")
    for rows in said.rows:
        root = made(said.place, rows, said.shuffled)
        command = [sys.executable, __file__, "--place", str(said.place), "--one", str(root)]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        spent, each = found.pop("CPU"), [found.pop("held"), found.pop("sent")]
        names = [name for name in found if not name.endswith("MiB")]
        each = [max(found[f"{name} MiB"] for name in names), *each]
        parts = ", ".join(f"{name} {found[name]:.1f} s {found[f'{name} MiB']:.0f} MiB" for name in names)
        cost = " | ".join(f"{mebibytes:.0f}" for mebibytes in each)
        print(f"| {rows:,} | {sum(found[n] for n in names):.1f} | {spent:.1f} | {cost} | {parts} |", flush=True)


if __name__ == "__main__":
    main()
