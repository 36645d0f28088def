"""A process that has imported everything and does nothing but fork: each job is a real process, ten seconds sooner.

Reads one JSON job a line, {"argv", "fault", "seed", "log", "ranks"}, and answers with the process id of a child that
runs it, and then, in a line of its own, with its exit code; where that is 0, with the first of its further ranks' that
is not. A fault is {"at": place, "n": how often it is passed before, "number": of the signal, "raises": an error,
"sleeps": seconds, or "group": true where the signal is sent to all processes of the run}.
"""

import json
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from pytorch_lightning.strategies.launchers import subprocess_script

import src.run  # noqa: F401 (imported here so that the children need not)


def plant(at: str, n: int, number: int = 0, raises: str = "", sleeps: float = 0, group: bool = False) -> None:
    """Sends this process a signal, raises an error, or says that it hangs, and does, at a place passed n times."""
    from src import checkpoint, decisions
    from src.models.network import Network
    from src.module import Module
    from src.predicting import Predicting

    owner, name = {
        "forward": (Network, "forward"),
        "step": (Module, "training_step"),
        "validation": (Module, "validation_step"),
        "predict": (Predicting, "predict_step"),
        "save": (checkpoint.os, "replace"),
        "decisions": (decisions, "save"),
    }[at]
    real, passed = getattr(owner, name), [0]
    if group:
        os.setpgid(0, 0)

    def faulty(*args, **kwargs):
        if at == "save" and ".ckpt" not in str(args[0]):
            return real(*args, **kwargs)
        turn, passed[0] = passed[0], passed[0] + 1
        if turn == n and raises:
            raise (getattr(torch, raises, None) or getattr(checkpoint, raises))(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free. More."
            )
        if turn == n and sleeps:
            print("it hangs", flush=True)
            time.sleep(sleeps)
        elif turn == n:
            os.kill(os.getpid(), number)  # as `timeout` does it: the process, then its group
            os.killpg(0, number) if group else os.kill(os.getpid(), number)
        return real(*args, **kwargs)

    setattr(owner, name, faulty)


def count() -> None:
    """Writes `a training step` to the screen at each: a test that counts them notices when a resume is ignored."""
    from src.module import Module

    real = Module.training_step

    def counted(self, batch, batch_idx):
        print("a training step")
        return real(self, batch, batch_idx)

    Module.training_step = counted


def road(words: list[str]) -> int:
    """-> the exit code of train.py"""
    sys.argv = ["train.py", *words]
    try:
        runpy.run_path("train.py", run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


class Rank:
    """A further rank, as Lightning's launcher sees the process that it starts: a child of rank 0, forked before that
    began, which waits to be told its words and its environment."""

    def __init__(self) -> None:
        read, write = os.pipe()
        self.pipe, self.returncode = os.fdopen(write, "w"), None
        self.pid = forked(self.wait, read)
        os.close(read)

    def wait(self, read: int) -> int:
        self.pipe.close()
        with os.fdopen(read) as stream:
            said = stream.read()
        if not said:
            return 0  # rank 0 has ended without it
        words, environment = json.loads(said)
        os.environ |= environment
        return road(words)

    def begin(self, command: list[str], env: dict[str, str], cwd: str) -> "Rank":
        with self.pipe as stream:
            json.dump([command[2:], env], stream)
        return self

    def poll(self, options: int = os.WNOHANG) -> int | None:
        if self.returncode is None and (status := os.waitpid(self.pid, options))[0]:
            self.returncode = os.waitstatus_to_exitcode(status[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def child(job: dict) -> int:
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.manual_seed(job["seed"])  # resuming must not depend on what the generators hold
    count()
    if job["fault"]:
        plant(**job["fault"])
    others = [Rank() for _ in range(1, job["ranks"])]
    begin = [other.begin for other in others]
    subprocess_script.subprocess = SimpleNamespace(Popen=lambda *words, **more: begin.pop(0)(*words, **more))
    code = road(job["argv"])
    for other in others if code == 0 else ():
        other.pipe.close()
        code = code or other.poll(0)
    return code


def forked(what: Callable[..., int], *more: Any) -> int:
    """-> the id of a process that ends with the code that `what` returns"""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = what(*more)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return pid


def main() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        pid = forked(child, json.loads(line))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    os._exit(0)  # what has been imported need not be taken apart


if __name__ == "__main__":
    main()
