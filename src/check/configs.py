"""configs/ read without Hydra, in milliseconds: the groups, their options, and what a choice of them composes to.

A new yaml is known here without an edit. In a group, `base.yaml` is what the others share and no option. A defaults
list may name files beside it (`- base`), `_self_`, and `- override /group: option` (in a preset, `# @package _global_`)
or `- override /group@_global_.group: option` (in an option of another group).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from src.contracts import ConfigError

ROOT = Path(__file__).parents[2] / "configs"
MISSING = object()  # no such key


_Fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Fast):
    """PyYAML reads 1e-3 as text (YAML 1.1 wants 1.0e-3); OmegaConf, and so everybody here, reads a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), "-+0123456789"
)


@dataclass(frozen=True)
class Yaml:
    path: Path
    text: str
    package: str  # where its keys go: the group's name, or _global_
    defaults: list[Any]
    body: dict[str, Any]

    @property
    def preset(self) -> bool:
        return self.package == "_global_"

    @property
    def place(self) -> str:
        return self.path.relative_to(ROOT.parent).as_posix()


@cache
def read(name: str) -> Yaml:
    """`train`, or `group/option`."""
    path = ROOT / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    try:
        body = yaml.load(text, Loader=_Loader) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no yaml: {' '.join(str(error).split())}.\nMend it there.") from error
    header = re.search(r"^# @package (\S+)", text, re.M)
    package = header[1] if header else name.rpartition("/")[0]
    return Yaml(path, text, package, body.pop("defaults", []), body)


@cache
def groups() -> dict[str, tuple[str, ...]]:
    """group -> its options, in the order of train.yaml."""
    return {g: tuple(sorted(f.stem for f in (ROOT / g).glob("*.yaml") if f.stem != "base")) for g in defaults()}


@cache
def defaults() -> dict[str, Any]:
    """group -> the option, the list of options, or None that train.yaml chooses."""
    pairs = [pair for entry in read("train").defaults if isinstance(entry, dict) for pair in entry.items()]
    return {group: option for group, option in pairs if not group.startswith("override ")}


@cache
def several(group: str) -> bool:
    """Whether its options can be chosen together: each brings only the key of its own name, or is a preset."""
    files = {option: read(f"{group}/{option}") for option in groups()[group]}
    return all(f.preset or set(f.body) <= {option} for option, f in files.items())


def tree(name: str) -> dict[str, Any]:
    """What `group/option` brings, without its package: the files that its defaults list names, and itself."""
    file, found = read(name), {}
    for entry in file.defaults if "_self_" in file.defaults else [*file.defaults, "_self_"]:
        if entry == "_self_":
            found = merged(found, file.body)
        elif isinstance(entry, str) and (file.path.parent / f"{entry}.yaml").is_file():
            found = merged(found, tree(f"{name.rpartition('/')[0]}/{entry}"))
        elif not (isinstance(entry, dict) and all(key.startswith("override /") for key in entry)):
            raise ConfigError(
                f"{file.place}: its defaults list names {entry!r}, which src/check/configs.py cannot follow.\n"
                "It can name a file beside it, _self_, or `override /group: option`."
            )
    return found


def compose(chosen: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """-> (the config without presets, {group/option of a preset: what it sets}); see `choices` for `chosen`."""
    config, presets = dict(read("train").body), {}
    config.pop("hydra", None)
    for group, choice in choices(chosen).items():
        for name in (f"{group}/{option}" for option in listed(choice)):
            if read(name).preset:
                presets[name] = tree(name)
            else:
                config = merged(config, {read(name).package: tree(name)})
    return config, presets


def choices(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Every group's choice: the user's, else the last preset's, else that of train.yaml."""
    found = dict(chosen)
    for group in reversed(defaults()):
        for option in reversed(listed(found.get(group, defaults()[group]))):
            for name, choice in _overrides(f"{group}/{option}"):
                found.setdefault(name, choice)
    return {group: found.get(group, default) for group, default in defaults().items()}


def _overrides(name: str) -> Iterator[tuple[str, Any]]:
    file = read(name)
    for entry in (e for e in file.defaults if isinstance(e, dict)):
        yield from ((key.removeprefix("override /").partition("@")[0], value) for key, value in entry.items())
    for entry in reversed([e for e in file.defaults if isinstance(e, str) and e != "_self_"]):
        yield from _overrides(f"{name.rpartition('/')[0]}/{entry}")


def option(group: str, node: Mapping[str, Any]) -> str:
    """The name under which the user chose `node`: the option that makes the same thing, of several the likest; without
    one, what it makes."""
    target, trees = _target(node), {name: tree(f"{group}/{name}") for name in groups()[group]}
    same = [name for name in trees if _target(trees[name]) == target]
    return max(same, key=lambda name: len(set(trees[name]) & set(node)), default=target.rpartition(".")[2])


def _target(node: Mapping[str, Any]) -> str:
    return node.get("_target_") or (node.get("source") or {}).get("_target_", "")


def listed(choice: Any) -> list[str]:
    return [] if choice is None else list(choice) if isinstance(choice, list | tuple) else [choice]


def merged(old: Any, new: Any) -> Any:
    """As OmegaConf merges: mappings key by key, everything else is replaced."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}


def lookup(config: Any, key: str) -> Any:
    """The value at a dotted key (list items by number), or MISSING."""
    for part in key.split("."):
        if isinstance(config, dict) and part in config:
            config = config[part]
        elif isinstance(config, list) and part.isdecimal() and int(part) < len(config):
            config = config[int(part)]
        else:
            return MISSING
    return config


def keys(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted key that a user may set."""
    for name, value in config.items():
        if name not in ("_target_", "_partial_"):
            yield f"{prefix}{name}"  # a name may be a number, as of a class
            if isinstance(value, dict):
                yield from keys(value, f"{prefix}{name}.")


@cache
def everywhere() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Every key that some option brings -> (group, the options that bring it)."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for group, options in groups().items():
        for option in options:
            if not (file := read(f"{group}/{option}")).preset:
                for key in keys({file.package: tree(f"{group}/{option}")}):
                    found[key] = (group, (*found.get(key, (group, ()))[1], option))
    return found


def given(typed: Sequence[str]) -> frozenset[str]:
    """The keys, and the groups, that the user has decided: by words, by the presets that these name, or by the yaml of
    the data set. `finetune` stands for its choice, `finetune.stem` for one value."""
    found = {word.partition("=")[0].lstrip("+~") for word in typed}
    chosen = choices(
        {g: yaml.load(v, Loader=_Loader) for g, _, v in (w.partition("=") for w in typed) if g in groups()}
    )
    for group, choice in chosen.items():
        for name in (f"{group}/{option}" for option in listed(choice)):
            if read(name).preset:
                body = tree(name)
                found |= {key for key in keys(body) if not isinstance(lookup(body, key), dict)}
                found |= {key for key, _ in _overrides(name)}
    return frozenset(found | {f"data.{key}" for key in read(f"data/{chosen['data']}").body})


def comment(key: str) -> str:
    """What the yaml says behind a key of the default choices."""
    group, _, leaf = key.partition(".")
    names = [f"{group}/{option}" for option in listed(defaults().get(group))] if leaf else ["train"]
    for name in names:
        parents = [f"{group}/{d}" for d in read(name).defaults if isinstance(d, str) and leaf]
        for file in (read(n) for n in (name, *parents) if not n.endswith("_self_")):
            if found := re.search(rf"^ *{re.escape(leaf or group)}:.*? # (.*)$", file.text, re.M):
                return found[1]
    return ""
