"""What calibration, sets and scores of unfamiliar images are worth, on the same val and test images for every method.

`python benchmarks/calibration.py --data DIR --weights FILE`: DIR holds weather/, signs/, clothing/ as
{train,val,test}/CLASS/*.jpg; the test images of the other sets are the unfamiliar ones. Runs that are there already are
not repeated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from race import table  # noqa: E402
from runs import train  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from sklearn.metrics import roc_auc_score  # noqa: E402

from src import stats, tables  # noqa: E402
from src.decisions import conformal, scaling, unfamiliar  # noqa: E402
from src.folder import RunFolder  # noqa: E402
from src.predictor import Predictor  # noqa: E402

NET = "mobilenetv2_100"
Pair = tuple[torch.Tensor, torch.Tensor]  # logits and last features


def fitted(words: argparse.Namespace, name: str, seed: int) -> Path:
    out = Path(words.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    file = table(out, argparse.Namespace(data=words.data, shots=words.shots, tail=1, noise=0), name, seed)
    run = out / f"{name}-{words.shots}-{seed}-{words.refit}"
    if "test/acc" not in RunFolder(run).metrics():
        given = [
            *("data=csv", f"data.root={Path(words.data).absolute() / name}"),
            *(f"data.table={file}", f"model.name={NET}", f"model.weights={Path(words.weights).absolute()}"),
            *(f"model.image_size={words.size}", f"trainer.max_epochs={words.epochs}", f"refit={words.refit}"),
            *(f"seed={seed}", f"paths.cache={out / 'cache'}", "logger=[csv]", "recipe=fast"),
        ]
        train(given, run)
    return run


def seen(run: Path, root: Path, paths: list[str]) -> Pair:
    """logits and last features of these images."""
    predictor, found = Predictor.load(run, "cpu"), []
    for some in (paths[start : start + 64] for start in range(0, len(paths), 64)):
        views = torch.stack([predictor.see(root / path).view for path in some])
        with torch.inference_mode():
            found.append(predictor.network.both(views.contiguous(memory_format=torch.channels_last)))
    logits, features = (torch.cat(parts) for parts in zip(*found, strict=True))
    return logits, features


def splits(run: Path) -> dict[str, list[tuple[str, str]]]:
    """split -> paths and classes, in their order."""
    found: dict[str, list[tuple[str, str]]] = {}
    for row in tables.read(run / "split.csv"):
        found.setdefault(row["split"], []).append((row["path"], row["target"]))
    return found


def probabilities(kept: dict[str, torch.Tensor], logits: torch.Tensor, target: torch.Tensor) -> None:
    for method in ("none", "temperature", "vector", "auto"):
        how, crossed = scaling.choose(kept["logits"], kept["target"], "class", method, 0)
        now = scaling.scaled(how, logits)
        p = now.softmax(1)
        right = p.argmax(1) == target
        nll = scaling.loss(now, target, "class").mean()
        brier = (p - torch.nn.functional.one_hot(target, p.shape[1])).square().sum(1).mean()
        print(
            f"  {method:12} {how['method']:12} acc {100 * right.float().mean():.1f} nll {nll:.4f} brier {brier:.4f} "
            f"ece {stats.ece(p.max(1).values, right):.4f}"
        )
        if method != "auto":
            continue
        for kind in ("lac", "aps", "raps"):
            for alpha in (0.1, 0.05):
                fit = conformal.fit(crossed.softmax(1), kept["target"], kind, alpha, True)
                inside = conformal.sets(p, fit)
                held = inside.gather(1, target[:, None]).float().mean()
                print(f"  {kind:5} alpha {alpha}: coverage {held:.3f} size {inside.sum(1).float().mean():.3f}")


def strange(parts: dict[str, Pair], group: torch.Tensor, foreign: dict[str, Pair]) -> None:
    for method in ("energy", "mahalanobis", "knn"):
        kept = {} if method == "energy" else unfamiliar.reference(method, parts["train"][1], group)
        own = unfamiliar.strangeness(method, kept, *parts["test"], "class")
        cut = conformal.threshold(unfamiliar.strangeness(method, kept, *parts["val"], "class"), 0.05)
        said = [f"  {method:12} flags {100 * (own > cut).float().mean():.1f} % of its own test images;"]
        for name, pair in foreign.items():
            other = unfamiliar.strangeness(method, kept, *pair, "class")
            truth = torch.cat([torch.zeros(len(own)), torch.ones(len(other))])
            auroc = roc_auc_score(truth.numpy(), torch.cat([own, other]).numpy())
            passed = (other <= own.quantile(0.95)).float().mean()
            flags = f"{100 * (other > cut).float().mean():.0f} % flagged"
            said.append(f"{name}: AUROC {100 * auroc:.1f} FPR95 {100 * passed:.1f} {flags};")
        print(" ".join(said))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", default="logs/calibration")
    parser.add_argument("--sets", default="weather,signs,clothing")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--shots", type=int, default=60)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--refit", default="head", choices=("none", "head", "all"))
    words = parser.parse_args()
    names = words.sets.split(",")
    for seed in map(int, words.seeds.split(",")):
        runs = {name: fitted(words, name, seed) for name in names}
        for name, run in runs.items():
            there, root = splits(run), Path(words.data) / name
            parts = {split: seen(run, root, [path for path, _ in there[split]]) for split in there}
            classes = sorted({c for _, c in there["train"]})
            index = {split: torch.tensor([classes.index(c) for _, c in there[split]]) for split in there}
            print(f"{name} seed {seed}: {', '.join(f'{split} {len(there[split])}' for split in there)}")
            kept = load_file(run / "held_out.safetensors")
            probabilities(kept, parts["test"][0], index["test"])
            foreign = {
                other: seen(run, Path(words.data) / other, [path for path, _ in splits(runs[other])["test"]])
                for other in names
                if other != name
            }
            strange({**parts, "val": (kept["logits"], parts["val"][1])}, index["train"], foreign)


if __name__ == "__main__":
    main()
