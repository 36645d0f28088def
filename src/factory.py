"""A yaml node -> the object it names. Only this project's rooms and a short list of names from libraries may be called:
a config that came with a run folder or a checkpoint must not be able to run anything else."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from src.contracts import ConfigError

NAMES = "adversary callbacks data distill finetune labels losses mix models penalties robustness tasks"
ROOMS = tuple(f"src.{room}." for room in NAMES.split())
ALLOWED = frozenset(
    """
    src.history.History src.mixed_labels.Mixed
    src.schedulers.Schedule src.schedulers.cosine src.schedulers.linear src.schedulers.polynomial
    src.schedulers.warmup_stable_decay src.schedulers.constant src.schedulers.step
    datetime.timedelta
    torch.optim.AdamW torch.optim.Adam torch.optim.SGD torch.optim.NAdam torch.optim.RAdam torch.optim.RMSprop
    torch.optim.Adagrad src.optimizers.timm_optimizer src.sam.SAM
    torchvision.transforms.v2.TrivialAugmentWide torchvision.transforms.v2.RandAugment
    torchvision.transforms.v2.AutoAugment torchvision.transforms.v2.AugMix torchvision.transforms.v2.ColorJitter
    pytorch_lightning.Trainer pytorch_lightning.strategies.DDPStrategy src.fsdp.FSDP2Strategy
    pytorch_lightning.callbacks.ModelCheckpoint pytorch_lightning.callbacks.EarlyStopping
    pytorch_lightning.callbacks.LearningRateMonitor pytorch_lightning.callbacks.Timer
    pytorch_lightning.callbacks.DeviceStatsMonitor pytorch_lightning.callbacks.RichModelSummary
    pytorch_lightning.loggers.TensorBoardLogger pytorch_lightning.loggers.WandbLogger
    pytorch_lightning.loggers.MLFlowLogger
    """.split()
)
# what a model or a run from elsewhere may name; a task may bring labels of its own
TASK = ("src.tasks.",)
LABELS = ("src.labels.", "src.mixed_labels.Mixed", *TASK)
SOURCE = ("src.data.", *LABELS)


def allowed(target: Any) -> bool:
    if not isinstance(target, str) or "._" in target:
        return False
    # src.data has functions that write and delete files
    known = _offered() if target.startswith("src.data.") else ALLOWED
    return target in known or (target.startswith(ROOMS) and known is ALLOWED)


@functools.cache
def _offered() -> frozenset[str]:
    """What the yamls of configs/ name."""
    files = (Path(__file__).parents[1] / "configs").rglob("*.yaml")
    said = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return frozenset(re.findall(r"\b_target_: *[\"']?([\w.]+)", said))


def targets(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every (dotted key, target) of a config."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield where, node["_target_"]
        for key, value in node.items():
            yield from targets(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            yield from targets(value, f"{where}.{i}")


def make(node: Any, **more: Any) -> Any:
    """Builds a node and, first, the nodes inside it. `_partial_: true` gives a callable that waits for the rest.

    Nothing is built before all names in the node have been allowed.
    """
    for _, target in targets(node):
        _refuse(target)
    return _build(node, **more)


def make_within(node: Any, rooms: tuple[str, ...], **more: Any) -> Any:
    """The same for a node that came with a model or a run, which may be anybody's: the names in it begin with one of
    `rooms`."""
    named = [node.get("_target_") if isinstance(node, Mapping) else node, *(target for _, target in targets(node))]
    for target in named:
        if not str(target).startswith(rooms):
            raise ConfigError(
                f"The saved model or run asks for {target}; only functions of "
                f"{', '.join(room.rstrip('.') for room in rooms)} may be called there.\n"
                "Use a model or a run that you trust."
            )
    return make(node, **more)


def _build(node: Any, **more: Any) -> Any:
    if isinstance(node, list | tuple):
        return [_build(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    words = {key: _build(value) for key, value in node.items() if key not in ("_target_", "_partial_")}
    if "_target_" not in node:
        return words | more
    called = _resolve(node["_target_"])
    try:
        if node.get("_partial_"):
            _bind(called, words | more)
            return functools.partial(called, **words, **more)
        return called(**words, **more)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{node['_target_']} needs a package that is not installed: {error}.\n"
            "Install it (its yaml says how), or leave this option out."
        ) from error
    except TypeError as error:
        raise ConfigError(
            f"{node['_target_']} was given {', '.join(words) or 'nothing'} and answered: {error}.\n"
            "Look at its yaml: the keys there are its arguments."
        ) from error


def _bind(called: Any, words: Mapping[str, Any]) -> None:
    """Raises TypeError now for an argument that would be refused when the partial is called."""
    try:
        signature = inspect.signature(called)
    except ValueError:  # written in C
        return
    signature.bind_partial(**words)


def _refuse(target: Any) -> None:
    if not allowed(target):
        raise ConfigError(
            f"The config names {target}; only what is in {', '.join(r + '*' for r in ROOMS)} and a short list in "
            "src/factory.py may be called, and of src.data what a yaml in configs/ names.\n"
            "If you trust this name and need it, add it to ALLOWED there."
        )


def _resolve(target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"The config names {target}, which cannot be imported: {error}.") from error
    # a room may import a dangerous function; naming it through the room must not work either
    if target not in ALLOWED and getattr(found, "__module__", None) != module:
        raise ConfigError(f"The config names {target}, but that is not defined in {module}.")
    return found
