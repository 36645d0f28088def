"""What trains, and how fast: a policy answers two questions per parameter; `groups` turns the answers into groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from src.contracts import ConfigError


@dataclass(frozen=True)
class Place:
    """Where a parameter stands in the network."""

    name: str  # as in network.named_parameters(): backbone.… or head.…
    layer: int  # 0 = stem … `last` = the layer before the head; the head has last + 1
    last: int

    @property
    def head(self) -> bool:
        return self.layer > self.last


class Policy(ABC):
    """A way to fine-tune. It never changes its mind during a fit: that keeps resume, schedules and DDP exact."""

    rate: float | None = None  # the learning rate that suits what it trains; None: that of the network's family

    def prepare(self, network: Any, seed: int) -> None:
        """Called first, each time that a module is made of a network: to look at its layers, or to give them
        parameters, which are functions of `seed` and are not given twice."""

    def plan(self, places: Collection[Place]) -> None:
        """Called once with all places, so that a policy can refuse a network that it does not fit."""

    @abstractmethod
    def trains(self, place: Place) -> bool: ...

    def scale(self, place: Place) -> float:
        """The factor on the optimizer's learning rate."""
        return 1.0


def places(network: nn.Module, layers: Mapping[str, int]) -> dict[str, Place]:
    """One place per parameter. `layers` counts the backbone's parameters from the stem; gaps do not matter."""
    order = {depth: i for i, depth in enumerate(sorted(set(layers.values())))}
    last = max(len(order) - 1, 0)
    found = {}
    for name, _ in network.named_parameters():
        inner = name.removeprefix("backbone.")
        layer = last + 1 if name.startswith("head.") else order[layers[inner]] if inner in layers else last
        found[name] = Place(name, layer, last)
    return found


def groups(
    policy: Policy,
    network: Any,
    layers: Mapping[str, int],
    no_decay: Collection[str],
    lr: float,
    weight_decay: float,
    loss: nn.Module | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Freezes what does not train, or what nothing reads, and returns optimizer groups: every trainable parameter is
    in exactly one, also those of a loss that learns.

    The learning rate of each group is absolute (torch's schedulers ignore timm's `lr_scale`). Norms, biases and
    other 1-d parameters, what the architecture exempts, and the loss's own get no weight decay; these learn at
    `loss.rate` times the learning rate, where it says so.
    """
    policy.prepare(network, seed)
    where = places(network, layers)
    policy.plan(where.values())
    found: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(policy.trains(where[name]) and name not in network.unused)
        if not parameter.requires_grad:
            continue
        plain = parameter.ndim <= 1 or name.endswith(".bias") or name.removeprefix("backbone.") in no_decay
        rate, decay = lr * policy.scale(where[name]), 0.0 if plain else weight_decay
        group = found.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    if not found:
        raise ConfigError(
            f"finetune={type(policy).__name__.lower()} leaves nothing to train in this network.\n"
            "Choose finetune=full, or a policy that trains at least the head."
        )
    own = [] if loss is None else [parameter for parameter in loss.parameters() if parameter.requires_grad]
    beside = {"params": own, "lr": lr * getattr(loss, "rate", 1.0), "weight_decay": 0.0}
    return [*found.values(), *([beside] if own else [])]
