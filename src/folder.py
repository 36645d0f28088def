"""The run folder: made exclusively, locked while in use, written atomically, with a state that survives a kill."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import socket
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from src.contracts import ConfigError, File

UNLOCKED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # Lustre without flock, NFS without lockd
CONTEST = "contest"  # below a run folder: those of several networks that are fitted side by side, until one is left
ASIDE = ("/low", "/high", "/constant", "/uncalibrated", "/images")  # what stands beside a metric in metrics.json


def write(path: Path, content: str | bytes | Iterable[str]) -> None:
    """All or nothing: a reader, or a process killed here, sees the old file or the new one."""
    parts = [content] if isinstance(content, str | bytes) else content
    with staged(path) as temporary, temporary.open("wb") as stream:
        for part in parts:
            stream.write(part.encode() if isinstance(part, str) else part)
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A file beside `path` to be written, which then takes its name; removed where that fails, as on a full disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(folder: Path) -> None:
    """Makes a rename in this folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def claim(stream: IO[Any], lock: Callable[[IO[Any], int], Any]) -> None:
    """Locks a file that is open; OSError where another process has it. lock: fcntl.lockf or flock."""
    try:
        lock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in UNLOCKED:
            raise
        warnings.warn(
            f"The file system has no locks ({error.strerror}): nothing keeps two processes out of one folder. "
            "Begin no second one there, or ask for a mount that has them (Lustre: -o flock).",
            stacklevel=2,
        )


def create(logs: Path, name: str) -> Path:
    """logs/<name>/<date_time_xxxx>, made by this call or not at all: runs started together never share a folder."""
    while True:
        path = logs / name / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(2)}"
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
        except OSError as error:
            raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"The run folder {path} cannot be written: {error.strerror}.\n"
        "Nothing was trained. Set paths.logs=DIR (or run_dir=DIR) to a folder that you may write."
    )


def sha256(file: File) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def model_of(word: str, run: Path) -> Path:
    """The model/ of the run that this word names. ConfigError where there is none."""
    if not (run / "model" / "weights.safetensors").is_file():
        found = "it holds no model yet; its stage `select` is not done" if run.is_dir() else "there is no such folder"
        raise ConfigError(f"{word}={run}: {found}.\nName the folder of a run that is finished.")
    return run / "model"


def model_json(model: Path) -> dict[str, Any]:
    """What a model/ folder says of its weights. ConfigError where that cannot be read."""
    try:
        return json.loads((model / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{model}/model.json is damaged: {error}.\nCopy the whole model/ folder again.") from error


def pictures(out: Path, paths: Iterable[str | Path]) -> list[Path]:
    """Where a PNG for each of these images goes, within the folder `out` whatever they are called: those of one name
    keep their ends, too."""
    inside = [Path(*(p for p in Path(path).parts if p not in ("..", Path(path).anchor))) for path in paths]
    often = Counter(path.with_suffix("") for path in inside)
    return [
        out / (path.with_suffix(".png") if often[path.with_suffix("")] == 1 else path.with_name(f"{path.name}.png"))
        for path in inside
    ]


def moved(node: Any, old: str, new: str) -> Any:
    """The config of a run folder that may have been moved: its paths are where it is now."""
    if isinstance(node, dict):
        return {str(k): moved(v, old, new) for k, v in node.items()}
    if isinstance(node, list):
        return [moved(v, old, new) for v in node]
    inside = isinstance(node, str) and (node == old or node.startswith(old + "/"))
    return new + node[len(old) :] if inside else node


def measured(metrics: Mapping[str, Any]) -> list[str]:
    """Which of metrics.json are metrics of val and test, and not what stands beside one."""
    return [key for key in metrics if key.startswith(("val/", "test/")) and not key.endswith(ASIDE)]


class RunFolder:
    """One run's folder. Only rank 0 writes; the state is read back by whoever resumes."""

    def __init__(self, path: Path, made: tuple[Path, ...] = ()):
        self.locked = False
        self.path, self.made = path, made  # made: what is new, itself and the folders above it; (): it was there
        self.config = path / "config.yaml"
        self._state = path / "run.json"

    @contextmanager
    def lock(self):
        """Held while a process works here; the kernel lets go of it when the process dies, however it dies."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            stream = (self.path / ".lock").open("a+")
        except OSError as error:
            raise unwritable(self.path, error) from error
        with stream:
            try:
                # a record lock, since flock would be inherited by loader workers that outlive a killed run
                claim(stream, fcntl.lockf)
            except (BlockingIOError, PermissionError) as error:
                stream.seek(0)
                raise ConfigError(
                    f"The run folder {self.path} is in use by {stream.read().strip() or 'another process'}.\n"
                    "Wait until it ends or stop it, then resume; or start a new run without run_dir and resume."
                ) from error
            self.locked = True
            stream.truncate(0)
            stream.write(f"process {os.getpid()} on {socket.gethostname()}")
            stream.flush()
            yield self

    def held(self) -> bool:
        """Whether another process works here."""
        try:
            with (self.path / ".lock").open("r+") as stream:
                os.lockf(stream.fileno(), os.F_TEST, 0)
            return False
        except (BlockingIOError, PermissionError):
            return True
        except OSError as error:
            if isinstance(error, FileNotFoundError) or error.errno in UNLOCKED:
                return False
            raise

    def words(self) -> dict[str, Any]:
        """config.yaml: all is decided and resolved in it, and what lies in this folder is found where it is now."""
        if not self.config.is_file():
            raise ConfigError(
                f"RUN_DIR={self.path}: that is no run folder (no config.yaml).\nName one that a run printed."
            )
        try:
            found = yaml.safe_load(self.config.read_text(encoding="utf-8"))
            return moved(found, found.get("run_dir") or str(self.path), str(self.path))
        except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{self.config} is damaged: {error}.\nPut a copy of it back, or begin a new run."
            ) from error

    def state(self) -> dict[str, Any]:
        """run.json: state, stages done, versions, hardware, data fingerprint, seconds per stage."""
        if not self._state.is_file():
            return {}
        try:
            return json.loads(self._state.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(
                f"{self._state} is damaged: {error}.\nPut a copy of it back, or begin a new run."
            ) from error

    def update(self, **facts: Any) -> None:
        write(self._state, json.dumps(self.state() | facts, indent=1, ensure_ascii=False) + "\n")

    def metrics(self) -> dict[str, float]:
        file = self.path / "metrics.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def add_metrics(self, found: dict[str, float]) -> None:
        """What is not a number (AUROC where only one class is left) becomes null, since JSON knows no NaN."""
        plain = {k: v if math.isfinite(v) else None for k, v in found.items()}
        write(self.path / "metrics.json", json.dumps(self.metrics() | plain, indent=1) + "\n")

    def once(self, stage: Callable[..., Any], run: Any, writes: bool) -> None:
        """Runs a stage unless it is marked done. `writes`: this rank is the one that marks."""
        name, done = stage.__name__, self.state().get("done", [])
        if name in done:
            return
        start = time.monotonic()
        stage(run)
        if writes:
            spent = self.state().get("seconds", {})
            spent[name] = round(spent.get(name, 0.0) + time.monotonic() - start, 2)
            self.update(done=[*done, name], seconds=spent)
