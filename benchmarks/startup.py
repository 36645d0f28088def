"""How long until --help and --cfg job answer, beside a bare @hydra.main script? python benchmarks/startup.py [n]

The three take turns, n=10 times. Prints a Markdown table: median, min–max, and the ratio of the medians.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE = """
import hydra

@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    pass

main()
"""


def seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parent.parent)
    return time.perf_counter() - start


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        commands = {
            "bare @hydra.main": [str(bare), f"hydra.run.dir={folder}"],
            "train.py --help": ["train.py", "--help"],
            "train.py --cfg job": ["train.py", "--cfg", "job"],
        }
        for command in commands.values():
            seconds(*command)  # writes the bytecode
        times = {name: [] for name in commands}
        for _ in range(n):
            for name, command in commands.items():
                times[name].append(seconds(*command))
    print("| | median s | min – max s | ratio |\n|---|---|---|---|")
    yardstick = statistics.median(times["bare @hydra.main"])
    for name, found in times.items():
        middle = statistics.median(found)
        print(f"| {name} | {middle:.3f} | {min(found):.3f} – {max(found):.3f} | {middle / yardstick:.2f} |")


if __name__ == "__main__":
    main()
