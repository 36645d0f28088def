"""The user's words against the composed yaml, before torch: unknown keys, types, impossible values, nearest names.

`words` reads them, `configs` composes the yaml they choose, `rules` says what values make sense, `together` which
suit each other, `nearest` what was meant, `help` is the page of --help.
"""

from __future__ import annotations

import itertools
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from src.check import configs, kinds, rules
from src.check.configs import MISSING, listed, lookup
from src.check.nearest import did_you_mean, no_option
from src.check.together import together, unread
from src.check.words import PRINTS, SEVERAL, UNCHECKED, Word, parsed, sorted_out
from src.contracts import ConfigError
from src.factory import allowed, targets


def door(argv: list[str]) -> None:
    """Prints the help, or all mistakes, and exits (0, 2); returns if the words can be obeyed."""
    if {"-h", "--help"} & set(argv):
        from src.check import help

        print(help.page())
        sys.exit(0)
    try:
        found = mistakes(argv)
    except ConfigError as error:
        found = [str(error)]
    if found:
        more = "All groups: python train.py --help      all keys: python train.py --cfg job"
        print("\n\n".join([told(found), more]), file=sys.stderr)
        sys.exit(2)


def told(faults: Sequence[str]) -> str:
    count = "One mistake" if len(faults) == 1 else f"{len(faults)} mistakes"
    return "\n\n".join([f"{count}; nothing was run.", *faults])


def mistakes(argv: Sequence[str]) -> list[str]:
    """Everything that is wrong with the words, one paragraph each; empty if they can be obeyed."""
    flags, texts, found = sorted_out(argv)
    if flags & UNCHECKED:
        return []
    words = []
    for text in texts:
        word = parsed(text)
        found += [word] if isinstance(word, str) else []
        words += [word] if isinstance(word, Word) and not word.key.startswith(("hydra.", "hydra/")) else []
    found += _twice(words)
    several = bool(flags & SEVERAL) or any(t.startswith("hydra.mode=") and "MULTIRUN" in t for t in texts)
    if not several:
        found += [_not_a_sweep(word) for word in words if word.sweep]
    else:
        found += _one_folder(words)
    chosen = [word for word in words if word.group]
    found += [fault for word in chosen for fault in _choice(word)]
    chosen = [word for word in chosen if not any(_choice(word))]
    for options in itertools.islice(itertools.product(*(word.values for word in chosen)), 200):
        choices = {word.key: option for word, option in zip(chosen, options, strict=True)}
        values, given = [word for word in words if not word.group], {text.partition("=")[0] for text in texts}
        found += _judged(choices, values, several, bool(flags & PRINTS), words, given)
    return list(dict.fromkeys(found))


def _twice(words: Sequence[Word]) -> Iterator[str]:
    """Hydra would obey the last one, and say nothing of the others."""
    for key in dict.fromkeys(word.key for word in words):
        said = list(dict.fromkeys(word.text for word in words if word.key == key))
        if len(said) > 1:
            yield f"{' '.join(said)}\n  {key} is said {len(said)} times, and can be obeyed once. Leave the others out."


def _one_folder(words: Sequence[Word]) -> Iterator[str]:
    """The second run of a sweep would find the folder of the first, once that has been trained."""
    for word in words:
        swept = any(other.sweep for other in words if other is not word)
        named = word.key in ("run_dir", "resume") and not any(
            v in ("auto", None) or "${" in str(v) for v in word.values
        )
        if named and swept:
            yield (
                f"{word.text} with -m\n  All runs of the sweep would take this one folder. "
                f"Leave {word.key} out; name=NAME puts them together into logs/NAME."
            )


def _not_a_sweep(word: Word) -> str:
    config, _ = configs.compose({})
    wants_list = isinstance(lookup(config, word.key), list) or (word.group and configs.several(word.key))
    both = f" For all of them at once: '{word.key}=[{','.join(word.texts)}]'." if wants_list else ""
    return f"{word.text}\n  {len(word.values)} values: to run one after the other add -m.{both}"


def _choice(word: Word) -> Iterator[str]:
    """What is wrong with a group's option."""
    group, options = word.key, configs.groups()[word.key]
    if word.sign:
        empty = f"Write '{group}=[]' for none of them." if configs.several(group) else f"Write {group}=OPTION."
        yield f"{word.text}\n  {group} is chosen already, and must be: {word.sign} is not for groups. {empty}"
        return
    for value in word.values:
        if isinstance(value, list) and not configs.several(group):
            yield f"{word.text}\n  {group} takes one option of: {', '.join(options)}."
            continue
        for option in ["null"] if value is None else listed(value):
            if option not in options:
                yield f"{word.text}\n  {no_option(group, str(option), options)}"


def _judged(
    choices: Mapping[str, Any], words: list[Word], several: bool, prints: bool, typed: list[Word], given: set[str]
) -> Iterator[str]:
    """What is wrong with this choice of options and every value of every word."""
    plain, presets = configs.compose(choices)
    config = plain
    for name, body in presets.items():
        for key, value in _leaves("", body, plain):
            if fault := _fault(key, value, plain, plain):
                yield f"{configs.read(name).place}: {key}={kinds.said(value)}\n  {fault}"
        config = configs.merged(config, body)
    final = config
    for word in words:
        if word.sign == "~":
            yield from _deletion(word, config)
            continue
        for value, text in zip(word.values, word.texts, strict=True):
            for key, leaf in _leaves(word.key, value, config):
                typed_as = text if key == word.key else kinds.said(leaf)
                fault = _fault(key, leaf, plain, config, typed_as, word.sign)
                if fault := fault or unread(key, leaf, config, str(choices.get("augment", "so"))):
                    yield f"{word.text}\n  {fault}"
        final = _with(final, word.key, word.values[0])
    if not prints:
        yield from together(final)
        yield from () if lookup(final, "resume") else _gaps(final, given)
    for where, target in targets(config):
        if not allowed(target):
            yield f"{where}._target_={target}\n  src/factory.py does not allow this. If you need it, add it to ALLOWED."
    if several and not prints and _devices(words, final):
        yield _one_by_one(typed)


def faults(word: Word, config: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a word about a config that is composed already."""
    for value, text in zip(word.values, word.texts, strict=True):
        for key, leaf in _leaves(word.key, value, config):
            if fault := _fault(key, leaf, config, config, text if key == word.key else kinds.said(leaf), word.sign):
                yield f"{word.text}\n  {fault}"


def _leaves(key: str, value: Any, config: Any) -> Iterator[tuple[str, Any]]:
    """A value that is a mapping, where the config has one too, is as many words."""
    if isinstance(value, dict) and (not key or isinstance(lookup(config, key), dict)):
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}" if key else str(name), inner, config)
    else:
        yield key, value


def _fault(
    key: str, value: Any, plain: Mapping[str, Any], config: Mapping[str, Any], text: str = "", sign: str = ""
) -> str:
    """What is wrong with one value of one key, or ''. `plain` gives types, `config` (presets included) what exists."""
    default = lookup(plain, key)
    if default is MISSING and lookup(config, key) is MISSING:
        why = f"There is no key {key}"
        added = f", and {sign} adds none: every key is in a yaml" if sign else ""
        return f"{why}{added}. {did_you_mean(key, text or kinds.said(value), plain)}"
    if sign == "+":
        return f"The key exists, so it needs no +. Write {key}={text}."
    if isinstance(value, str) and "${" in value:
        return ""
    found = re.fullmatch(r"\$\{([\w.]+)\}", default) if isinstance(default, str) else None
    default = lookup(plain, found[1]) if found else default
    if default == "???":
        default = ""
    rule = rules.rule(key, None if default is MISSING else default)
    if rule.holds(value):
        if isinstance(default, dict) and not isinstance(value, dict) and rule.words == "anything":
            return f"{key} is no value but a group of keys: {', '.join(f'{key}.{name}' for name in default)}."
        return ""
    said, known = configs.comment(key), default is not MISSING and default not in (None, "")
    asked = f"{key} must be {rule.words}" + (f"; the yaml has {kinds.said(default)}" if known else "")
    return f"{asked}." + (f"\n  ({said})" if said else "")


def _deletion(word: Word, config: Mapping[str, Any]) -> Iterator[str]:
    """Only what was chosen from several can be left out: ~callbacks.lr_monitor."""
    group, _, name = word.key.partition(".")
    found = lookup(config, word.key)
    if group not in configs.groups() or not configs.several(group) or "." in name or found is MISSING:
        names = [k for g in configs.groups() if configs.several(g) for k in configs.keys({g: config.get(g) or {}})]
        leave = ", ".join(f"~{key}" for key in names if key.count(".") == 1)
        yield f"{word.text}\n  ~ leaves out: {leave}. Everything else is needed; give it another value."


def _with(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return configs.merged(config, value)


def _gaps(final: Mapping[str, Any], given: set[str]) -> Iterator[str]:
    """Values that the yaml leaves to the user (???)."""
    for key in configs.keys(final):
        if lookup(final, key) == "???" and key not in given:
            group = key.partition(".")[0]
            yield f"{key} has no value\n  There is no default. Add {key}=VALUE, as configs/{group}/*.yaml show."


def _devices(words: list[Word], final: Mapping[str, Any]) -> bool:
    """Whether any run of the sweep uses several devices: Lightning would start the whole sweep once per device."""
    asked = [v for word in words if word.key == "trainer.devices" for v in word.values]
    asked = asked or [lookup(final, "trainer.devices")]
    one = all(d == 1 or (isinstance(d, list) and len(d) == 1) for d in asked)
    return not one or lookup(final, "trainer.num_nodes") != 1


def _one_by_one(words: list[Word]) -> str:
    fixed = " ".join(shlex.quote(word.text) for word in words if not word.sweep)
    sweeps = [word for word in words if word.sweep]
    loop = f"python train.py {fixed}".rstrip() + "".join(f' "${chr(97 + i)}"' for i in range(len(sweeps)))
    for i, word in reversed(list(enumerate(sweeps))):
        each = " ".join(shlex.quote(f"{word.key}={text}") for text in word.texts)
        loop = f"for {chr(97 + i)} in {each}; do {loop}; done"
    return (
        "-m with several devices\n  Each device's process would start the whole sweep again. "
        f"Run one after the other:\n\n{loop}"
    )
