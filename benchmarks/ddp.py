"""What a run adds to a step of two processes, beside a bare loop around torch's DDP: `python benchmarks/ddp.py`.

Two processes of this machine, one thread each, by gloo; one batch, over and over; in turns. *bare*: timm's network in
DistributedDataParallel, cross-entropy, a fused AdamW. *ours*: the run that `train.py trainer=ddp recipe=off` makes,
with its callbacks, the average of the weights, the clipping and what it writes. Prints a Markdown table: milliseconds
of a step on rank 0 (the median of the turns, the least and the most), and the median of the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path
from statistics import median

import hydra
import timm
import torch
from runs import ROOT
from throughput import WARM, Batch, Clock, Endless, now
from torch import distributed
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(ROOT))
from src import folder, resume
from src.build import prepare

NAMES = ["test_resnet", "resnet18", "mobilenetv2_100"]


def bare(name: str, batch: Batch, steps: int) -> float:
    """Seconds of a step."""
    channels = batch["image"].shape[1]
    net = DistributedDataParallel(
        timm.create_model(name, num_classes=10, in_chans=channels).to(memory_format=torch.channels_last),
        gradient_as_bucket_view=True,
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    image, began = (batch["image"] / 255).contiguous(memory_format=torch.channels_last), 0.0
    for step in range(steps):
        began = now() if step == WARM else began
        functional.cross_entropy(net(image), batch["target"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return (now() - began) / (steps - WARM)


def ours(name: str, words: argparse.Namespace, place: Path, batch: Batch | None) -> tuple[float, Batch]:
    """Seconds of a step; and the batch, a first one where none is given."""
    said = [
        *("recipe=off", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "model.pretrained=false"),
        *(f"model.name={name}", f"model.image_size={words.size}", f"data.batch_size={words.batch}", "logger=[csv]"),
        *(f"run_dir={place}", f"paths.cache={place.parent / 'cache'}", "trainer.limit_val_batches=0", "select=last"),
        *(f"trainer.max_steps={words.steps}", "trainer.max_epochs=-1", "trainer.enable_progress_bar=false"),
    ]
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = resume.plain(hydra.compose("train", said))
    run = prepare(cfg, folder.RunFolder(place))
    trainer, module, clock = run.trainer("train"), run.module(run.network()), Clock()
    batch = batch or next(iter(run.loaders.loader("train", train=True, shared=False)))
    trainer.callbacks.append(clock)
    trainer.fit(module, Endless(batch, words.steps))
    return len(batch["image"]) / clock.rate, batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", default=NAMES)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16, help="images of a process")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--turns", type=int, default=5)
    words = parser.parse_args()
    if "LOCAL_RANK" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
        torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
        os.execv(sys.executable, [*torchrun, __file__, *sys.argv[1:]])
    distributed.init_process_group("gloo")
    screen = sys.stdout if distributed.get_rank() == 0 else None
    if screen:
        print("| network | bare, ms | ours, ms | ours / bare |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as made, contextlib.redirect_stdout(sys.stderr):
        roots = [made]
        distributed.broadcast_object_list(roots)
        for name in words.names:
            pairs, batch = [], None
            for turn in range(words.turns):
                mine, batch = ours(name, words, Path(roots[0]) / f"{name}-{turn}", batch)
                pairs.append((bare(name, batch, words.steps), mine))
            each = (sorted(1e3 * turn for turn in side) for side in zip(*pairs, strict=True))
            shown = " | ".join(f"{median(side):.1f} ({side[0]:.1f} to {side[-1]:.1f})" for side in each)
            ratio = median(mine / other for other, mine in pairs)
            if screen:
                print(f"| {name} | {shown} | {ratio:.2f} |", file=screen, flush=True)
        distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
