"""Exports the model of a run and checks the file: python -m src.export RUN_DIR --format onnx|torch_export|timm."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from src import folder
from src.contracts import ConfigError, DataError, Root, Split
from src.data.images import read
from src.doors import opened
from src.exports import onnx, timm, torch_export
from src.exports.graph import Graph, Pictures, answers, compared, describe
from src.factory import SOURCE, make_within
from src.models.saved import load_model
from src.predictor import Predictor, place

TOLERANCE = 1e-4  # of the largest output: what another order of the same float32 sums may change


def export(
    run_dir: str,
    kind: str,
    out: str | None = None,
    preprocess: bool = False,
    int8: str | None = None,
    nearest: bool = False,
    most: int = 256,
) -> dict[str, Any]:
    """Writes the folder `out` (RUN_DIR/export/<kind>) and its parity.json, which is returned.

    Raises ConfigError where this kind of file cannot hold the network, or a package is missing.
    """
    if int8 and kind != "onnx":
        raise ConfigError(f"--int8 {int8}: only --format onnx has it. Leave one of them out.")
    if nearest and kind != "timm":
        raise ConfigError("--nearest: only --format timm leaves anything out. Leave one of them out.")
    if kind == "onnx":
        onnx.check()
    predictor = Predictor.load(run_dir, device="cpu")
    facts, (network, _) = predictor.facts, load_model(place(run_dir))
    if int8:
        onnx.suits(network.backbone, int8)
    head, lacks = timm.held(network, nearest, preprocess) if kind == "timm" else (None, [])
    graph = Graph(network, predictor.task.target, preprocess, predictor.saved.get("scaling"))
    where = Path(out or f"{run_dir}/export/{kind}")
    where.mkdir(parents=True, exist_ok=True)
    for stale in ("parity.json", "model.int8.onnx"):
        (where / stale).unlink(missing_ok=True)
    val = pictures(run_dir, predictor, "val", most)
    if kind == "timm":
        head = head or timm.nearest(
            network, graph.fed(pictures(run_dir, predictor, "train", 8 * most, "--nearest").views)
        )
        run = timm.write(graph, where, facts, head)
    else:
        run = {"onnx": onnx, "torch_export": torch_export}[kind].write(graph, where, facts)
        describe(where, facts, graph.described())
    given = graph.fed(val.views)
    wanted = answers(lambda views: graph.answered(predictor.network(views).float()), val.views)
    runs: dict[str, Callable] = {"fp32": run}
    if int8:
        static = int8 == "static"
        ranges = graph.fed(pictures(run_dir, predictor, "train", 128, "--int8 static").views) if static else None
        runs["int8"] = onnx.quantised(where, int8, ranges)
    said: dict[str, Any] = {"format": kind, "preprocess": preprocess, "images": len(given), "of": val.said}
    said |= {"left_out": lacks, "int8": int8}
    said["pytorch"] = scored(predictor, wanted, val, preprocess)
    for name, one in runs.items():
        found = answers(one, given)
        said[name] = compared(found, wanted) | scored(predictor, found, val, preprocess)
    if kind == "onnx":
        files = {name: where / f"model{'.int8' * (name == 'int8')}.onnx" for name in runs}
        for name, told in onnx.beside(graph, runs, files, given).items():
            said[name] |= told
    folder.write(where / "parity.json", json.dumps(said, indent=1) + "\n")
    return said


def scored(predictor: Predictor, found: torch.Tensor, of: Pictures, preprocess: bool) -> dict[str, float]:
    """How good it is, where that is known: the skill of the task, of which 1 is perfect; it goes by logits."""
    if of.target is None or predictor.task.dense:
        return {}
    found = found.clamp(min=1e-12).log() if preprocess and predictor.task.target == "class" else found
    return {"skill": float(predictor.task.skill(found, of.target))}


def pictures(run_dir: str, predictor: Predictor, split: str, most: int, fitted: str = "") -> Pictures:
    """Images of the run, evenly over its split; drawn ones where those are not there any more, and ConfigError where
    something, `fitted`, would be fitted on these."""
    spec = predictor.network.spec
    try:
        words = folder.RunFolder(Path(run_dir)).words()
        source = make_within(words["data"]["source"], SOURCE)
        images = source.splits[split]
        count = min(most, len(images))
        chosen = [i * len(images) // count for i in range(count)]
        views, kept = _readable(source.root, images, chosen, predictor)
        known = images.labelled and not predictor.task.dense
        target = torch.tensor([images.targets[i] for i in kept]) if known else None
        return Pictures(views, f"{len(views)} images of {split}", target)
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = str(error).split("\n")[0][:200]
        if fitted:
            raise ConfigError(
                f"{fitted} is fitted on images of {split}, and they could not be had: {why}\n"
                f"Put them back where {run_dir}/config.yaml says, or leave {fitted} out."
            ) from None
        draw = torch.Generator().manual_seed(0)
        coarse = torch.randint(0, 256, (32, spec.channels, 8, 8), generator=draw).float()
        views = torch.nn.functional.interpolate(coarse, spec.size, mode="bicubic").clamp(0, 255).to(torch.uint8)
        return Pictures(views, f"32 drawn images, since those of {split} could not be had: {why}")


def _readable(root: Root, images: Split, chosen: list[int], predictor: Predictor) -> tuple[torch.Tensor, list[int]]:
    """Views of those that can be read, as data.bad_images=skip leaves out the others, and which these are."""
    views, faults = {}, []
    for i in chosen:
        try:
            views[i] = predictor.view(read(root / images.paths[i], predictor.network.spec.channels))
        except DataError as error:
            faults.append(error)
    if not views:
        raise faults[0]
    return torch.stack([*views.values()]), [*views]


def shown(said: dict[str, Any], where: str) -> int:
    """The screen, and the exit code: 1 where the file does not say what the network says."""
    print(f"{where}: compared with PyTorch on {said['of']}")
    for name in ("pytorch", "fp32", "int8"):
        if isinstance(one := said.get(name), dict):
            print(f"  {name:8}" + "  ".join(f"{key} {value:.4g}" for key, value in one.items()))
    for lack in said["left_out"]:
        print(f"  not in it: {lack}")
    # not `>`, since nothing is above NaN
    far = not said["fp32"]["largest_difference"] <= TOLERANCE * max(1.0, said["fp32"]["largest_output"])
    if far and not said["left_out"]:
        print("The exported file differs by more than rounding. Do not use it; please report it.", file=sys.stderr)
    return int(far and not said["left_out"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m src.export", description=__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR", help="a finished run")
    parser.add_argument("--format", required=True, choices=("onnx", "torch_export", "timm"))
    parser.add_argument("--out", metavar="DIR", help="default: RUN_DIR/export/FORMAT")
    parser.add_argument("--preprocess", action="store_true", help="uint8 in, probabilities out; else normalised floats "
                        "in, logits out")  # fmt: skip
    parser.add_argument("--int8", choices=("dynamic", "static"), help="also in 8 bits (onnx), measured beside it")
    parser.add_argument("--nearest", action="store_true", help="timm: the nearest network that it can hold")
    words = parser.parse_args()
    where = words.out or f"{words.run_dir}/export/{words.format}"
    options = words.preprocess, words.int8, words.nearest
    return opened(lambda: shown(export(words.run_dir, words.format, where, *options), where))


if __name__ == "__main__":
    sys.exit(main())
