"""The names that a user may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from src.check import configs

# What other tools call it.
SYNONYMS = {
    "learning_rate": "optimizer.lr", "wd": "optimizer.weight_decay", "epochs": "trainer.max_epochs",
    "gpus": "trainer.devices", "amp": "trainer.precision", "fp16": "trainer.precision", "bs": "data.batch_size",
    "workers": "data.num_workers", "img_size": "model.image_size", "input_size": "model.image_size",
    "arch": "model.name", "dropout": "model.drop_rate", "data_dir": "data.root", "smoothing": "loss.label_smoothing",
    "checkpoint": "model.weights", "ckpt_path": "resume", "output_dir": "run_dir", "device": "trainer.accelerator",
}  # fmt: skip


def did_you_mean(key: str, value: str, config: Mapping[str, Any]) -> str:
    """The names that the user may have meant: keys of this config first, then those that other options bring."""
    here, elsewhere = set(configs.keys(config)), configs.everywhere()

    def ask(name: str, value: str) -> str:
        if name in here:
            return f"{name}={value}"
        group, options = elsewhere[name]
        return f"{name}={value} with {' or '.join(f'{group}={option}' for option in options[:3])}"

    if key in elsewhere:
        group, options = elsewhere[key]
        return f"It comes with {' or '.join(f'{group}={option}' for option in options)}: add that."
    ends = {name.rpartition(".")[2] for name in here}
    if key not in ends and (near := difflib.get_close_matches(key, [] if "." in key else configs.groups(), 1, 0.7)):
        return f"Did you mean the group {near[0]}? Its options: {', '.join(configs.groups()[near[0]])}."
    last = key.rpartition(".")[2]
    if last in SYNONYMS:
        return f"Did you mean {ask(SYNONYMS[last], value)}?"

    def likeness(name: str) -> float:
        ends = difflib.SequenceMatcher(None, last, name.rpartition(".")[2]).ratio()
        whole = difflib.SequenceMatcher(None, key, name).ratio()
        return max(whole, 0.9 * ends + 0.1 * whole) + 0.03 * (name in here)

    scored = sorted(((likeness(name), name) for name in here | set(elsewhere)), reverse=True)
    near = [name for score, name in scored[:4] if score > 0.65 and score > scored[0][0] - 0.1]
    if not near:
        return f"Nothing is called like it. The groups: {', '.join(configs.groups())}."
    also = f" (or {', '.join(near[1:])})" if near[1:] else ""
    return f"Did you mean {ask(near[0], value)}?{also}"


def no_option(group: str, option: str, options: Sequence[str]) -> str:
    text = f"{group} has no option {option}. It has: {', '.join(options)}."
    if option == "null" and configs.defaults().get(group) is None:
        return text + " Leave the word out for none."
    near = difflib.get_close_matches(option, options, n=1, cutoff=0.5)
    homes = [other for other, its in configs.groups().items() if option in its]
    named = configs.lookup(configs.compose({})[0], f"{group}.name") is not configs.MISSING and not near
    text += f"\n  Did you mean {near[0]}?" if near else ""
    text += f"\n  Did you mean {homes[0]}={option}?" if homes and not near else ""
    return text + (f"\n  A network is set by name: {group}.name={option}" if named and option != "null" else "")
