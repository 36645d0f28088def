"""A folder that timm.create_model("local-dir:…") and the Hugging Face hub load: config.json, model.safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf

from src.contracts import Affine, ConfigError
from src.exports.graph import Graph

RIDGE = 1e-3  # of the mean variance of the features: only against what is nearly collinear


def write(graph: Graph, where: Path, facts: Mapping[str, Any], head: Affine) -> Callable[[torch.Tensor], torch.Tensor]:
    """-> the network that timm builds from the folder."""
    network, plain, spec = graph.network, facts["timm"], facts["input"]
    net: Any = timm.create_model(plain["architecture"], **{**plain["options"], "num_classes": network.outputs})
    found = net.load_state_dict(network.backbone.state_dict(), strict=False)
    layer: Any = net.get_classifier()
    own = {name for name, module in net.named_modules() if module is layer}
    if found.unexpected_keys or {key.rpartition(".")[0] for key in found.missing_keys} != own:
        raise _refused(f"{plain['architecture']} is not the same with a classifier as without one", False)
    if layer.weight.shape[:2] != head[0].shape or layer.bias is None:
        raise _refused(f"the classifier of {plain['architecture']} is not one linear layer on the last features", False)
    with torch.no_grad():
        layer.weight.copy_(head[0].view_as(layer.weight))
        layer.bias.copy_(head[1])
    way = {"crop": ("center", spec["crop"]), "squash": ("squash", 1.0), "pad": ("border", 1.0)}[facts["resize"]]
    data = {"input_size": (spec["channels"], *spec["size"]), "crop_mode": way[0], "crop_pct": way[1]}
    data |= {key: spec[key] for key in ("mean", "std", "interpolation")}
    cfg = {"tag": None, "license": plain["license"]} if plain.get("license") else {"tag": None}
    named = {"label_names": list(facts["classes"]), "pretrained_cfg": cfg}
    save_for_hf(net, str(where), model_config=named, data_config=data, safe_serialization=True)
    return timm.create_model(f"local-dir:{where.absolute()}", pretrained=True).eval()


def held(network: Any, nearest: bool, preprocess: bool) -> tuple[Affine | None, list[str]]:
    """Its head as one linear layer on the last features, or None, and what of the network a plain timm model cannot
    hold; raises ConfigError where there is such a thing, unless the `nearest` one will do."""
    if preprocess:
        raise ConfigError("--preprocess: a timm model takes normalised images and gives logits. Leave it out.")
    whole = None if network.dense else network.answers()
    lacks = ["its answer for each pixel"] if network.dense else []
    if whole is None:
        lacks += [] if network.dense else [f"its head, which is not linear ({network.kind})"]
    elif whole[0][:, network.features :].any():
        lacks += ["its head, which reads the pooled features of all stages and not of the last one alone"]
    plain = not lacks
    lacks += ["the second look, at the mirror image"] if network.mirror else []
    if lacks and not (nearest and not network.dense):
        raise _refused("; ".join(lacks), not network.dense)
    return ((whole[0][:, : network.features], whole[1]) if whole and plain else None), lacks


@torch.inference_mode()
def nearest(network: Any, views: torch.Tensor) -> Affine:
    """The linear head on the last features whose logits are nearest to the network's on these images (ridge)."""
    parts = views.split(16)
    x = torch.cat([network.backbone(network._normalised(part)) for part in parts]).double()
    y = torch.cat([network(part) for part in parts]).double()
    centre, middle = x.mean(0), y.mean(0)
    x, y = x - centre, y - middle
    gram = x.T @ x
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram, x.T @ y).T
    return weight.float(), (middle - weight @ centre).float()


def _refused(lacks: str, near: bool) -> ConfigError:
    way = "Set --nearest for the nearest one, whose loss of skill is measured; or take" if near else "Take"
    return ConfigError(
        f"--format timm: a plain timm model cannot hold this network: {lacks}.\n"
        f"{way} --format onnx or torch_export, or train with select=ema, whose head is plain. model/ is also loaded by "
        "docs/load_model.py, without this template."
    )
