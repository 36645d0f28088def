"""A process that has imported everything and does nothing but fork: each job is a real process, ten seconds sooner.

Reads one JSON job a line, {"argv", "fault", "seed", "log", "ranks"}, and answers with the exit code of a child that ran
it; where `ranks` has an environment for each of several, they are started together, and the answer is the first that is
not 0. A fault is {"at": place, "n": how often it is passed before, "number": of the signal, or "raises": an error}.
"""

import json
import os
import signal
import sys

import torch

import src.run  # noqa: F401 (imported here so that the children need not)


def plant(at: str, n: int, number: int = 0, raises: str = "") -> None:
    """Sends this process a signal, or raises an error, when it has passed a place n times."""
    from src import checkpoint, decisions
    from src.module import Module
    from src.predicting import Predicting

    owner, name = {
        "step": (Module, "training_step"),
        "validation": (Module, "validation_step"),
        "predict": (Predicting, "predict_step"),
        "save": (checkpoint.os, "replace"),
        "decisions": (decisions, "save"),
    }[at]
    real, passed = getattr(owner, name), [0]

    def faulty(*args, **kwargs):
        if at == "save" and ".ckpt" not in str(args[0]):
            return real(*args, **kwargs)
        if passed[0] == n and raises:
            raise getattr(torch, raises)(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free. More."
            )
        if passed[0] == n:
            os.kill(os.getpid(), number)
        passed[0] += 1
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


def child(job: dict) -> None:
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.manual_seed(job["seed"])  # resuming must not depend on what the generators hold
    count()
    if job["fault"]:
        plant(**job["fault"])
    sys.argv = ["train.py", *job["argv"]]
    import runpy

    runpy.run_path("train.py", run_name="__main__")


def main() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        job = json.loads(line)
        children = [start(job, environment) for environment in job.get("ranks") or [{}]]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        print(json.dumps(next(filter(None, codes), 0)), flush=True)


def start(job: dict, environment: dict[str, str]) -> int:
    """-> the child's process id"""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.environ |= environment
            signal.signal(signal.SIGINT, signal.default_int_handler)
            child(job)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return pid


if __name__ == "__main__":
    main()
