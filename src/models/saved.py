"""A model as files, weights.safetensors and model.json; and a network, from them or from a checkpoint alone."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import typing
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from src import folder as files
from src import lowrank
from src.contracts import Backbone, ConfigError
from src.models.dense import DenseNetwork
from src.models.network import Network
from src.models.stages import reading
from src.models.weights import read_state, spec_from_dict

FORMAT = 2  # of model.json: raise it when an older load_model would misread a new one; 1: there is no second backbone
NEEDED = frozenset("build input outputs stages mirror dense unit".split())


def describe(network: Network, facts: dict[str, Any]) -> dict[str, Any]:
    """What rebuilds the network, as plain data: `facts` (build, classes, resize, …), and what the network knows."""
    shape: dict[str, Any] = {
        "format": FORMAT if network.frozen else 1,
        "outputs": network.outputs,
        "stages": network.stages,
    }
    shape |= {"mirror": network.mirror, "dense": network.dense, "head": network.kind}
    shape["frozen"] = network.frozen is not None
    shape["unit"] = [list(part) for part in network.unit] if network.unit else None
    return {**facts, **shape, "input": asdict(network.spec), "timm": _plainly(network, facts["build"])}


def _plainly(network: Network, build: dict[str, Any]) -> dict[str, Any] | None:
    """The words by which timm alone builds the backbone and shows its stages, and what it says of the weights that it
    publishes for it; None where it cannot."""
    cfg = getattr(network.backbone, "pretrained_cfg", None)
    if not cfg or build.get("pool", "default") != "default":
        return None
    options: dict[str, Any] = {"num_classes": 0, "in_chans": network.spec.channels}
    if cfg.get("fixed_input_size"):
        options["img_size"] = list(network.spec.size)
    known = {key: cfg.get(name) for key, name in (("hub", "hf_hub_id"), ("license", "license"))}
    return {"architecture": cfg["architecture"], "options": options, "stages": reading(network.backbone), **known}


def save_model(network: Network, where: Path, facts: dict[str, Any]) -> str:
    """weights.safetensors + model.json: all that predict needs. Returns the sha256 of the weights."""
    where.mkdir(exist_ok=True)
    weights, said = where / "weights.safetensors", describe(network, facts)
    state = {k: v.detach().cpu().contiguous() for k, v in lowrank.merged(network.state_dict()).items()}
    files.write(weights, save(state, metadata={"input_spec": json.dumps(said["input"])}))
    digest = files.sha256(weights)
    files.write(where / "model.json", json.dumps({**said, "sha256": digest}, indent=1, ensure_ascii=False))
    return digest


def load_model(where: Path, device: str = "cpu", channels_last: bool | str = "auto") -> tuple[Network, dict[str, Any]]:
    """Rebuilds a network, in eval mode, from a model/ folder or a checkpoint alone; and what is said there of it.
    device: that it will be moved to."""
    facts, state = _from_checkpoint(where) if where.suffix == ".ckpt" else _from_folder(where)
    complete(facts, NEEDED, where)
    try:
        network = _described(facts)
        network.load_state_dict(state)
    except (RuntimeError, TypeError, KeyError, AttributeError) as error:
        said, here = facts.get("versions", {}).get("timm", "?"), importlib.metadata.version("timm")
        raise ConfigError(
            f"{where}: the weights and what is said of their network do not fit: "
            f"{str(error).splitlines()[-1].strip()[:200]}\n"
            f"They were written with timm {said}, here is {here}: install that one, or copy the model/ folder again."
        ) from error
    network.suit(device, channels_last)
    return network.eval(), facts


def complete(facts: Any, needed: Iterable[str], where: Path) -> None:
    """Raises ConfigError where these facts of a model lack some that are needed, or are of a later version."""
    missing = sorted(set(needed) - set(facts)) if isinstance(facts, dict) else ["anything"]
    fault = f"does not say {', '.join(missing)}" if missing else ""
    if not missing and facts.get("format", FORMAT) > FORMAT:
        fault = f"is of format {facts['format']}, and this template knows {FORMAT}"
    if fault:
        raise ConfigError(
            f"{where}: its model.json {fault}.\n"
            "Another version of this template wrote it: use that one, or train again."
        )


def _described(facts: dict[str, Any]) -> Network:
    """Without any weights: nothing is read or downloaded for it."""
    build = {k: v for k, v in facts["build"].items() if k != "_target_"}
    build |= {k: v for k, v in {"pretrained": False, "weights": None}.items() if k in build}
    builder = _builder(facts["build"]["_target_"])
    backbone = builder(**build)
    backbone = replace(backbone, spec=spec_from_dict(facts["input"]), head=facts.get("head", "linear"))
    backbone = backbone if backbone.head == "cosine" else replace(backbone, head_scale=None)  # its head was replaced
    if facts["dense"]:
        return DenseNetwork(backbone, facts["outputs"], facts["stages"], facts["mirror"])
    frozen = builder(**build).net if facts.get("frozen") else None  # models of before have none
    return Network(backbone, facts["outputs"], facts["stages"], facts["mirror"], facts["unit"], frozen)


def _from_folder(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    missing = [name for name in ("model.json", "weights.safetensors") if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"{folder} holds no model (no {missing[0]}).\nName the folder of a run whose stage `select` is done."
        )
    facts = files.model_json(folder)
    complete(facts, ("sha256",), folder)
    found = files.sha256(folder / "weights.safetensors")
    if found != facts["sha256"]:
        raise ConfigError(
            f"{folder}/weights.safetensors is not the file that model.json describes: "
            f"sha256 {found[:12]}… instead of {facts['sha256'][:12]}….\nCopy the whole model/ folder again."
        )
    return facts, read_state(folder / "weights.safetensors")


def _from_checkpoint(file: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
        facts, state = found["model"], found["state_dict"]
    except Exception as error:
        raise ConfigError(f"{file} is not a checkpoint of this template: {error}") from error
    prefix = "network."
    return facts, lowrank.merged({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def _builder(target: str) -> Callable[..., Backbone]:
    """The function of this room that model.json names. A file from elsewhere must not be able to name any other."""
    module, _, name = str(target).rpartition(".")
    if not module.startswith("src.models.") or not name.isidentifier() or "._" in target:
        raise ConfigError(f"model.json asks for {target}; only functions of src.models may build a network.")
    try:
        build = getattr(importlib.import_module(module), name, None)
    except ImportError:
        build = None
    if build is None or getattr(build, "__module__", None) != module:
        raise ConfigError(f"model.json asks for {target}, which src.models does not define.")
    if typing.get_type_hints(build).get("return", Backbone) is not Backbone:
        raise ConfigError(f"model.json asks for {target}, which builds no backbone. src.models has functions that do.")
    return build
