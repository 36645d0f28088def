"""Fine-tunes the network; leaves checkpoints/best.ckpt and last.ckpt. With several rates, those of a rival, too."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from typing import Any

from src import checkpoint, rng, signals, world
from src.checkpoint import NonFinite
from src.contracts import Run
from src.history import History
from src.stages.predict import predictions

SHOWN = 8  # images of each class


def fit(run: Run) -> None:
    if len(run.cfg["sweep"]) > 1:
        compare(run)
    trained(run, "fit")
    if rival := run.home.state().get("rival"):
        ended = survived(run.fork(fork_of(rival), rate=rival), "rival", f"{rival:g} x the rate")
        if run.leader and not ended:
            run.home.update(rival=None)
        world.gather(None)


def fork_of(rate: float) -> str:
    return f"rate-{rate:g}"


def compare(run: Run) -> None:
    """Of the rates beside the first, the one that is ahead after an epoch of its schedule goes on as the rival. (The
    first always goes on: one epoch is weak evidence against what was planned.)"""
    others, scores = run.cfg["sweep"][1:], dict(run.home.state().get("sweep", {}))
    for rate in (rate for rate in others if f"{rate:g}" not in scores):
        begun = run.fork(fork_of(rate), rate=rate, epochs=1)
        scores[f"{rate:g}"] = validated(begun, survived(begun, "sweep", f"{rate:g} x the rate"))
        if run.leader:
            run.home.update(sweep=scores)
    left = [rate for rate in others if not math.isnan(scores[f"{rate:g}"])]
    sign = 1 if run.task.mode == "max" else -1
    best = max(left, key=lambda rate: sign * scores[f"{rate:g}"], default=None)
    if run.leader:
        told = ", ".join(f"{rate} x: {score:.4f}" for rate, score in scores.items())
        goes = "none" if best is None else f"{best:g} x"
        print(f"sweep: {run.task.monitor} after one epoch: {told}; {goes} goes on", flush=True)
        run.home.update(rival=best)
    world.gather(None)  # the other ranks read it


def survived(run: Run, name: str, what: str) -> Any:
    """`trained`, of one of several fits: None where it diverges, with which neither the others end nor each resume."""
    try:
        return trained(run, name)
    except NonFinite as error:  # on all ranks
        signals.ended()
        if run.leader:
            print(f"         {what} goes no further, the others do. {error}", flush=True)
        return None


def validated(run: Run, trainer: Any) -> float:
    """The metric on val at the end of a fit; one that was killed behind its last step has not seen it."""
    if trainer is None:
        return math.nan
    if run.task.monitor not in trainer.callback_metrics:
        trainer.validate(trainer.lightning_module, datamodule=run.loaders, verbose=False)
    return float(trainer.callback_metrics[run.task.monitor])


def begin(run: Run, loss: Any) -> None:
    """Shows a loss that wants it (`loss.begin`) some images of each class, as the network at its start sees them."""
    if not hasattr(loss, "begin"):
        return
    classes, seen = run.source.splits["train"].targets, Counter()
    only = []
    for i in rng.permutation(len(classes), run.cfg["seed"], "begin").tolist():
        seen[classes[i]] += 1
        only += [i] if seen[classes[i]] <= SHOWN else []
    loss.begin(*predictions(run, run.network(), "train", only=sorted(only))[1:])


def trained(run: Run, name: str) -> Any:
    """From the starting weights, or from where a run that was killed left it."""
    trainer, last = run.trainer(), run.checkpoints / "last.ckpt"
    if run.leader and name != "fit":
        print(f"\n{name:8} {run.checkpoints.relative_to(run.home.path)}", flush=True)
    resumable = last.exists() or checkpoint.previous(last).exists()
    for history in trainer.loggers:
        if isinstance(history, History) and not resumable:
            history.rewind(0)  # a run that was killed before its first checkpoint begins again
    with warnings.catch_warnings():
        # Lightning knows only loaders that store a state; ours are a function of the epoch and need none
        warnings.filterwarnings("ignore", ".*dataloader is not resumable.*")
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # frozen ones, on purpose
        module = run.module(run.network())
        if not resumable:
            begin(run, module.loss)
        trainer.fit(module, datamodule=run.loaders, ckpt_path=last if resumable else None)
    if run.leader:
        epochs = trainer.fit_loop.epoch_progress.current.processed
        run.home.add_metrics({f"{name}/epochs": epochs, f"{name}/updates": trainer.global_step})
    return trainer
