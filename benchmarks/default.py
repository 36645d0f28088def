"""Does the default demonstrate fine-tuning? python benchmarks/default.py [epochs]

Fine-tunes the default, trains it from scratch and trains its head alone, each with the same images, epochs and
augmentation, over 5 seeds. The rivals get three learning rates, of which the one with the best mean val accuracy
counts. Prints a Markdown table: mean ± standard deviation of the test accuracy.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SIDES = {
    "fine-tuned by the recipe (the default)": (["recipe=auto"], [None]),
    "fine-tuned, nothing decided": (["recipe=off", "finetune=full"], ["1e-3"]),
    "from scratch": (
        ["recipe=off", "model.pretrained=false", "model.in_chans=1", "model.image_size=32"],
        ["1e-3", "3e-3", "1e-2"],
    ),
    "head alone": (["recipe=off", "finetune=head"], ["3e-3", "1e-2", "3e-2"]),
}


def measure(words: list[str], rate: str | None, epochs: str, logs: Path) -> list[dict[str, float]]:
    name = f"{'_'.join(words)}_{rate}".replace("=", "-")
    command = [sys.executable, "train.py", "-m", "seed=0,1,2,3,4", *words]
    command += [f"optimizer.lr={rate}"] if rate else []
    command += [f"trainer.max_epochs={epochs}", f"name={name}", f"paths.logs={logs}", "logger=[csv]"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parent.parent)
    runs = sorted((logs / name).iterdir())
    found = [json.loads((run / "metrics.json").read_text()) for run in runs]
    for metrics, run in zip(found, runs, strict=True):
        metrics["seconds"] = sum(json.loads((run / "run.json").read_text())["seconds"].values())
    return found


def main() -> None:
    epochs = sys.argv[1] if len(sys.argv) > 1 else "10"
    print("| | learning rate | val acc % | test acc % | worst – best seed | s per run |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as logs:
        for side, (words, rates) in SIDES.items():
            tried = {rate: measure(words, rate, epochs, Path(logs)) for rate in rates}
            best = max(tried, key=lambda rate: statistics.mean(m["val/acc"] for m in tried[rate]))
            for rate, found in tried.items():
                val, test = ([100 * m[f"{split}/acc"] for m in found] for split in ("val", "test"))
                row = f"{statistics.mean(test):.1f} ± {statistics.stdev(test):.1f}"
                row = f"**{row}**" if rate == best else row
                seconds = statistics.median(m["seconds"] for m in found)
                print(
                    f"| {side} | {rate or 'decided'} "
                    f"| {statistics.mean(val):.1f} ± {statistics.stdev(val):.1f} | {row} "
                    f"| {min(test):.1f} – {max(test):.1f} | {seconds:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
