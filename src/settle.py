"""What depends on the machine and not on the images, answered before config.yaml is written, so that a resume keeps it:
how many batches make an update, how large a batch fits into the memory, whether compiling pays."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from src import folder, hardware, resume
from src.build import prepare
from src.contracts import ConfigError, Run
from src.stages.pace import pace

# PyTorch 2.0's own figures for training on an A100, the mean of 163 networks: 1.21 x as fast in float32, 1.51 x under
# autocast (pytorch.org/get-started/pytorch-2.0).
SAVED = {True: 1 - 1 / 1.51, False: 1 - 1 / 1.21}
COST = 90.0  # seconds that compiling takes, for training and validation; a plain guess
SPARE = 0.9  # of the memory is used, since what it is cut into varies


def settle(cfg: DictConfig, home: folder.RunFolder) -> DictConfig:
    """The config with its open words answered. Raises ConfigError where they cannot be."""
    words = resume.plain(cfg)
    trainer, data, count = words["trainer"], words["data"], hardware.ranks(words)
    fits = bool({"fit", "find_lr"} & set(words["stages"]))
    if trainer["auto_batch"] and fits:
        data["batch_size"], trainer["effective_batch"] = batch(words, home, count)
    if trainer["effective_batch"]:
        trainer["accumulate_grad_batches"] = accumulated(trainer["effective_batch"], data["batch_size"], count)
    if trainer["compile"] == "auto" and fits:
        trainer["compile"] = pays(words, home)
    for key in ("data.batch_size", "trainer.effective_batch", "trainer.accumulate_grad_batches", "trainer.compile"):
        group, _, name = key.partition(".")
        OmegaConf.update(cfg, key, words[group][name])
    return cfg


def accumulated(effective: int, size: int, ranks: int) -> int:
    """How many batches are added up, so that an update sees `effective` images."""
    if effective % (size * ranks):
        share = [n for n in range(1, effective // ranks + 1) if effective % (n * ranks) == 0]
        near = sorted(share, key=lambda n: abs(n - size))[:3]
        said = f" on {ranks} devices" if ranks > 1 else ""
        raise ConfigError(
            f"trainer.effective_batch={effective} data.batch_size={size}{said}: no whole number of batches has so many "
            f"images.\nSet data.batch_size={' or '.join(map(str, sorted(near))) or 1}, or trainer.effective_batch="
            f"{max(round(effective / (size * ranks)), 1) * size * ranks}."
        )
    return effective // (size * ranks)


def batch(words: dict[str, Any], home: folder.RunFolder, ranks: int) -> tuple[int, int]:
    """(the batch size that fits, the effective batch, which stays)."""
    trainer, size = words["trainer"], words["data"]["batch_size"]
    effective = trainer["effective_batch"] or size * trainer["accumulate_grad_batches"] * ranks
    where = hardware.accelerator(words)
    if where != "gpu":
        print(f"auto_batch  the memory of a {where} is not measured: data.batch_size={size} as it is", flush=True)
        return size, effective
    if ranks > 1:
        raise ConfigError(
            f"trainer.auto_batch=true on {ranks} devices: the memory is measured before there are so many processes.\n"
            "Run it once with trainer.devices=1 stages=[fit] trainer.max_steps=1, and set the data.batch_size it finds."
        )
    r = prepare(words, home)
    found = largest(min(effective, len(r.source.splits["train"])), effective, lambda n: fits(r, n))
    print(f"auto_batch  data.batch_size={found} fits; an update sees {effective} images", flush=True)
    return found, effective


def largest(most: int, effective: int, fit: Callable[[int], bool]) -> int:
    """The effective batch, or the half, a quarter … of it that fits. Raises ConfigError if none does."""
    size = effective
    while size > most or not fit(size):
        if size % 2:
            raise ConfigError(
                f"trainer.auto_batch=true: of an effective batch of {effective}, not even {size} images at a time fit, "
                "and that cannot be halved.\n"
                "Set model.grad_checkpointing=true, a smaller model.image_size, or another trainer.effective_batch."
            )
        size //= 2
    return size


def fits(r: Run, size: int) -> bool:
    """Whether two updates with this batch size fit; the second has the optimizer's state, too."""
    r.loaders.batch_size = size
    trainer = r.trainer("train")
    trainer.fit_loop.epoch_loop.max_steps, trainer.fit_loop.max_epochs = 2, -1
    trainer.accumulate_grad_batches, trainer.limit_val_batches = 1, 0
    torch.cuda.set_per_process_memory_fraction(SPARE)
    try:
        trainer.fit(r.module(r.network()), datamodule=r.loaders)
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        del trainer
        gc.collect()
        torch.cuda.empty_cache()
    return True


def pays(words: dict[str, Any], home: folder.RunFolder) -> bool:
    """Whether compiling is expected to save more than it costs; never without a GPU, where little is saved."""
    if hardware.accelerator(words) != "gpu":
        print("compile     auto: left out; it is for GPUs", flush=True)
        return False
    r, epochs = prepare(words, home), words["trainer"]["max_epochs"]
    seconds = pace(r, "cuda").train * len(r.source.splits["train"]) * max(epochs or 1, 1)
    saved = seconds * SAVED["mixed" in str(words["trainer"]["precision"])]
    print(f"compile     auto: about {saved:.0f} s of {seconds:.0f} s saved, for some {COST:.0f} s", flush=True)
    return saved > COST
