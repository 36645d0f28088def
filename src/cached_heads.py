"""Heads on cached features, many in one process: what `train.py recipe=probe probe.head=…` would reach on val, which
learns from the same images, those whose labels are wrong left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import hydra
import torch

from src import folder, hardware, resume
from src.build import prepare
from src.check import configs
from src.check.words import Word, parsed
from src.decide import questions, refuse_noiseless
from src.run import quiet
from src.stages import doubts, probe
from src.stages.embed import embed
from src.stages.predict import measure


def scorer(words: Sequence[str], home: folder.RunFolder) -> Callable[[Sequence[str]], dict[str, float]]:
    """What is the same for all heads is done here, once. -> (probe.head=…, probe.strength=…, probe.view=…) -> the
    metrics of val. ConfigError and DataError as in a run."""
    quiet()
    home.path.mkdir(parents=True, exist_ok=True)
    with hydra.initialize_config_dir(str(configs.ROOT), version_base="1.3"):
        cfg = resume.plain(resume.absolute(hydra.compose("train", [*words, f"run_dir={home.path}"])))
    r = prepare({**cfg, "start": "random", "select": "last", "data": {**cfg["data"], "suspects": "keep"}}, home)
    given = configs.given(words)
    refuse_noiseless(r, cfg, given, True)
    network, device = r.network(), hardware.device(cfg)
    x, target, chosen, _ = probe.features(r, network, device, None)
    val, truth = embed(r, network, device, "val"), probe.targets(r, "val")
    views, groups = probe.columns(network, x), probe.grouped(r, chosen)
    noise = None
    if "labels" in questions(r, given, cfg) and r.task.solve:
        lda = r.task.solve(x, target, views, cfg["seed"], groups=groups, only="lda")
        noise = doubts.noise(r, lda, target)
    if noise and noise.wrong.any():
        kept = torch.nonzero(~noise.wrong)[:, 0]
        x, target, groups = x[kept], target[kept], None if groups is None else groups[kept]
        told = f"{int(noise.wrong.sum()):,} training images are not learnt by any trial: their labels are rather wrong"
        print(f"         {told} than right (data.suspects=keep learns all)", flush=True)

    def score(drawn: Sequence[str]) -> dict[str, float]:
        asked = {w.key.removeprefix("probe."): w.values[0] for w in map(parsed, drawn) if isinstance(w, Word)}
        run = replace(r, cfg={**r.cfg, "probe": {**r.cfg["probe"], **asked}})
        head = probe.named(run, x, target, views, groups, None)
        return measure(run, "val", val @ head.weight.T + head.bias, truth)

    return score
