"""Networks that teach others what they know: that of a run folder, or one of timm with its classifier."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from src.contracts import ConfigError, Teacher
from src.folder import model_of
from src.models.network import Network
from src.models.saved import load_model
from src.models.timm_backbone import timm_backbone
from src.models.weights import CLASSIFIERS, load_weights, read_state


@lru_cache(maxsize=1)  # since a module is made several times in a run
def of_run(folder: str) -> Teacher:
    """What that run has shipped."""
    network, facts = load_model(model_of("distill.teacher.folder", Path(folder)))
    arch = facts["build"].get("name", facts["build"]["_target_"])
    said = tuple(facts["classes"]), facts["task"]["_target_"]
    return _teacher(network, folder, *said, f"teacher: {arch} of {folder}, by {facts['chosen']['candidate']}")


@lru_cache(maxsize=1)
def of_timm(name: str, weights: str) -> Teacher:
    """A timm network with the classifier that is in the file `weights`, which knows no names."""
    names = [f"{place}weight" for place in CLASSIFIERS]
    found = [len(tensor) for key, tensor in read_state(weights).items() if key in names]
    if not found:
        raise ConfigError(
            f"distill.teacher.weights={weights}: there is no classifier in it, and so nothing to teach.\n"
            "Set it to a file with one, or fine-tune this network first, and set distill=run."
        )
    backbone = timm_backbone(name, weights=weights)
    network = Network(backbone, found[0])
    load_weights(network, Path(weights), backbone.convert)
    note = f"teacher: {name} of {weights}; its {found[0]} outputs are taken to be the classes in their order"
    return _teacher(network, name, None, None, note)


def _teacher(network: Network, name: str, classes: tuple[str, ...] | None, task: str | None, note: str) -> Teacher:
    return Teacher(network.eval().requires_grad_(False), network.outputs, classes, task, network.spec, name, (note,))
