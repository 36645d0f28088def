"""Fine-tunes the network; leaves checkpoints/best.ckpt and last.ckpt."""

from __future__ import annotations

import warnings

from src import checkpoint
from src.contracts import Run
from src.history import History


def fit(run: Run) -> None:
    trained(run, "fit")


def trained(run: Run, name: str) -> None:
    """From the starting weights, or from where a run that was killed left it."""
    trainer, last = run.trainer(), run.checkpoints / "last.ckpt"
    resumable = last.exists() or checkpoint.previous(last).exists()
    for history in trainer.loggers:
        if isinstance(history, History) and not resumable:
            history.rewind(0)  # a run that was killed before its first checkpoint begins again
    with warnings.catch_warnings():
        # Lightning knows only loaders that store a state; ours are a function of the epoch and need none
        warnings.filterwarnings("ignore", ".*dataloader is not resumable.*")
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # frozen ones, on purpose
        trainer.fit(run.module(run.network()), datamodule=run.loaders, ckpt_path=last if resumable else None)
    if run.leader:
        epochs = trainer.fit_loop.epoch_progress.current.processed
        run.home.add_metrics({f"{name}/epochs": epochs, f"{name}/updates": trainer.global_step})
