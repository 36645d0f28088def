"""Which process this is among those of one run, also before torch.distributed exists; and what they tell each other."""

from __future__ import annotations

import atexit
import math
import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ALONE = {"devices": 1, "num_nodes": 1, "strategy": "auto", "sync_batchnorm": False}  # of the trainer, in one process
FEW = 4  # cores
LOAD = Path("/proc/loadavg")  # proc(5): in its fourth field, how many threads run or could
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of CPU time in each so many


def rank() -> int:
    """0 for the process that writes. Lightning's launcher sets LOCAL_RANK, torchrun RANK, srun SLURM_PROCID; the
    launcher's processes may have inherited the last of the shell that srun has started."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if "SLURM_PROCID" in os.environ and (by_srun() or "LOCAL_RANK" not in os.environ):
        return int(os.environ["SLURM_PROCID"])
    return int(os.environ.get("LOCAL_RANK", 0)) + int(os.environ.get("NODE_RANK", 0))


def by_srun() -> bool:
    """Whether srun has started several processes."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def launched() -> bool:
    """Whether rank 0 has started this process, which is another (Lightning's launcher)."""
    others = "TORCHELASTIC_RUN_ID" in os.environ or by_srun()
    return not others and int(os.environ.get("LOCAL_RANK", 0)) > 0


def cores() -> int:
    """How many this process may use: of those that it may run on, what its container is given (cgroup v2)."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # there is no such file, or no limit: `max`
        quota, period = map(int, QUOTA.read_text().split())
        return max(min(there, math.ceil(quota / period)), 1)
    return there


def crowded() -> bool:
    """Whether something else is running at this moment, on few cores (Linux)."""
    looks = []
    with suppress(OSError, IndexError, ValueError):
        for _ in range(3):  # since for a moment something always does
            looks.append(int(LOAD.read_text().split()[3].partition("/")[0]))
            time.sleep(0.002)
    return cores() <= FEW and min(looks, default=0) > 1  # this thread is one


def use_cores() -> None:
    """torch counts those of the machine: in a container its threads would wait for each other, and be held up."""
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), cores()))


def end_with_parent() -> None:
    """A process that rank 0 has started ends with it, at once, also while it hangs or is stopped. (Linux: prctl(2),
    PR_SET_PDEATHSIG. Elsewhere one that hangs is left behind.)"""
    if launched() and sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def lost(error: BaseException) -> str:
    """Which rank says that another one is lost, and how; '' for any other error. Gloo, NCCL and torch's store tell it
    in their texts alone."""
    import torch.distributed as dist

    said = str(error).strip().partition("\n")[0].partition(" This is typically")[0]
    late = re.search(r"timed? ?out", said, re.IGNORECASE)
    gone = re.search(r"connection (reset|closed|refused)|broken pipe|remote process exited", said, re.IGNORECASE)
    theirs = isinstance(error, dist.DistError) or re.search(r"gloo|nccl|TCPStore|pair closure", said, re.IGNORECASE)
    if not theirs or not (late or gone):
        return ""
    how = "waited in vain for another one, which hangs or has not come" if late else "lost another one, which has died"
    where = re.match(r"\[\S*\] ", said)  # the line of gloo's source
    return f"Rank {rank()} {how}: {said[where.end() if where else 0 :]}"


def share(name: str, value: str | None = None, seconds: float = 300.0) -> str | None:
    """Rank 0 gives `value`, the other ranks get it, before any process group exists.

    Lightning's launcher starts the other ranks from rank 0, so the environment carries it; under torchrun they are
    started together and its store carries it. None: no rank 0 has said anything (this process is alone).
    """
    variable = f"FINETUNE_{name.upper()}"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _through_store(f"{variable}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", value, seconds)
    if value is not None:
        os.environ[variable] = value
    return os.environ.get(variable)


def _through_store(key: str, value: str | None, seconds: float) -> str:
    from datetime import timedelta

    from torch.distributed import TCPStore

    where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(*where, is_master=False, timeout=timedelta(seconds=seconds))
    if value is not None:
        store.set(key, value)
    return store.get(key).decode()


def rows(mine: Any) -> list[Any]:
    """A tensor (n, …) of every rank, in the order of ranks, on every rank; their n may differ."""
    import torch
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    count = torch.tensor([len(mine)], device=mine.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    most = max(map(int, counts))
    padded = torch.cat([mine, mine.new_zeros(most - len(mine), *mine.shape[1:])]).contiguous()
    found = [torch.zeros_like(padded) for _ in counts]
    dist.all_gather(found, padded)
    return [part[: int(n)] for part, n in zip(found, counts, strict=True)]


def gather(mine: Any) -> list[Any]:
    """What every rank holds, in the order of ranks, on every rank."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found


@atexit.register
def _leave() -> None:
    """Gloo's threads end here, while there is an interpreter: one that lets go of a tensor later aborts the process
    ("terminate called without an active exception", once in some thirty exits). Lightning does it for NCCL alone."""
    if "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
