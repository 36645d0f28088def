"""What this machine can do, and which settings it would obey badly: those are refused with the reason."""

from __future__ import annotations

import importlib.util
import math
import os
import platform
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from src import world
from src.contracts import ConfigError

COSTS = 40  # images that are decoded while a process that decodes is started and ended: 85 ms, of 2 ms each
# What is said with the flags of Lightning's Trainer, and is not for it.
OWN = ("effective_batch", "auto_batch", "channels_last", "compile", "matmul_precision")


def fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware. Without, autocast is 40 to 400 times slower than fp32."""
    answers = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    arm = platform.machine() in ("arm64", "aarch64")
    return arm or any(bool(answer()) for answer in answers if answer is not None)


def accelerator(cfg: dict[str, Any]) -> str:
    """cpu | gpu | mps: what `auto` means here."""
    asked = cfg["trainer"]["accelerator"]
    if asked != "auto":
        return "gpu" if asked == "cuda" else asked
    return "gpu" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def device(cfg: dict[str, Any]) -> str:
    """The same as torch calls it: cpu | cuda | mps."""
    return "cuda" if (where := accelerator(cfg)) == "gpu" else where


def layout(cfg: dict[str, Any]) -> tuple[str, bool | str]:
    """What networks are suited to: the device, trainer.channels_last."""
    return device(cfg), cfg["trainer"]["channels_last"]


@cache
def startup() -> float:
    """Seconds from the start of this process to the first call: what the imports took."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # proc(5), field 22
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.process_time()


def refuse_impossible(cfg: dict[str, Any]) -> None:
    """ConfigError where Lightning would fail late, or work and be slow."""
    words, where = cfg["trainer"], accelerator(cfg)
    if where == "gpu" and not torch.cuda.is_available():
        raise ConfigError(
            f"trainer.accelerator={words['accelerator']}: torch {torch.__version__} sees no GPU here.\n"
            "Set trainer.accelerator=cpu, or install a torch build for your driver "
            "(python -c 'import torch; print(torch.cuda.is_available())' must print True)."
        )
    count = words["devices"]
    if where == "gpu" and isinstance(count, int) and count > torch.cuda.device_count():
        raise ConfigError(
            f"trainer.devices={count}: this machine has {torch.cuda.device_count()} GPUs.\n"
            f"Set trainer.devices={torch.cuda.device_count()} or trainer.devices=auto."
        )
    refuse_other_ranks(cfg)
    if compiler(cfg) == "inductor" and not _can_compile(where):
        raise ConfigError(
            f"trainer.compile={str(words['compile']).lower()}: torch's compiler needs "
            f"{'triton' if where == 'gpu' else 'a C++ compiler (g++ or $CXX)'}, and there is none here.\n"
            "Install it, or leave trainer.compile out."
        )
    _refuse_flags(cfg)
    precision = str(words["precision"])
    if where == "cpu" and "bf16" in precision and not fast_bf16():
        raise ConfigError(
            f"trainer.precision={precision}: this CPU has no bf16 arithmetic (AVX512-BF16, AMX), so torch would "
            "emulate it, 40 to 400 times slower than fp32.\nSet trainer.precision=32-true."
        )
    if where == "cpu" and precision.startswith("16"):
        raise ConfigError(f"trainer.precision={precision}: fp16 is for GPUs.\nSet trainer.precision=32-true on a CPU.")
    if precision == "16-mixed" and cfg["optimizer"].get("fused") and words["gradient_clip_val"]:
        raise ConfigError(
            "trainer.precision=16-mixed with optimizer.fused=true and trainer.gradient_clip_val: a fused optimizer "
            "unscales the gradients itself, after they would have been clipped.\n"
            "Set optimizer.fused=false, or trainer.precision=bf16-mixed."
        )


def compiler(cfg: dict[str, Any]) -> str | None:
    """The backend of torch.compile; `auto` has been answered when a network is trained, and is none before."""
    asked = cfg["trainer"]["compile"]
    return "inductor" if asked is True else None if asked in (False, "auto") else asked


def _can_compile(where: str) -> bool:
    if where == "gpu":
        return importlib.util.find_spec("triton") is not None
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))


def obey(cfg: dict[str, Any]) -> None:
    """What torch keeps for the whole process."""
    world.use_cores()
    if accelerator(cfg) == "gpu":
        torch.set_float32_matmul_precision(cfg["trainer"]["matmul_precision"])


def ranks(cfg: dict[str, Any]) -> int:
    """How many processes train."""
    words, count = cfg["trainer"], cfg["trainer"]["devices"]
    if count in ("auto", -1):
        count = torch.cuda.device_count() if accelerator(cfg) == "gpu" else 1
    return words["num_nodes"] * (len(count) if isinstance(count, list) else int(count))


def workers(cfg: dict[str, Any]) -> Callable[[int], int]:
    """How many processes decode and augment so many images, for each process that trains. One costs as much as some
    images do, to start and to end: the root of their number takes the least time in all."""
    if (asked := cfg["data"]["num_workers"]) != "auto":
        return lambda images: asked
    share = world.cores() // max(ranks(cfg) // cfg["trainer"]["num_nodes"], 1)
    most = max(share - 1, 0) if accelerator(cfg) == "gpu" else 0
    return lambda images: min(math.isqrt(images // COSTS), most)


def refuse_other_ranks(cfg: dict[str, Any]) -> None:
    """As many processes as are started, and on several machines something that starts them."""
    words, env = cfg["trainer"], os.environ
    name = "torchrun" if "TORCHELASTIC_RUN_ID" in env else "srun" if "SLURM_STEP_NUM_TASKS" in env else ""
    began = int(env["WORLD_SIZE"] if name == "torchrun" else env["SLURM_STEP_NUM_TASKS"]) if name else 1
    asked = f"trainer.devices={words['devices']} trainer.num_nodes={words['num_nodes']}"
    if began > 1 and began != ranks(cfg):
        raise ConfigError(
            f"{asked} are {ranks(cfg)} processes, and {name} has started {began}.\n"
            f"Start as many with {name}; or, of a new run, set trainer=ddp, trainer.devices (of one machine) and "
            "trainer.num_nodes (machines). A run is resumed on as many processes as it began with."
        )
    if words["num_nodes"] > 1 and not name and "MASTER_ADDR" not in env:
        raise ConfigError(
            f"{asked}: nothing says where the other machines are; neither torchrun nor srun has started this process.\n"
            f"Start it on each with torchrun --nnodes {words['num_nodes']} --nproc-per-node {words['devices']} "
            "--rdzv-backend c10d --rdzv-endpoint HOST:29400 train.py …, or with scripts/slurm.sbatch."
        )


def too_large(error: BaseException, cfg: dict[str, Any]) -> str:
    """What to do where the memory was not enough; '' for any other error."""
    if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
        return ""
    words, size, side = cfg["trainer"], cfg["data"]["batch_size"], cfg["model"].get("image_size")
    told = ". ".join(str(error).split(". ")[:2]).rstrip(". ")
    half = max(size // 2, 1)
    effective = words["effective_batch"] or size * words["accumulate_grad_batches"] * ranks(cfg)
    return (
        f"Out of memory with data.batch_size={size}, model.image_size={side or 'that of the weights'}, "
        f"trainer.precision={words['precision']}: {told}.\n"
        "Any of these needs less, in a new run:\n"
        f"  data.batch_size={half} trainer.effective_batch={effective}    (the same updates, in smaller pieces)\n"
        "  model.grad_checkpointing=true    (inner layers are computed again: a third more time)\n"
        f"  {_smaller(str(words['precision']), side, accelerator(cfg))}"
    )


def _smaller(precision: str, side: int | None, where: str) -> str:
    if where == "gpu" and precision.startswith("32"):
        return "trainer.precision=bf16-mixed    (half the memory of what lies between the layers)"
    return f"model.image_size={side * 2 // 3 // 32 * 32 or side // 2 if side else 128}    (smaller images)"


def _refuse_flags(cfg: dict[str, Any]) -> None:
    """Trainer flags with which the stages after the fit could not work."""
    words = cfg["trainer"]
    if words["fast_dev_run"]:
        raise ConfigError("trainer.fast_dev_run writes no checkpoint, so nothing can be tested.\nUse debug=fast.")
    if words["barebones"] or not words["enable_checkpointing"]:
        raise ConfigError(
            "trainer.barebones=true and trainer.enable_checkpointing=false write no checkpoint, so nothing can be "
            "tested or resumed.\nLeave them as they are; debug=fast is the quick run."
        )
    every, epochs = words["check_val_every_n_epoch"], words["max_epochs"]
    never = words["limit_val_batches"] == 0 or (every and epochs and 0 < epochs < every)
    if never and "fit" in cfg["stages"] and cfg["select"] == "best":
        raise ConfigError(
            "select=best needs a validation, and this fit makes none (trainer.limit_val_batches=0, or "
            "trainer.check_val_every_n_epoch above trainer.max_epochs).\nSet select=last."
        )


def describe() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "machine": platform.node(),
        "cpu": platform.processor() or platform.machine(),
        "gpus": gpus,
        "threads": torch.get_num_threads(),
    }
