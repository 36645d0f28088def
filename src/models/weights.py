"""Weights as files: read safely, fitted to a network by name and shape, or refused with a table."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from torch.serialization import safe_globals

from src.contracts import ConfigError, InputSpec

CLASSIFIERS = ("classifier.", "fc.", "head.fc.", "head.", "head_dist.", "last_linear.")
WRAPPERS = ("module.", "network.", "model.", "_orig_mod.")  # of DDP, ours, of Lightning modules, of torch.compile


def shipped(name: str) -> Path | None:
    """The weights of this name that are part of the template."""
    file = Path(__file__).parent / f"{name}.safetensors"
    return file if file.is_file() else None


def read_spec(file: str | Path) -> InputSpec | None:
    """The input that the weights were trained on, where a safetensors file says so."""
    if Path(file).suffix != ".safetensors":
        return None
    try:
        with safe_open(str(file), "pt") as weights:
            said = (weights.metadata() or {}).get("input_spec")
    except (OSError, SafetensorError) as error:
        raise unreadable(file, error) from error
    return spec_from_dict(json.loads(said)) if said else None


def spec_from_dict(said: Mapping[str, Any]) -> InputSpec:
    """The inverse of dataclasses.asdict through JSON, where tuples have become lists."""
    return InputSpec(**{k: tuple(v) if isinstance(v, list) else v for k, v in said.items()})


def read_state(file: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file or a plain state dict. Pickled objects are refused, never executed."""
    return _read(Path(file))[0]


def _read(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """-> state, what is to be said of where in the file it was."""
    try:
        if path.suffix == ".safetensors":
            return _bare(load_file(path)), ""
        with safe_globals([Namespace]):  # plain values, the words of timm's own training
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise unreadable(path, error) from error
    said = ""
    for wrapper in ("state_dict_ema", "state_dict", "model", "model_state"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state, said = state[wrapper], ", the averaged ones: state_dict_ema" if wrapper.endswith("ema") else said
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise ConfigError(f"model.weights={path}: this is not a state dict (parameter name -> tensor).")
    return _bare({k.removeprefix("module.").removeprefix("network."): v for k, v in state.items()}), said


def _bare(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the names of what a network was wrapped in, where all its tensors have them."""
    for prefix in WRAPPERS:
        if state and all(k.startswith(prefix) for k in state):
            return _bare({k.removeprefix(prefix): v for k, v in state.items()})
    return state


def unreadable(path: str | Path, error: Exception) -> ConfigError:
    found = str(error).strip().splitlines() or [type(error).__name__]
    reason = "there is no such file" if not Path(path).exists() else found[0][:200]
    return ConfigError(
        f"model.weights={path} cannot be read: {reason}.\n"
        "It must be a .safetensors file, or a state dict saved by torch.save that loads with weights_only=True."
    )


def load_weights(network: Any, file: Path, convert: Callable, keep_head: bool = True) -> list[str]:
    """Loads `file` into a Network (`backbone.*`, `head.*`). Only the head may differ, and then stays as it is; so it
    does without `keep_head`, for other classes.

    Returns what was decided, one sentence each. Raises ConfigError with a table of everything else that differs.
    """
    state, said = _read(Path(file))
    if not any(k.startswith("backbone.") for k in state):
        state = _from_classifier(state, network)
    body = convert({k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")})
    two = ", the fine-tuned one of two backbones" if any(k.startswith("frozen.") for k in state) else ""
    state = {f"backbone.{k}": v for k, v in body.items()} | {k: v for k, v in state.items() if k.startswith("head.")}
    own = network.state_dict()
    head = [k for k in own if k.startswith("head.")]
    fits = keep_head and all(k in state and state[k].shape == own[k].shape for k in head)
    kept = {k: v for k, v in state.items() if fits or not k.startswith("head.")}
    _refuse_differences(own, kept, head if not fits else [], file)
    if spoilt := [k for k, v in kept.items() if v.is_floating_point() and not bool(v.isfinite().all())]:
        raise ConfigError(
            f"model.weights={file}: {len(spoilt)} of its tensors are not finite, such as {spoilt[0]}; a network that "
            "has diverged, or a damaged file.\nTake another file."
        )
    network.load_state_dict(kept, strict=fits)
    outputs = network.outputs
    note = f"head: kept, the weights have {outputs} outputs too" if fits else _head_note(state, outputs)
    return [f"weights: {file} ({len(kept)} tensors{said}{two})", note]


def _from_classifier(state: dict[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """timm's names -> ours: the classifier, wherever the architecture keeps it, becomes `head`."""
    known = {k.removeprefix("backbone.") for k in network.state_dict() if k.startswith("backbone.")}
    named: dict[str, torch.Tensor] = {}
    for k, v in state.items():
        prefix = next((p for p in CLASSIFIERS if k.startswith(p) and k[len(p) :] in ("weight", "bias")), None)
        if k in known or prefix is None:
            named[f"backbone.{k}"] = v
        elif prefix != "head_dist.":
            named[f"head.{k[len(prefix) :]}"] = v.flatten(1) if v.ndim == 4 else v  # a 1x1 convolution
    return named


def _head_note(state: Mapping[str, torch.Tensor], outputs: int) -> str:
    found = state.get("head.weight")
    had = "the weights have none" if found is None else f"that of the weights has {len(found)}"
    had += "" if found is None or found.ndim != 2 else f", on {found.shape[1]} features"
    return f"head: re-initialised with {outputs} outputs; {had}"


def _refuse_differences(own: Mapping, found: Mapping, allowed: list[str], file: Path) -> None:
    missing = [k for k in own if k not in found and k not in allowed]
    missing = [k for k in missing if not k.endswith(".num_batches_tracked")]  # torch knows it since 0.4.1
    unexpected = [k for k in found if k not in own]
    shapes = [k for k in found if k in own and found[k].shape != own[k].shape]
    if not (missing or unexpected or shapes):
        return
    rows = [f"  missing     {k}  {tuple(own[k].shape)}" for k in missing[:8]]
    rows += [f"  unexpected  {k}  {tuple(found[k].shape)}" for k in unexpected[:8]]
    rows += [f"  shape       {k}  file {tuple(found[k].shape)}, network {tuple(own[k].shape)}" for k in shapes[:8]]
    raise ConfigError(
        f"model.weights={file} does not fit the network: "
        f"{len(missing)} tensors missing, {len(unexpected)} unexpected, {len(shapes)} of another shape.\n"
        + "\n".join(rows)
        + "\nSet model.name (and model.image_size, model.in_chans) to what these weights were trained with."
    )
