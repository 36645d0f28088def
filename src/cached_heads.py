"""Heads on cached features, many in one process: what `train.py recipe=probe probe.head=… data.suspects=keep` would
reach on val."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import hydra

from src import folder, hardware, resume
from src.build import prepare
from src.check import configs
from src.check.words import Word, parsed
from src.contracts import ConfigError
from src.run import quiet
from src.stages import probe
from src.stages.embed import embed
from src.stages.predict import measure


def scorer(words: Sequence[str], home: folder.RunFolder) -> Callable[[Sequence[str]], dict[str, float]]:
    """What is the same for all heads is done here, once. -> (probe.head=…, probe.strength=…, probe.view=…) -> the
    metrics of val. ConfigError and DataError as in a run."""
    quiet()
    home.path.mkdir(parents=True, exist_ok=True)
    with hydra.initialize_config_dir(str(configs.ROOT), version_base="1.3"):
        cfg = resume.plain(resume.absolute(hydra.compose("train", [*words, f"run_dir={home.path}"])))
    if cfg["data"]["suspects"] == "drop":
        raise ConfigError(
            "data.suspects=drop: which labels are wrong is found by all heads of a probe together, and here each is "
            "solved alone, on all training images.\nLeave data.suspects out."
        )
    r = prepare({**cfg, "start": "random", "select": "last"}, home)
    network, device = r.network(), hardware.device(cfg)
    x, target, chosen, _ = probe.features(r, network, device, None)
    val, truth = embed(r, network, device, "val"), probe.targets(r, "val")
    views, groups = probe.columns(network, x), probe.grouped(r, chosen)

    def score(drawn: Sequence[str]) -> dict[str, float]:
        asked = {w.key.removeprefix("probe."): w.values[0] for w in map(parsed, drawn) if isinstance(w, Word)}
        run = replace(r, cfg={**r.cfg, "probe": {**r.cfg["probe"], **asked}})
        head = probe.named(run, x, target, views, groups, None)
        return measure(run, "val", val @ head.weight.T + head.bias, truth)

    return score
