"""Eight heads in one process on cached features, or in a process each? python benchmarks/search.py [key=value …]

All draw the same heads. The features are in the cache before the clock starts, but for the processes that have caches
of their own, as those of a tool that keeps no features. Prints a Markdown table: wall and CPU seconds of all of it,
imports and all, how many times those of one process they are, and trials per minute behind them.
"""

import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
TRIALS = 8


def seconds(*command: str) -> tuple[float, float]:
    """Wall and CPU seconds of a command and what it starts."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        words, cache = ["recipe=probe", *sys.argv[1:], f"paths.logs={folder}"], f"paths.cache={folder}/cache"

        def search(name: str, trials: int) -> tuple[float, float]:
            return seconds("-m", "src.search", "probe", f"name={name}", f"trials={trials}", "seeds=0", *words, cache)

        search("warm", 1)
        one, few = search("eight", TRIALS), search("one", 1)
        with (Path(folder) / "search" / "eight" / "trials.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        heads = [[f"{key}={value}" for key, value in row.items() if key.startswith("probe.")] for row in rows]
        print(f"| {TRIALS} heads | wall s | CPU s |  |\n|---|---|---|---|")
        print(f"| one process | {one[0]:.1f} | {one[1]:.1f} | |", flush=True)
        for told, caches in (("on the cached features", False), ("that embeds for itself", True)):
            own = [f"paths.cache={folder}/own-{i}" if caches else cache for i in range(TRIALS)]
            rest = ("stages=[probe,select]", "logger=[csv]")
            each = [seconds("train.py", *words, *head, *rest, mine) for head, mine in zip(heads, own, strict=True)]
            wall, cpu = (sum(pair) for pair in zip(*each, strict=True))
            ratios = f"{wall / one[0]:.1f} and {cpu / one[1]:.1f} times"
            print(f"| a process each, {told} | {wall:.1f} | {cpu:.1f} | {ratios} |", flush=True)
    per = [max((a - b) / (TRIALS - 1), 1e-9) for a, b in zip(one, few, strict=True)]
    print(f"\na further head: {per[0]:.2f} s, {per[1]:.2f} s of CPU; {60 / per[0]:.0f} trials a minute")


if __name__ == "__main__":
    main()
