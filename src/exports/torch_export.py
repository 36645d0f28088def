"""A torch.export program, with a free batch: torch.export.load("model.pt2").module()(image)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from src.exports.graph import Graph


def write(graph: Graph, where: Path, facts: Mapping[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """model.pt2; -> what runs it."""
    spec, file = graph.network.spec, where / "model.pt2"
    example = graph.fed(torch.zeros(2, spec.channels, *spec.size, dtype=torch.uint8))
    shapes = {"image": {0: torch.export.Dim("batch", min=1, max=2**16)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own exporter
        torch.export.save(torch.export.export(graph.eval(), (example,), dynamic_shapes=shapes), file)
        return torch.export.load(file).module()
