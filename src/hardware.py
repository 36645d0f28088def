"""What this machine can do, and which settings it would obey badly: those are refused with the reason."""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from src.contracts import ConfigError


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
