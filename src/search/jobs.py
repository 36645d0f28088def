"""Processes of train.py, each with a run folder of its own: begun, gone on with after a kill, stopped, and what came of
them. Without torch, since those who wait for them must begin at once."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from src import world
from src.check.words import written
from src.contracts import ConfigError
from src.doors import HINT
from src.folder import RunFolder, claim

Place = dict[str, str]  # what the environment says of the devices and cores that a job may use
TRAIN = (sys.executable, str(Path(__file__).parents[2] / "train.py"))
REPEAT = (sys.executable, "-m", "src.repeat")
AGAIN = 2  # times that a job is begun again when somebody else has ended it
SECONDS = 0.2  # between two looks at the jobs


class Job:
    """One run. It prints to out.txt and err.txt of its folder."""

    def __init__(self, folder: Path, words: Sequence[str], place: Place, command: Sequence[str] = TRAIN):
        self.folder, self.words = folder, [*words, written("run_dir", folder)]
        self.place, self.command = place, command
        self.process: subprocess.Popen[bytes] | None = None
        self.begun, self.stopped = 0, False  # how many times; whether we have ended it

    def poll(self) -> int | None:
        """The exit code, once there is one."""
        if self.process is not None:
            return self.process.poll()
        if state(self.folder).get("state") == "finished":
            return 0
        self.begin()
        return None

    def begin(self) -> None:
        """Begins, or goes on: the same words in the same folder are a resume. While a process that an earlier driver
        has left works there, nothing happens: all processes of a job share an open file, which is locked until the
        last of them ends, however it ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".alive").open("a") as alive:
            try:
                claim(alive, fcntl.flock)
            except BlockingIOError:
                return
            with (self.folder / "out.txt").open("ab") as out, (self.folder / "err.txt").open("wb") as err:
                self.process = subprocess.Popen(
                    [*self.command, *self.words],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=os.environ | self.place,
                    pass_fds=[alive.fileno()],
                    start_new_session=True,  # Ctrl-C is for the driver, which passes it on, once
                )
        self.begun += 1

    def stop(self) -> None:
        self.stopped = True
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def why(self) -> str:
        """The reason for which it failed, in a line."""
        assert self.process is not None
        code, file = self.process.returncode, self.folder / "err.txt"
        if code < 0:
            return f"killed by {signal.Signals(-code).name}" + (" (perhaps for want of memory)" if code == -9 else "")
        text = file.read_text(encoding="utf-8", errors="replace").strip().removesuffix(HINT).strip()
        lines = text.rpartition("\n\n")[2].splitlines() or [f"exit code {code}, without a word"]
        return lines[-1 if lines[0].startswith(("Traceback", "File")) else 0].strip()


def pool(
    take: Callable[[Place], Job | None],
    done: Callable[[Job, int], None],
    places: Sequence[Place],
    watch: Callable[[Job], None] = lambda job: None,
) -> None:
    """Keeps every place busy with the next job that `take` gives for it, until it gives None. watch: at each look."""
    running: dict[int, Job] = {}
    try:
        while True:
            for i, place in enumerate(places):
                if i not in running and (job := take(place)):
                    running[i] = job
            if not running:
                return
            for i, job in list(running.items()):
                code = job.poll()
                watch(job)
                if code is None:
                    continue
                if interrupted(code) and not job.stopped and job.begun <= AGAIN:
                    job.process = None
                    continue
                del running[i]
                done(job, code)
            time.sleep(SECONDS)
    except BaseException:
        for job in running.values():
            job.stop()
        for process in [job.process for job in running.values() if job.process]:
            process.wait()
        raise


def interrupted(code: int) -> bool:
    """Whether it was told to end, and would go on."""
    return code < 0 or code in (130, 143)


def state(folder: Path) -> dict[str, Any]:
    """run.json of a run, or {}."""
    return RunFolder(folder).state()


def metrics(folder: Path) -> dict[str, Any]:
    return RunFolder(folder).metrics()


@cache
def monitor(folder: Path) -> tuple[str, str]:
    """(the metric that chose, max or min) of a run, or of the first in a group; its recipe may have decided it."""
    runs = [RunFolder(run) for run in (folder, *sorted(folder.glob("*/")))]
    if (run := next((run for run in runs if run.config.is_file()), None)) is None:
        raise ConfigError(f"{folder}: no run began there (no config.yaml).\nerr.txt of each says why.")
    task = run.words()["task"]
    return task["monitor"], task["mode"]


def places(workers: int, accelerator: str, devices: Any) -> list[Place]:
    """What each of the workers may use: a GPU each (or as many as one run has devices), or its share of the cores."""
    gpus = [] if accelerator == "cpu" else _gpus()
    cores = world.cores()
    each = devices if isinstance(devices, int) and devices > 0 else len(devices) if isinstance(devices, list) else 1
    most, what = (len(gpus) // each, f"{len(gpus)} GPUs") if gpus else (cores, f"{cores} cores")
    if workers > max(most, 1):
        asked = f", and trainer.devices={devices} for each" if gpus and each > 1 else ""
        raise ConfigError(
            f"workers={workers}{asked}: this machine has {what}.\n"
            f"Runs that share one are slower than one after the other. Set workers={max(most, 1)} or less."
        )
    threads = os.environ.get("OMP_NUM_THREADS", str(max(cores // workers, 1)))
    if not gpus or workers == 1:
        return [{"OMP_NUM_THREADS": threads} for _ in range(workers)]
    shares = [gpus[i * each : (i + 1) * each] for i in range(workers)]
    return [{"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def _gpus() -> list[str]:
    """Those that a process of ours would see, as CUDA_VISIBLE_DEVICES names them."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return [name for name in said.split(",") if name and name != "-1"]
    drivers = Path("/proc/driver/nvidia/gpus")
    return [str(i) for i, _ in enumerate(drivers.iterdir())] if drivers.is_dir() else []
