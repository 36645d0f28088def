"""ONNX, with a free batch, checked in onnxruntime; and its int8 versions. pip install onnx onnxscript onnxruntime"""

from __future__ import annotations

import importlib
import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from src.contracts import ConfigError
from src.exports.graph import Graph

PACKAGES = "onnx onnxscript onnxruntime"
ROUNDS = 30  # of which the median is a latency
QUANTISED = ["Conv", "MatMul", "Gemm"]  # where the work is; int8 softmax and norms of transformers cost accuracy


def check() -> None:
    """Raises ConfigError where a package is missing."""
    for name in PACKAGES.split():
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"--format onnx needs {error.name}, which is not installed.\n"
                f"Install it with `pip install {PACKAGES}`, or take another --format."
            ) from error


def suits(backbone: torch.nn.Module, way: str) -> None:
    """Raises ConfigError where there is nothing to be quantised so."""
    if way == "dynamic" and not any(isinstance(module, torch.nn.Linear) for module in backbone.modules()):
        raise ConfigError(
            "--int8 dynamic: it is for linear layers, and beside its head this network has convolutions only.\n"
            "Set --int8 static, which is calibrated on training images."
        )


def write(graph: Graph, where: Path, facts: Mapping[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """model.onnx; -> what runs it."""
    import onnx

    spec, file = graph.network.spec, where / "model.onnx"
    example = graph.fed(torch.zeros(2, spec.channels, *spec.size, dtype=torch.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own exporter
        torch.onnx.export(
            graph.eval(), (example,), str(file), input_names=["image"], output_names=[graph.output], dynamo=True,
            dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1, max=2**16)}}, external_data=False,
            verbose=False,
        )  # fmt: skip
    model = onnx.load(file)
    said = {key: facts[key] for key in ("classes", "target", "resize", "input")} | graph.described()
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in said.items()})
    onnx.checker.check_model(model)
    onnx.save(model, file)
    return session(file)


def session(file: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    run = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(run.run(None, {"image": image.numpy()})[0])


def quantised(where: Path, way: str, calibration: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """model.int8.onnx beside model.onnx; calibration: images as the graph takes them, for `static` alone."""
    from onnxruntime import quantization

    given, ready, out = where / "model.onnx", where / ".ready.onnx", where / "model.int8.onnx"
    quantization.quant_pre_process(str(given), str(ready), skip_symbolic_shape=True)
    common: dict[str, Any] = {"op_types_to_quantize": QUANTISED, "nodes_to_exclude": _head(ready)}
    if (
        way == "dynamic"
    ):  # convolutions stay: onnxruntime has no fast kernel for those whose input is quantised on the way
        common["op_types_to_quantize"] = QUANTISED[1:]
        quantization.quantize_dynamic(str(ready), str(out), **common)
    else:
        quantization.quantize_static(str(ready), str(out), _Reader(calibration), per_channel=True, **common)
    ready.unlink()
    return session(out)


def _head(file: Path) -> list[str]:
    """The last linear layer, which is small, and on which most depends."""
    import onnx

    nodes = [node.name for node in onnx.load(file).graph.node if node.op_type in ("Gemm", "MatMul")]
    return nodes[-1:]


class _Reader:
    """What onnxruntime asks for one batch after the other."""

    def __init__(self, images: torch.Tensor):
        self.batches = iter(images.split(16))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch.numpy()}


def beside(
    graph: Graph, runs: Mapping[str, Callable], files: Mapping[str, Path], given: torch.Tensor
) -> dict[str, dict[str, float]]:
    """Milliseconds an image, alone and in batches of 16, and megabytes, of each and of PyTorch; in turn."""
    graph.network.fold()  # as it is used here
    ways: dict[str, Callable] = {"pytorch": graph, **runs}
    found: dict[str, dict[str, float]] = {name: {} for name in ways}
    for batch in (1, 16):
        part, times = given[:batch], {name: [] for name in ways}
        with torch.inference_mode():
            for _ in range(ROUNDS):
                for name, run in ways.items():
                    start = time.perf_counter()
                    run(part)
                    times[name].append(1000 * (time.perf_counter() - start) / len(part))
        for name, taken in times.items():
            found[name][f"ms_per_image_batch_{batch}"] = round(statistics.median(taken), 3)
    for name, file in files.items():
        found[name]["megabytes"] = round(file.stat().st_size / 1e6, 2)
    return found
