"""BatchNorm that stands still, as it is and as part of the convolution before it: `python benchmarks/folded.py`.

A network without pretrained weights, its BatchNorm in eval mode as frozen statistics have it; in turns, on one thread:
the time of an answer and of a training step (forward and backward), the median of the ratios folded / as it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import timm
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from src.models.folded import fold, unfold


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--names", nargs="+", default=["mobilenetv2_100", "efficientnet_b0", "resnet18", "resnet50"])
    words.add_argument("--size", type=int, default=128)
    words.add_argument("--batch", type=int, default=32)
    words.add_argument("--turns", type=int, default=10)
    words.add_argument("--device", default="cpu")
    said = words.parse_args()
    torch.set_num_threads(1)
    print("| network | folded of BatchNorms | answer | training step |\n|---|---|---|---|")
    for name in said.names:
        net = timm.create_model(name, num_classes=10).eval().to(said.device).to(memory_format=torch.channels_last)
        images = torch.rand(said.batch, 3, said.size, said.size, device=said.device)
        images = images.contiguous(memory_format=torch.channels_last)
        norms = sum("BatchNorm" in type(module).__name__ for module in net.modules())

        def answer(net: torch.nn.Module = net, images: torch.Tensor = images) -> None:
            with torch.inference_mode():
                net(images)

        def step(net: torch.nn.Module = net, images: torch.Tensor = images) -> None:
            net.zero_grad()
            net(images).square().mean().backward()

        spent: dict[str, list[list[float]]] = {"answer": [], "step": []}
        folded = 0
        for _ in range(said.turns + 1):
            for kind, act in (("answer", answer), ("step", step)):
                plain = seconds(act, said.device)
                folded = fold(net, images[:1])
                spent[kind].append([plain, seconds(act, said.device)])
                unfold(net)
        ratios = [median(after / before for before, after in spent[kind][1:]) for kind in spent]
        print(f"| {name} | {folded} of {norms} | {ratios[0]:.2f} | {ratios[1]:.2f} |", flush=True)


def seconds(act: Callable[[], None], device: str) -> float:
    act()
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.process_time() if device == "cpu" else time.monotonic()
    act()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.process_time() if device == "cpu" else time.monotonic()) - began


if __name__ == "__main__":
    main()
