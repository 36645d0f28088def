"""From what was saved, and the logits and features of images, to the columns that are said of each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as read
from safetensors.torch import save as bytes_of

from src import folder
from src.contracts import ConfigError
from src.decisions import conformal, unfamiliar
from src.decisions.scaling import scaled as _scaled

FILE = "calibration.safetensors"


def load(model_dir: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What `apply` takes; {} where model.json (`facts`) has none, as of a checkpoint."""
    if not (said := facts.get("calibration")):
        return {}
    saved = {**said, "classes": facts["classes"], "tensors": {}}
    if said.get("file"):
        data = (model_dir / FILE).read_bytes() if (model_dir / FILE).is_file() else b""
        if (found := hashlib.sha256(data).hexdigest()) != said["file"]:
            raise ConfigError(
                f"{model_dir / FILE} is not the file that model.json describes: sha256 {found[:12]}… instead of "
                f"{said['file'][:12]}….\nCopy the whole model/ folder again."
            )
        saved["tensors"] = read(data)
    return saved


def save(model_dir: Path, plain: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Writes the tensors; -> what belongs into model.json as `calibration`."""
    if not tensors:
        return {**plain, "file": None}
    data = bytes_of({name: tensor.contiguous() for name, tensor in tensors.items()})
    folder.write(model_dir / FILE, data)
    return {**plain, "file": hashlib.sha256(data).hexdigest()}


def needs_features(saved: Mapping[str, Any]) -> bool:
    """Whether `apply` wants the last features (N, D) of `Network.both`, too."""
    return bool(saved.get("unfamiliar")) and saved["unfamiliar"]["method"] in unfamiliar.FEATURES


def scaled(saved: Mapping[str, Any], logits: torch.Tensor) -> torch.Tensor:
    """The logits of the calibrated probabilities: what `Task.decode` and the metrics are given."""
    return _scaled(saved["scaling"], logits) if saved.get("scaling") else logits.float()


def apply(saved: Mapping[str, Any], logits: torch.Tensor, features: torch.Tensor | None = None) -> list[dict[str, Any]]:
    """(N, K) logits as the network puts them out -> for each image the columns behind those of
    `Task.decode(scaled(saved, logits))`: set, unsure; decision; low, high; unfamiliar and its score."""
    rows: list[dict[str, Any]] = [{} for _ in range(len(logits))]
    if not saved or not rows:
        return rows
    columns: dict[str, Sequence[Any]] = {}
    names, kind, logits = saved["classes"], saved["kind"], logits.float().cpu()
    p = scaled(saved, logits).softmax(1)
    for side, sign in (("low", -1), ("high", 1)) if saved.get("margin") else ():
        bounds = logits + sign * torch.tensor(saved["margin"])
        for name, values in zip(names, bounds.T.tolist(), strict=True):
            columns[f"{side}/{name}" if len(names) > 1 else side] = values
    if saved.get("sets"):
        inside = conformal.sets(p, saved["sets"])
        order = p.argsort(1, descending=True)
        ranked = [[names[c] for c in row if held[c]] for row, held in zip(order.tolist(), inside.tolist(), strict=True)]
        columns |= {"set": ["|".join(held) for held in ranked], "unsure": [len(held) > 1 for held in ranked]}
    if saved.get("decision"):
        columns["decision"] = [names[c] for c in decided(saved["decision"], p).tolist()]
    if saved.get("unfamiliar"):
        method = saved["unfamiliar"]["method"]
        strange = unfamiliar.strangeness(method, saved["tensors"], logits, features, kind)
        columns["unfamiliar"] = (strange > saved["unfamiliar"]["threshold"]).tolist()
        columns["unfamiliar/score"] = strange.tolist()
    return [{name: values[i] for name, values in columns.items()} for i in range(len(rows))]


def decided(fitted: dict[str, Any], p: torch.Tensor) -> torch.Tensor:
    """(N, K) calibrated probabilities -> (N,) the class."""
    if fitted["method"] == "cost":
        return (p @ torch.tensor(fitted["cost"], dtype=p.dtype, device=p.device)).argmin(1)
    return (p[:, 1] > fitted["threshold"]).long()
