"""What it cost to make, and what it costs to use."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from src.pages.blocks import Section, Table
from src.pages.facts import Facts

TIMES = 5


def cost(facts: Facts) -> Iterator[Section]:
    stages = [[name, f"{seconds:.1f}"] for name, seconds in facts.state.get("seconds", {}).items()]
    blocks = [Table(["stage", "seconds"], [*stages, ["all", f"{sum(facts.state.get('seconds', {}).values()):.1f}"]])]
    yield Section(
        "What it cost", [*blocks, *([Table(["the model that is shipped", ""], _network(facts))] if facts.model else [])]
    )


def _network(facts: Facts) -> list[list[str]]:
    network, spec = facts.network, facts.run.spec
    image = torch.zeros(1, spec.channels, *spec.size, dtype=torch.uint8, device=network.mean.device)
    several = image.expand(32, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(image)
    alone, together = (_seconds(network, images) for images in (image, several))
    spent = facts.state.get("seconds", {}).get("fit")
    epochs, images = facts.metrics.get("fit/epochs"), facts.state.get("images", {}).get("train", 0)
    rows = [
        ["parameters", f"{sum(p.numel() for p in network.parameters()):,}"],
        ["multiply-adds of an image", f"{counter.get_total_flops() / 2e6:,.1f} million"],
        [
            "input",
            f"{spec.channels} × {spec.size[0]} × {spec.size[1]}"
            + (", twice: mirrored, too" if network.mirror else "")
            + (", by two backbones" if network.frozen else ""),
        ],
        ["one image", f"{1000 * alone:.1f} ms"],
        ["images a second, 32 at once", f"{32 / together:,.0f}"],
        ["where", f"{_device(network)}, {torch.get_num_threads()} thread(s), decoding not counted"],
    ]
    if spent and epochs:
        rows.append(["images a second in the fit", f"{images * epochs / spent:,.0f}, all counted"])
    rows.append(
        ["memory of the run at its peak", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB"]
    )
    if torch.cuda.is_available():
        rows.append(["memory of the GPU at its peak", f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GB"])
    return rows


def _device(network: torch.nn.Module) -> str:
    return torch.cuda.get_device_name() if next(network.parameters()).is_cuda else "CPU"


def _seconds(network: torch.nn.Module, images: torch.Tensor) -> float:
    spent = []
    with torch.inference_mode():
        for _ in range(TIMES):
            began = time.perf_counter()
            network(images).cpu()
            spent.append(time.perf_counter() - began)
            if spent[-1] > 1:
                break  # it is known well enough
    return median(spent)
