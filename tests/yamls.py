"""The nodes of configs/GROUP/NAME.yaml as the job gets them: a yaml that is new today is tested today."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

CONFIGS = Path(__file__).parent.parent / "configs"


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))


def node(group: str, name: str, /, **values: Any) -> dict[str, Any]:
    """The yaml with `values` in place of its own; a value that it does not have is a mistake of the test."""
    cfg = OmegaConf.load(CONFIGS / group / f"{name}.yaml")
    for key in {"defaults"} | ({"labels"} if group == "task" else set()):  # the latter are for the data
        cfg.pop(key, None)
    assert set(values) <= set(cfg), f"{name}.yaml has no {set(values) - set(cfg)}"
    return OmegaConf.to_container(OmegaConf.merge(cfg, values), resolve=True)
