"""The words that a driver of train.py (src.search, src.repeat) keeps for itself: trials=20 workers=2."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from src.check import configs, told
from src.check.kinds import Rule
from src.check.words import Word, parsed
from src.contracts import ConfigError


def sorted_out(argv: Sequence[str], rules: Mapping[str, Rule]) -> tuple[dict[str, Any], list[str]]:
    """-> (the driver's own options, the words of train.py). ConfigError with all that is wrong with the former."""
    mine, words, faults = {}, [], []
    for text in argv:
        key = text.partition("=")[0]
        if key not in rules:
            faults += [strange] if (strange := _meant(key, text, rules)) else []
            words.append(text)
            continue
        word = parsed(text)
        value = word.values[0] if isinstance(word, Word) and not word.sweep else None
        mine[key] = value
        if isinstance(word, str) or word.sweep or not rules[key].holds(value):
            faults.append(f"{text}\n  {key} must be {rules[key].words}.")
    if faults:
        raise ConfigError("\n\n".join(faults))
    return mine, words


def _meant(key: str, text: str, rules: Mapping[str, Rule]) -> str:
    """What is wrong with a word that nobody has and that is like one of the driver's; '': train.py shall judge."""
    if text.startswith("-"):
        return f"{text}\n  There are no flags here. Words are KEY=VALUE."
    if configs.lookup(configs.compose({})[0], key) is not configs.MISSING or "=" not in text:
        return ""
    near = difflib.get_close_matches(key, rules, 1, 0.7)
    return f"{text}\n  There is no {key}. Did you mean {near[0]}={text.partition('=')[2]}?" if near else ""


def value(words: Sequence[str], key: str) -> Any:
    """What `key` is under these words of train.py, as the yaml or the last word says; what a recipe decides is open."""
    chosen = {w.key: w.values[0] for w in map(parsed, words) if isinstance(w, Word) and w.group}
    config, presets = configs.compose(chosen)
    for body in presets.values():
        config = configs.merged(config, body)
    found = configs.lookup(config, key)
    for word in map(parsed, words):
        found = word.values[0] if isinstance(word, Word) and word.key == key else found
    return found


@contextmanager
def refused() -> Iterator[None]:
    """What is wrong in it is said to be so before anything was run."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(told(str(error).split("\n\n"))) from error
