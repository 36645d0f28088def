"""How the words are written: argv -> Hydra's flags, words with their values, and what cannot be read."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.check import configs
from src.check.configs import MISSING, lookup
from src.check.nearest import did_you_mean

# Hydra's own flags. With a foreign config, or where nothing is composed, there is nothing to check the words against.
FLAGS = {
    "-h",
    "--help",
    "-m",
    "--multirun",
    "-r",
    "--run",
    "--resolve",
    "--hydra-help",
    "--version",
    "-sc",
    "--shell-completion",
}
FLAGS_WITH_VALUE = {"-c", "--cfg", "-p", "--package", "-i", "--info"}
FOREIGN = {"-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir", "--experimental-rerun"}
UNCHECKED = FOREIGN | {"--hydra-help", "--version", "-sc", "--shell-completion"}
PRINTS = {"-c", "--cfg", "-i", "--info"}  # the config is shown, not run: it may have gaps
SEVERAL = {"-m", "--multirun"}


@dataclass(frozen=True)
class Word:
    text: str
    sign: str  # "" | + | ++ | ~
    key: str  # or a group
    values: tuple[Any, ...]  # several in a sweep, never none
    texts: tuple[str, ...]  # the values as typed
    sweep: bool

    @property
    def group(self) -> bool:
        return self.key in configs.groups() and not any(isinstance(v, dict) for v in self.values)


def sorted_out(argv: Sequence[str]) -> tuple[set[str], list[str], list[str]]:
    """-> (Hydra's flags, words, mistakes): `--key=5`, `key 5` and `key = 5` are told how to write it."""
    flags, words, found, runs = set(), [], [], 0
    rest = list(argv)
    before = "a flag"
    while rest:
        text = rest.pop(0)
        name = text.split("=")[0]
        if name in FLAGS | FLAGS_WITH_VALUE | FOREIGN:
            flags.add(name)
            takes = name in FLAGS_WITH_VALUE | FOREIGN and "=" not in text and rest and "=" not in rest[0]
            if takes and not rest[0].startswith("-"):
                rest.pop(0)
            before = "a flag"
            continue
        runs += before == "a flag"
        before = "a word"
        if text.startswith("-"):
            value = text.split("=", 1)[1] if "=" in text else rest.pop(0) if rest and _bare(rest[0]) else "VALUE"
            found.append(_instead(text, "Words have no dashes.", name.lstrip("-").replace("-", "_"), value))
        elif text.startswith("~") or ("=" in text and not (text.endswith("=") and rest and _bare(rest[0]))):
            words.append(text)
        else:
            if rest and rest[0] == "=":
                rest.pop(0)
            value = rest.pop(0) if rest and _bare(rest[0]) else ""
            found.append(_instead(text, "A word is KEY=VALUE, without spaces.", text.rstrip("="), value.lstrip("=")))
    if runs > 1:
        found.append("Words stand on both sides of a flag\n  Hydra reads one side only. Put flags such as -m first.")
    return flags, words, found


def _bare(text: str) -> bool:
    return "=" not in text.lstrip("=") and (not text.startswith("-") or text[1:2].isdigit())


def _instead(text: str, why: str, key: str, value: str) -> str:
    homes = [group for group, options in configs.groups().items() if key in options]
    if homes and not value:
        return f"{text}\n  {why} Did you mean {' or '.join(f'{group}={key}' for group in homes)}?"
    config, _ = configs.compose({})
    if lookup(config, key) is not MISSING:
        return f"{text}\n  {why} Write {key}={value or 'VALUE'}."
    return f"{text}\n  {why} {did_you_mean(key, value or 'VALUE', config)}"


def written(key: str, text: str | Path) -> str:
    """KEY=TEXT as Hydra reads it back, whatever is in the text; quoted where it must be."""
    text = str(text)
    plain = parsed(f"{key}={text}")
    if isinstance(plain, Word) and plain.values == (text,) and not plain.sweep:
        return plain.text
    quoted = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return f"{key}='{quoted}'"


def parsed(text: str) -> Word | str:
    """A word, or what is wrong with how it is written."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    key, _, value = text.partition("=")
    try:
        override = parser.parse_override(text)
        if override.value_type is not None and "GLOB" in override.value_type.name:
            glob: Any = override.value()
            texts = glob.filter(list(configs.groups().get(override.key_or_group, ())))
        elif override.is_discrete_sweep():
            texts = list(itertools.islice(override.sweep_string_iterator(), 1000))
        elif override.is_sweep_override():
            return f"{text}\n  This sweeper tries listed values only. Write {key}=A,B,C or {key}=range(1,4), with -m."
        else:
            return _word(text, override, (override.value(),), (value,))
        if not texts:
            return f"{text}\n  No option of a group fits this. Write {key}=A,B,C with the values to try."
        values = tuple(parser.parse_override(f"{key}={t}").value() for t in texts)
        return _word(text, override, values, tuple(texts))
    except HydraException as error:
        quoted = f'{key}="{value}"'
        try:
            parser.parse_override(quoted)
            advice = f"If it is text, quote it twice: {shlex.quote(quoted)}"
        except HydraException:
            advice = "A key has letters, digits, _ and dots: data.batch_size=64."
        if any(value.count(a) != value.count(b) for a, b in ("[]", "{}", "()")):
            advice = "A bracket is not closed; quote the word for the shell: 'stages=[fit,select,test]'."
        return f"{text}\n  It cannot be read: {str(error).splitlines()[0]}.\n  {advice}"


def _word(text: str, override: Any, values: tuple[Any, ...], texts: tuple[str, ...]) -> Word | str:
    sign = (re.match(r"[+~]*", text) or [""])[0]
    if override.package is not None:
        return f"{text}\n  Groups have one place each here. Write {override.key_or_group}=OPTION."
    if override.is_delete() and "=" in text:
        return f"{text}\n  ~ takes no value. Write {text.split('=')[0]}."
    key = override.key_or_group.replace("/", ".") if not override.is_hydra_override() else override.key_or_group
    return Word(text, sign, key, values, texts, override.is_sweep_override())
