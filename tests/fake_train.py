"""Stands in for train.py where a test is about what starts it: no torch; val/acc is a function of the words."""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

words = dict(word.split("=", 1) for word in sys.argv[1:])
run, lr = Path(words["run_dir"]), float(words.get("optimizer.lr", 0.001))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
if "data.root" in words and not Path(words["data.root"]).is_dir():
    print("data.root: there is no such folder.\nSet it.", file=sys.stderr)
    sys.exit(3)
with (run / "began.txt").open("a") as stream:
    stream.write(json.dumps(words) + "\n")
(run / "config.yaml").write_text("task: {monitor: val/acc, mode: max}\n")
history = run / "metrics.csv"
if not history.is_file():
    history.write_text("epoch,step,val/acc\n")
seed = 0 if words.get("recipe") == "probe" else int(words.get("seed", 0))
body = float(words.get("finetune.body", 0))
acc = 0.9 - 0.1 * abs(math.log10(lr) + 2) - 0.01 * seed + 0.1 * body


def fault(epoch: int) -> None:
    """FAKE_KILL: [[folder, epoch, driver | trial | both], …]; each once."""
    for i, (folder, when, victim) in enumerate(json.loads(os.environ.get("FAKE_KILL", "[]"))):
        if (folder, when) == (run.name, epoch) and not (run / f"killed{i}").exists():
            (run / f"killed{i}").touch()
            for number in {"driver": [os.getppid()], "trial": [os.getpid()]}.get(victim, [os.getppid(), os.getpid()]):
                os.kill(number, signal.SIGKILL)
            time.sleep(4 if epoch else 0)  # an orphan is still at work when the driver comes back


for epoch in range(history.read_text().count("\n") - 1, int(words.get("trainer.max_epochs", 2))):
    fault(epoch)
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
    if words.get("loss.label_smoothing") == "0.2":
        os.kill(os.getpid(), signal.SIGKILL)
    if words.get("augment") == "randaug":
        print(
            f"warming up\n\nNonFinite: The loss is nan in epoch {epoch}.\nLower it.\nDEBUG=1 shows where.",
            file=sys.stderr,
        )
        sys.exit(1)
    with history.open("a") as stream:
        stream.write(f"{epoch},{epoch},{acc * (epoch + 1) / 10}\n")
named = {"val/acc": acc, "val/nll": None, "test/acc": acc - 0.1, "val/images": 9, "val/ece/uncalibrated": 0.1}
kept = named if words.get("stages", "test").count("test") else {k: v for k, v in named.items() if k != "test/acc"}
seconds = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"), "CUDA": os.environ.get("CUDA_VISIBLE_DEVICES")}
(run / "metrics.json").write_text(json.dumps(kept))
spent = {"fit": 10 * (1 + abs(math.log10(lr))) + 30 * body}
(run / "run.json").write_text(json.dumps({"state": "finished", "seconds": spent, "place": seconds}))
