"""How fast a GPU trains, beside a loop with the settings of timm's train.py: `python benchmarks/throughput.py`.

Of each network at its own size, in bf16: images a second of training, once on one batch that lies on the GPU already,
once from a folder of JPEG files (made for it, read once before, since ours keeps decoded images). *timm*: its loader
(RandomResizedCrop, flip), autocast, AdamW and channels_last as `train.py --amp --amp-dtype bfloat16 --channels-last
--opt adamw` has them. *ours*: the run that train.py makes, with its callbacks, the average of the weights and the
clipping; recipe=off augment=light, which crops and flips, too. In turns; the median. The last column is what the GPU
multiplies meanwhile, of what it does in one bf16 product of 8192 x 8192 matrices.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import hydra
import numpy as np
import pytorch_lightning as pl
import timm
import torch
from PIL import Image
from runs import ROOT
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(ROOT))
from src import folder, resume, world
from src.build import prepare
from src.contracts import Run

NAMES = ["vit_small_patch16_224", "vit_base_patch16_224", "resnet50"]
WARM = 10  # batches before the clock starts
Batch = dict[str, torch.Tensor]


class Clock(pl.Callback):
    """Images a second from the batch `WARM` on."""

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.seen = getattr(self, "seen", 0) + 1
        if self.seen == WARM:
            self.began, self.images = now(), 0
        elif self.seen > WARM:
            self.images += len(batch["image"])

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.rate = self.images / (now() - self.began)


class Endless:
    """A loader of one batch, over and over."""

    def __init__(self, batch: Any, times: int):
        self.batch, self.times = batch, times

    def __len__(self) -> int:
        return self.times

    def __iter__(self) -> Iterator[Any]:
        return (self.batch for _ in range(self.times))


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


def jpeg(job: tuple[Path, int]) -> None:
    """500 x 375 of smooth noise, about as many bytes as a photograph."""
    place, i = job
    rough = np.random.default_rng(i).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(rough).resize((500, 375), Image.Resampling.BICUBIC).save(
        place / f"{i % 10}" / f"{i}.jpg", quality=90
    )


def ours(name: str, root: Path, words: argparse.Namespace, more: list[str], synthetic: bool) -> float:
    torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = False  # as a new process has them
    place = Path(tempfile.mkdtemp(dir=root))
    said = [
        *("data=folder", f"data.root={root / 'images'}", "data.val_size=0.01", "data.test_size=0.01"),
        *(f"data.batch_size={words.batch}", "data.scan_limit=100", f"paths.cache={root / 'cache'}"),
        *(f"model.name={name}", "model.pretrained=false", "recipe=off", "augment=light", "logger=[csv]"),
        *("trainer.precision=bf16-mixed", "trainer.accelerator=gpu", "trainer.limit_val_batches=0", "select=last"),
        *(f"trainer.max_steps={words.steps}", "trainer.max_epochs=-1", f"run_dir={place}", *words.words, *more),
    ]
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = resume.plain(hydra.compose("train", said))
    r: Run = prepare(cfg, folder.RunFolder(place))
    trainer, module, clock = r.trainer("train"), r.module(r.network()), Clock()
    trainer.callbacks.append(clock)
    if synthetic:
        loader = r.loaders.loader("train", train=True, shared=False)
        batch = {key: value.cuda() for key, value in next(iter(loader)).items()}
        trainer.fit(module, Endless(batch, words.steps))
    else:
        trainer.fit(module, datamodule=r.loaders)
    return clock.rate


def timms(name: str, root: Path, words: argparse.Namespace, more: list[str], synthetic: bool) -> float:
    torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = True
    net = timm.create_model(name, num_classes=10).cuda().to(memory_format=torch.channels_last)
    if "trainer.compile=true" in more:
        net.compile()
    optimizer = create_optimizer_v2(net, opt="adamw", lr=1e-3, weight_decay=0.05)
    loss = LabelSmoothingCrossEntropy(0.1)
    asked = resolve_data_config({}, model=net, verbose=False)
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]]
    if synthetic:
        image = torch.randn(words.batch, *asked["input_size"], device="cuda").to(memory_format=torch.channels_last)
        batches = Endless((image, torch.arange(words.batch, device="cuda") % 10), words.steps)
    else:
        batches = create_loader(
            create_dataset("", str(root / "images")),
            input_size=asked["input_size"],
            batch_size=words.batch,
            is_training=True,
            scale=(0.4, 1.0),
            hflip=0.5,
            color_jitter=None,
            interpolation="bilinear",
            num_workers=world.cores() - 1,
            pin_memory=True,
        )
    net.train()
    seen, images, began = 0, 0, 0.0
    while seen < words.steps:
        for image, target in batches:
            image = image.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cuda", torch.bfloat16):
                error = loss(net(image), target)
            error.backward()
            optimizer.step()
            optimizer.zero_grad()
            seen += 1
            if seen == WARM:
                began, images = now(), 0
            elif seen > WARM:
                images += len(image)
            if seen == words.steps:
                break
    return images / (now() - began)


def forward(name: str) -> float:
    """FLOP of an image; a backward pass takes twice as many."""
    net = timm.create_model(name).eval()
    size = resolve_data_config({}, model=net, verbose=False)["input_size"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, *size))
    return counter.get_total_flops()


def peak() -> float:
    """FLOP/s of one large product."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for turns in (3, 20):
        began = now()
        for _ in range(turns):
            torch.mm(a, b)
        spent = now() - began
    return 20 * 2 * 8192**3 / spent


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--names", nargs="+", default=NAMES)
    words.add_argument("--batch", type=int, default=256)
    words.add_argument("--steps", type=int, default=60)
    words.add_argument("--turns", type=int, default=3)
    words.add_argument("--images", type=int, default=5120)
    words.add_argument("--compile", action="store_true", help="both by torch.compile, too")
    words.add_argument("words", nargs="*", help="behind --: what our runs are told beside")
    said = words.parse_args()
    most = peak()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: {most / 1e12:.0f} TFLOP/s in one product")
    print("| network | batches | timm, images/s | ours, images/s | ours / timm | of the product |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        for i in range(10):
            (root / "images" / f"{i}").mkdir(parents=True)
        with ProcessPoolExecutor() as pool:
            list(pool.map(jpeg, ((root / "images", i) for i in range(said.images)), chunksize=64))
        for name in said.names:
            compared(name, "on the GPU", root, said, most)
            compared(name, "JPEG files", root, said, most)
            if said.compile:
                compared(name, "on the GPU, compiled", root, said, most)


def compared(name: str, kind: str, root: Path, said: argparse.Namespace, most: float) -> None:
    """Prints a row."""
    more = ["trainer.compile=true"] if "compiled" in kind else []
    pairs = [[side(name, root, said, more, "GPU" in kind) for side in (timms, ours)] for _ in range(said.turns)]
    their, our = zip(*pairs, strict=True)
    shown = " | ".join(f"{median(some):,.0f} ({min(some):,.0f} to {max(some):,.0f})" for some in (their, our))
    used = 100 * median(our) * 3 * forward(name) / most
    print(f"| {name} | {kind} | {shown} | {median(b / a for a, b in pairs):.2f} | {used:.0f} % |", flush=True)


if __name__ == "__main__":
    main()
