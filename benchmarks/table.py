"""What a table costs until the first batch, by its rows: seconds and memory, which must grow no faster.

python benchmarks/table.py --rows 10000 100000 1000000 --place DIR

The images are of 8 x 8 pixels, and all folders but the first are links to it, so that what is measured is the table:
reading it, dividing it, the scan (of 1,000 images), the audit, the fingerprint, the first batches.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
FOLDER = 10_000  # images in a folder


def made(place: Path, rows: int) -> Path:
    """place/<rows>/table.csv with columns path and target, and the images, all there."""
    root, first = place / str(rows), place / str(rows) / "0000"
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
        out.writelines(f"{i // FOLDER:04d}/{i % FOLDER:06d}.png,class_{i % 10}\n" for i in range(rows))
    return (root / "part.csv").rename(root / "table.csv").parent


def measured(root: Path, cache: Path) -> dict[str, float]:
    """Seconds of each part, and MiB that the process holds at most beyond what its imports took; of all, the seconds of
    the CPU, the MiB that are held at the end, and those of the images as a worker that is spawned is sent them."""
    from src.contracts import InputSpec
    from src.data.audit import audit
    from src.data.loader import Loaders
    from src.data.scan import fingerprint, scan
    from src.data.table import table

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def held() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    spec = InputSpec((8, 8), 3, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    began, before, spent, has, found = time.monotonic(), peak(), time.process_time(), held(), {}

    def part(name: str) -> None:
        nonlocal began
        found[name] = time.monotonic() - began
        found[f"{name} MiB"] = peak() - before
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
    ended = {"CPU": time.process_time() - spent, "held": held() - has}
    return found | ended | {"sent": len(pickle.dumps(source)) / 2**20}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    words.add_argument("--place", type=Path, required=True, help="where the tables and their images are made")
    words.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    said = words.parse_args()
    if said.one:
        print(json.dumps(measured(said.one, said.place / "cache")))
        return
    print("| rows | s | CPU s | bytes a row, at most | at the end | pickled | parts |\n|---|---|---|---|---|---|---|")
    for rows in said.rows:
        root = made(said.place, rows)
        command = [sys.executable, __file__, "--place", str(said.place), "--one", str(root)]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        spent, each = found.pop("CPU"), [found.pop("held"), found.pop("sent")]
        names = [name for name in found if not name.endswith("MiB")]
        each = [max(found[f"{name} MiB"] for name in names), *each]
        parts = ", ".join(f"{name} {found[name]:.1f} s {found[f'{name} MiB']:.0f} MiB" for name in names)
        cost = " | ".join(f"{mebibytes * 2**20 / rows:.0f}" for mebibytes in each)
        print(f"| {rows:,} | {sum(found[n] for n in names):.1f} | {spent:.1f} | {cost} | {parts} |", flush=True)


if __name__ == "__main__":
    main()
