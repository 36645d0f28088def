"""How long until --help and --cfg job answer, beside a bare @hydra.main script, and until a Predictor is loaded, beside
a bare import of torch and timm? python benchmarks/startup.py [n]

All take turns, n=10 times. Prints Markdown tables: median, min–max, and the ratio of the medians.
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


SHIP = """
import sys
from pathlib import Path
from src.models.network import Network
from src.models.saved import save_model
from src.models.timm_backbone import timm_backbone

build = {"name": "convnext_nano", "pretrained": False, "image_size": 224}
facts = {"build": {"_target_": "src.models.timm_backbone.timm_backbone", **build}, "classes": list("abcd")}
task = {"_target_": "src.tasks.multiclass.multiclass", "_partial_": True, "monitor": "val/acc", "mode": "max"}
facts |= {"task": task, "labels": {}, "resize": "crop"}
save_model(Network(timm_backbone(**build), 4, stages=True), Path(sys.argv[1]), facts)
"""
LOAD = "import sys; from src.predictor import Predictor; Predictor.load(sys.argv[1])"


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as folder:
        bare, model = Path(folder) / "bare.py", f"{folder}/model"
        bare.write_text(BARE)
        seconds("-c", SHIP, model)
        commands = {
            "bare @hydra.main": [str(bare), f"hydra.run.dir={folder}"],
            "train.py --help": ["train.py", "--help"],
            "train.py --cfg job": ["train.py", "--cfg", "job"],
            "import torch, timm": ["-c", "import torch, timm"],
            "Predictor.load, convnext_nano": ["-c", LOAD, model],
        }
        for command in commands.values():
            seconds(*command)  # writes the bytecode
        times = {name: [] for name in commands}
        for _ in range(n):
            for name, command in commands.items():
                times[name].append(seconds(*command))
    print("| | median s | min – max s | ratio |\n|---|---|---|---|")
    for name, found in times.items():
        beside = "bare @hydra.main" if "hydra" in name or "train.py" in name else "import torch, timm"
        middle = statistics.median(found)
        ratio = middle / statistics.median(times[beside])
        print(f"| {name} | {middle:.3f} | {min(found):.3f} – {max(found):.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
