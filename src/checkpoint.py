"""Checkpoints on disk: atomic on their own file system, plain data, finite, with a predecessor to fall back to."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from src import folder
from src.contracts import ConfigError
from src.fsdp import local


class NonFinite(RuntimeError):
    """A loss or a weight is NaN or infinite; the message names step and images. Exit code 1."""


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's own staging is in $TMPDIR, often another file system, from where it copies over the live file; and
    it swallows a refused permission. Here the new file is complete and synced before it takes the name, and every
    OSError goes up."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f".{path.name}.*.tmp"):
            stale.unlink()
        with folder.staged(path) as part:
            with part.open("wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
            if path.exists() and path.stem == "last":
                _keep(path, previous(path))

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = True) -> dict:
        found = load(Path(path))
        for state in found.get("callbacks", {}).values():
            if isinstance(state, dict) and "dirpath" in state and not Path(state["dirpath"]).exists():
                _follow(state, str(Path(path).parent))
        return found

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def _follow(state: dict[str, Any], place: str) -> None:
    """What a ModelCheckpoint remembers of a folder that was moved: else Lightning would forget how good the best was,
    and take the next epoch for it."""
    was = state["dirpath"]

    def here(file: Any) -> Any:
        return place + file[len(was) :] if isinstance(file, str) and file.startswith(was) else file

    best = {here(file): score for file, score in state.get("best_k_models", {}).items()}
    state.update({key: here(value) for key, value in state.items()} | {"best_k_models": best})


def previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.prev{path.suffix}")


def load(path: Path) -> dict[str, Any]:
    """Plain data only; a damaged file gives way to its predecessor, loudly."""
    reasons = []
    for candidate in (path, previous(path)):
        try:
            found = torch.load(candidate, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            reasons.append(f"{candidate}: not there")
        except Exception as error:  # a zip that ends early fails in many ways
            reasons.append(f"{candidate}: {str(error).strip().splitlines()[0][:160]}")
        else:
            if reasons:
                print(f"WARNING: {reasons[0]}\nGoing on from {candidate} instead.", file=sys.stderr)
            return found
    raise ConfigError(
        "No checkpoint can be loaded:\n  " + "\n  ".join(reasons) + "\nStart a new run, with init_from or without."
    )


def averaged(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor] | None:
    """The state of the network that the average of the callback `ema` is; None where the run kept none."""
    return checkpoint.get("callbacks", {}).get("EMA", {}).get("average") or None


def _keep(path: Path, copy: Path) -> None:
    """Gives the file a second name, so that there is no moment without a loadable checkpoint."""
    link = path.with_name(f".{copy.name}.{os.getpid()}.tmp")
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        os.replace(path, copy)
    else:
        os.replace(link, copy)


def non_finite(state: dict[str, torch.Tensor]) -> str:
    """The name of the first weight that is not finite, or ''."""
    floats = ((name, local(value)) for name, value in state.items() if value.is_floating_point())
    return next((name for name, value in floats if not bool(torch.isfinite(value).all())), "")
