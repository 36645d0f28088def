"""Any timm network without its classifier, with the facts that its weights state."""

from __future__ import annotations

import difflib
import fnmatch
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from timm.layers import to_2tuple
from timm.models import adapt_input_conv, group_parameters

from src.contracts import Backbone, ConfigError, InputSpec
from src.models.pools import pooled
from src.models.recompute import recomputed
from src.models.stages import family, maps, stage_of, stages
from src.models.weights import read_spec, shipped, unreadable


def timm_backbone(
    name: str,
    pretrained: bool = True,
    weights: str | None = None,
    image_size: int | None = None,
    in_chans: int | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    batchnorm: str = "train",
    head: str = "linear",
    head_scale: float | None = None,
    pool: str = "default",
    dynamic: bool = False,
    candidates: Any = None,
    top: int = 1,
    grad_checkpointing: bool = False,
) -> Backbone:
    """`name` is any timm model, or one whose weights ship with this template (`src/models/NAME.safetensors`).

    With `weights` (or shipped ones) nothing is downloaded here: the file is loaded when the head exists. `candidates`
    and `top` have been answered when a network is built: one of them has become `name` and `weights`.
    """
    architecture, file = known(name, pretrained, weights)
    stated = read_spec(file) if file else None
    channels = in_chans or (stated.channels if stated else 3)
    options: dict = {"num_classes": 0, "in_chans": channels, "drop_path_rate": drop_path_rate, "drop_rate": 0.0}
    options |= {"dynamic_img_size": True} if dynamic else {}
    size = (image_size, image_size) if image_size else stated.size if stated else None
    if size and _fixed_size(architecture):
        options["img_size"] = size
    net = _create(architecture, bool(pretrained and not file), options)
    spec = _spec(net, stated, size, channels)
    has_groups = hasattr(net, "group_matcher")
    features = getattr(net, "head_hidden_size", None) or net.num_features
    if pool != "default":
        features = pooled(net, pool, spec, f"model.name={name}")
    if grad_checkpointing:
        recomputed(net, f"model.name={name}")
    return Backbone(
        net=net,
        features=features,
        spec=spec,
        layers=group_parameters(net, net.group_matcher(coarse=False), reverse=True) if has_groups else {},
        patch=max(to_2tuple(getattr(getattr(net, "patch_embed", None), "patch_size", 1))),
        dropout=drop_rate,
        no_decay=_no_decay(net),
        weights=Path(file) if file else None,
        convert=lambda state: _convert(state, net, channels),
        stages=stages(net),
        maps=maps(net),
        stage=stage_of(net),
        family=family(net),
        head=head,
        head_scale=head_scale,
        batchnorm=batchnorm,
    )


def known(name: str, pretrained: bool, weights: str | None) -> tuple[str, str | Path | None]:
    """(timm's name of the network, the file of its weights; None: none, or those of the hub). ConfigError where there
    is no such network, tag or file."""
    file = weights or (shipped(name) if pretrained else None)
    if weights and not Path(weights).is_file():
        raise unreadable(weights, FileNotFoundError("that is no file"))
    return _published(name) if pretrained and not file else _architecture(name), file


def _architecture(name: str) -> str:
    """`resnet18.mine` -> `resnet18`: where nothing is downloaded, an unknown tag is only a label."""
    return name if name in timm.list_pretrained() else _known(name.partition(".")[0])


def _published(name: str) -> str:
    """A name whose weights can be downloaded."""
    stem, _, tag = _known(name).partition(".")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(stem + ".*")]
    if tag and tag not in tags:
        near = difflib.get_close_matches(tag, tags, n=1, cutoff=0.0)
        raise ConfigError(
            f"model.name={name}: timm {timm.__version__} publishes no weights `{tag}` of {stem}.\n"
            f"It has: {', '.join(tags) or 'none'}.\n"
            f"Set model.name={stem}{f'.{near[0]}' if near else ' model.pretrained=false'}, or model.weights=FILE."
        )
    return name


def _known(name: str) -> str:
    if timm.is_model(name):
        return name
    near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
    raise ConfigError(
        f"model.name={name}: timm {timm.__version__} has no such network.\n"
        f"The nearest of its {len(timm.list_models())}: {', '.join(near) or 'none'}.\n"
        "Set model.name to one of them; python -c \"import timm; print(timm.list_models('*vit*'))\" lists more."
    )


def _fixed_size(architecture: str) -> bool:
    """Whether the network is built for one image size (position embeddings, windows) and must be told of another."""
    cfg = timm.get_pretrained_cfg(architecture)
    return bool(cfg and cfg.fixed_input_size)


def _create(architecture: str, download: bool, options: dict) -> Any:
    try:
        return timm.create_model(architecture, pretrained=download, **options)
    except TypeError as error:  # an option that this architecture does not know
        for word in ("drop_path_rate", "drop_rate"):  # 0 must be said where it is known: timm's own for swin is 0.1
            if options.get(word) == 0 and f"'{word}'" in str(error):
                return _create(architecture, download, {k: v for k, v in options.items() if k != word})
        raise ConfigError(
            f"model.name={architecture} was asked for {options}; timm answered: {error}.\n"
            "Leave out the option that this architecture does not have (for example model.drop_path_rate)."
        ) from error
    except (AssertionError, ValueError) as error:
        raise ConfigError(f"model.name={architecture}: {error}\nSet model.image_size to a size that fits.") from error
    except (OSError, RuntimeError) as error:
        if not download:
            raise
        raise ConfigError(
            f"model.pretrained=true: the weights of {architecture} could not be had "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0][:200]}).\n"
            "Name a file with model.weights=FILE.safetensors, choose a published tag (timm.list_pretrained()), "
            "take the network that ships with this template (model.name=test_byobnet.glyphs), "
            "or start from random weights with model.pretrained=false."
        ) from error


def _no_decay(net: Any) -> frozenset[str]:
    """The names that match what the architecture says, which may be patterns (`pos_embed.*`)."""
    patterns = net.no_weight_decay() if hasattr(net, "no_weight_decay") else ()
    return frozenset(n for n, _ in net.named_parameters() if any(fnmatch.fnmatchcase(n, p) for p in patterns))


def _spec(net: Any, stated: InputSpec | None, size: tuple[int, int] | None, channels: int) -> InputSpec:
    if stated is None:
        cfg = resolve_data_config({}, model=net)
        stated = InputSpec(
            size=tuple(cfg["input_size"][1:]),
            channels=len(cfg["mean"]),
            mean=tuple(cfg["mean"]),
            std=tuple(cfg["std"]),
            interpolation=cfg["interpolation"],
            crop=float(cfg["crop_pct"]),
        )
    return adapt_spec(stated, size or stated.size, channels)


def adapt_spec(spec: InputSpec, size: tuple[int, int], channels: int) -> InputSpec:
    """The spec at another size and channel count; channels the weights never saw get the mean of the known ones."""
    if channels != len(spec.mean):
        mean, std = sum(spec.mean) / len(spec.mean), sum(spec.std) / len(spec.std)
        spec = replace(spec, mean=(mean,) * channels, std=(std,) * channels)
    return replace(spec, size=size, channels=channels)


def _convert(state: dict[str, torch.Tensor], net: Any, channels: int) -> dict[str, torch.Tensor]:
    """What timm does to a checkpoint: old names, position embeddings at the new size, filters for other channels."""
    known, cfg = net.state_dict(), net.pretrained_cfg or {}
    head = {f"{c.partition('.')[0]}." for c in _names(cfg.get("classifier"))}
    state = {k: v for k, v in state.items() if k in known or not k.startswith(tuple(head))}
    rename = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if rename is not None and any(k not in known or known[k].shape != v.shape for k, v in state.items()):
        with warnings.catch_warnings():  # what torch says of how timm 1.0.31 resamples the tables of a swin
            warnings.filterwarnings("ignore", r"torch\.searchsorted\(\)|Using a non-tuple sequence", UserWarning)
            with suppress(Exception):  # on names it does not know; the table of what does not fit tells them
                state = dict(rename(dict(state), net))
    for conv in _names(cfg.get("first_conv")):
        weight = state.get(f"{conv}.weight")
        if weight is not None and weight.ndim == 4 and weight.shape[1] != channels:
            state[f"{conv}.weight"] = adapt_input_conv(channels, weight)
    return state


def _names(said: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (said,) if isinstance(said, str) else tuple(said or ())
