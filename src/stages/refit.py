"""Fits the chosen network once more, on train and val together: what was held out to choose by is learnt, too."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from src import world
from src.contracts import Run
from src.stages import doubts
from src.stages.calibrate import carried
from src.stages.candidates import fitted, mixed, parts, restored
from src.stages.fit import fork_of, trained
from src.stages.predict import tuned
from src.stages.select import HELD_OUT


def refit(run: Run) -> None:
    if run.cfg["refit"] != "all":
        return
    state = run.home.state()
    name, kind, mirror = parts(state["chosen"])
    if name in ("probe", "best"):
        if run.leader:
            print(f"refit: left out, since `{name}` is not the end of a fit.")
        return
    stopped = "early_stopping" in (run.cfg.get("callbacks") or {})  # which val tells, and there is none now

    def ended(fit: str) -> int | None:
        return int(run.home.metrics()[f"{fit}/epochs"]) if stopped else None

    whole = run.fork("refit", whole=learnt(run), epochs=ended("fit"))
    if name != "rival":
        trained(whole, "refit")
    if name in ("rival", "soup"):
        rate = state["rival"]
        trained(whole.fork(fork_of(rate), rate=rate, epochs=ended("rival")), "refit")
    network = restored(whole, name)
    network.keep(whole.network().backbone if kind == "frozen" else None)
    head = mixed(whole, network, fitted(whole, network), kind, state["mixed"]) if kind else None
    network.mirror = mirror
    calibration = carried(whole, network)
    if run.leader:
        if head:
            network.answer(*head, mirror=mirror)
        epochs = int(run.home.metrics()["refit/epochs"])
        chosen = {"candidate": state["chosen"], "epoch": epochs - 1, "refit": True}
        sha256 = run.save(network, {"chosen": chosen, "tuned": tuned(run), "calibration": calibration})
        run.home.update(weights=sha256)
    world.gather(None)  # the other ranks must not look for the model before it is there


def learnt(run: Run) -> list[int]:
    """The images of val that are: all but those whose label is rather wrong; all, where not all were predicted."""
    file, there = run.home.path / HELD_OUT, len(run.source.splits["val"])
    held = load_file(file) if file.is_file() else {}
    if len(held.get("target", ())) < there:
        return list(range(there))
    return torch.nonzero(doubts.right(run, held["logits"], held["target"]))[:, 0].tolist()
