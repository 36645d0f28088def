"""Batches of images for Lightning: which image comes when is a function of (seed, epoch), so a resume repeats it."""

from __future__ import annotations

import functools
import itertools
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from src import rng
from src.columns import tensor
from src.contracts import ConfigError, InputSpec, Source, Split
from src.data.cache import Copies, copies
from src.data.images import read
from src.data.masks import painted, reader
from src.data.order import side_by_side
from src.data.sampler import cells, sampled, times
from src.data.transforms import evaluation

Key = tuple[int | str, int, bool]  # which of its random views, index in the split, whether it counts (padding not)
Transform = Callable[..., torch.Tensor]  # image, perhaps its mask -> image, and then the mask as its last channel


class Images(Dataset):
    """A list of keys -> a batch {image uint8 (B, C, H, W), target, index, valid}."""

    def __init__(
        self,
        split: Split,
        image: Callable[[int], torch.Tensor],
        augment: Transform | None,
        seed: int,
        masked: bool = False,
    ):
        """image: index -> uint8 (C, h, w), which is the evaluation view already where there is no `augment`. masked:
        the last channel is the target (H, W)."""
        self.split, self.image, self.augment, self.seed, self.masked = split, image, augment, seed, masked

    def __getitem__(self, keys: Sequence[Key]) -> dict[str, torch.Tensor]:
        index = [i for _, i, _ in keys]
        images = torch.stack([self._image(view, i) for view, i, _ in keys])
        target = torch.tensor([0 if self.masked else self.split.targets[i] for i in index])
        if self.masked:
            images, target = images[:, :-1], images[:, -1].long()
        return {
            "image": images.contiguous(memory_format=torch.channels_last),
            "target": target,
            "index": torch.tensor(index),
            "valid": torch.tensor([valid for *_, valid in keys]),
        }

    def _image(self, view: int | str, index: int) -> torch.Tensor:
        image = self.image(index)
        if self.augment is None:
            return image
        with rng.keyed(self.seed, "augment", view, index):
            return self.augment(image[:-1], image[-1:]) if self.masked else self.augment(image)


class Shuffled:
    """Training batches of one rank: every image once an epoch, in batches of almost equal size (they differ by one
    image at the most, so no epoch ends with a batch too small for BatchNorm and none of the images is dropped)."""

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        rank: int,
        world: int,
        epoch: int = 0,
        start: int = 0,
        arrange: Callable[..., torch.Tensor] | None = None,
    ):
        """arrange: (key…) -> n indices, instead of a plain random permutation; some may come again, and others not."""
        self.n, self.seed, self.rank, self.world = n, seed, rank, world
        self.arrange, self.repeats = arrange or functools.partial(rng.permutation, n), arrange is not None
        least = min(batch_size, 2)  # BatchNorm needs two images, unless one was asked for
        at_most = max(n // (least * world), 1)
        self.batches = min(math.ceil(n / (batch_size * world)), at_most) * world
        self.epoch, self.start = epoch, start  # `start`: batches of this rank already trained on, in a resumed epoch

    def __len__(self) -> int:
        return self.batches // self.world

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning; the epoch that a resumed run begins with is already set."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch
        order = self.arrange(self.seed, "order", epoch)
        again = times(order) if self.repeats else torch.zeros(1, dtype=torch.int64).expand(len(order))
        each, more = divmod(len(order), self.batches)  # the first `more` batches have one image more
        for k in range(self.rank + self.start * self.world, self.batches, self.world):
            batch = slice(k * each + min(k, more), (k + 1) * each + min(k + 1, more))
            keys = zip(order[batch].tolist(), again[batch].tolist(), strict=True)
            yield [(f"{epoch}.{n}" if n else epoch, i, True) for i, n in keys]


class Repeated(Shuffled, SequentialSampler):
    """The batches of epoch 0 in every epoch. Under trainer.overfit_batches Lightning replaces all other samplers than
    a SequentialSampler, which here would be one class only."""

    def set_epoch(self, epoch: int) -> None:
        """The epoch stays."""


class InOrder(SequentialSampler):
    """Evaluation batches of one rank. Whole batches are dealt out, so that each image meets the same neighbours, and
    gets the same logits, on any number of ranks; a rank with a batch too few repeats one that does not count."""

    def __init__(self, chosen: Sequence[int], batch_size: int, rank: int, world: int):
        self.batches = [chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)]
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return math.ceil(len(self.batches) / self.world)

    def __iter__(self) -> Iterator[list[Key]]:
        mine = self.batches[self.rank :: self.world]
        for i in range(len(self)):
            valid = i < len(mine)
            yield [(0, j, valid) for j in (mine[i] if valid else self.batches[0])]


class Loaders(LightningDataModule):
    """The loaders of one run. Its state in a checkpoint is one number: the training batches done."""

    def __init__(
        self,
        source: Source,
        spec: InputSpec,
        seed: int,
        augment: Callable[[InputSpec], Transform | None],
        batch_size: int = 32,
        timeout: float = 120,
        resize: str = "crop",
        cache: Path | None = None,
        cache_gb: float = 0,
        per_class: int = 1,
        sampler: str = "shuffled",
        workers: Callable[[int], int] = lambda images: 0,
    ):
        """cache: the folder that keeps decoded images, where those of one split and view fit into `cache_gb`.
        per_class: images of a class that come side by side in training. sampler: see src/data/sampler.py.
        workers: images that are to be read -> processes that do it."""
        super().__init__()
        self.sampler = sampler
        self.source, self.spec, self.seed = source, spec, seed
        self.batch_size, self.workers, self.timeout = batch_size, workers, timeout
        self.resize, self.cache, self.cache_gb = resize, cache, cache_gb
        self.opened: dict[tuple[str, str | None], tuple[Copies, str]] = {}
        self.augment = augment(spec)
        self.mask = reader(source.root, source.labels, source.classes) if source.labels.files else None
        if self.mask is not None and resize != "squash":
            raise ConfigError(f"data.resize={resize}: masks are predicted for the whole image. Set data.resize=squash.")
        if self.mask is not None and not getattr(self.augment, "keeps_place", True):
            raise ConfigError(
                "augment: this policy moves what is seen, and would leave the mask where it is.\n"
                "Use augment=jitter, light, colour or none."
            )
        self.per_class = per_class
        if per_class > 1 and not isinstance(source.splits["train"].targets[0], int):
            raise ConfigError(
                f"data.per_class={per_class}: these images have not one class each. Set data.per_class=1."
            )
        self.predicted: tuple[str, Sequence[int] | None] = "test", None  # what Trainer.predict sees: see `loader`
        self.done = {"epoch": 0, "batch": 0}

    def refuse_too_few(self) -> None:
        images = len(self.source.splits["train"])
        if self.batch_size > images:
            raise ConfigError(
                f"data.batch_size={self.batch_size} is more than the {images} training images.\n"
                f"Set data.batch_size to {images} or less."
            )

    @property
    def notes(self) -> tuple[str, ...]:
        """Where the images of a fit come from, and who decodes them, one sentence each."""
        fitted = ("train", None if self.augment else self.resize), ("val", self.resize)
        notes = dict.fromkeys(note for _, note in itertools.starmap(self.copies, fitted) if note)
        most = self.workers(sys.maxsize)
        return *notes, *([f"images: decoded and augmented by up to {most} processes"] if most else [])

    def copies(self, split: str, resize: str | None) -> tuple[Copies, str]:
        """The images of a split, opened once, and where they come from. resize: of the evaluation view; None: to be
        augmented."""
        if (split, resize) not in self.opened:
            images = self.source.root, split, self.source.splits[split], self.spec, resize
            mask = self.mask if self.source.splits[split].labelled else None
            self.opened[split, resize] = copies(*images, self.cache, self.cache_gb, mask)
        return self.opened[split, resize]

    def picture(self, path: str) -> torch.Tensor:
        """The evaluation view (C, H, W) of an image that no split has any more."""
        return copies(self.source.root, "", Split((path,), (None,)), self.spec, self.resize, None, 0)[0](0)

    def loader(
        self,
        split: str,
        train: bool = False,
        only: Sequence[int] | None = None,
        resize: str | None = None,
        shared: bool = True,
    ) -> DataLoader:
        """train: shuffled and augmented; else the evaluation view, in order. Of that, `only`: these images; resize:
        another policy; shared: dealt out to the ranks."""
        items, rank, world = self.source.splits[split], 0, 1
        if shared and self.trainer is not None:
            rank, world = self.trainer.global_rank, self.trainer.world_size
        augment = self.augment if train else None
        image, _ = self.copies(split, None if augment else resize or self.resize)
        if train:
            overfit = self.trainer is not None and self.trainer.overfit_batches
            common = (len(items), self.batch_size, self.seed, rank, world)
            begun = (0, 0) if overfit else (self.done["epoch"], self.done["batch"])
            arrange = None
            if self.sampler != "shuffled":
                arrange = functools.partial(sampled, cells(items.targets, items.groups, self.sampler), self.sampler)
            if self.per_class > 1:
                arrange = functools.partial(side_by_side, tensor(items.targets), self.per_class)
            batches = (Repeated if overfit else Shuffled)(*common, *begun, arrange)
        else:
            batches = InOrder(range(len(items)) if only is None else only, self.batch_size, rank, world)
        epochs = self.trainer.max_epochs if train and self.trainer is not None else 1
        workers = self.workers(max(epochs or 1, 1) * len(items if only is None else only) // world)
        return DataLoader(
            Images(items, image, augment, self.seed, self.mask is not None and items.labelled),
            sampler=batches,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            timeout=self.timeout if workers else 0,  # 0 would wait for a hung worker for ever
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
        )

    def originals(
        self, split: str, only: Sequence[int]
    ) -> Iterator[tuple[torch.Size, torch.Tensor, torch.Tensor | None]]:
        """The size (h, w), the evaluation view, the mask in that size of each of these images."""
        items, view = self.source.splits[split], evaluation(self.spec, self.resize)
        for i in only:
            image = read(self.source.root / items.paths[i], self.spec.channels)
            truth = self.mask(items.targets[i]) if self.mask and items.labelled else None
            yield image.shape[-2:], view(image), truth

    def dealt(self, split: str, limit: float | None, only: Sequence[int] | None = None) -> Sequence[int]:
        """The images of a split, or `only` these, of which a limited number of batches, or part, is looked at: at
        random where that is not all, since neighbours are of one class."""
        only = range(len(self.source.splits[split])) if only is None else only
        if limit is None or (limit == 1 and isinstance(limit, float)):
            return only
        return [only[i] for i in rng.permutation(len(only), self.seed, "dealt").tolist()]

    def painted(self, found: torch.Tensor) -> Image.Image:
        """Classes (h, w) -> a picture as the masks of this source are."""
        return painted(found, [self.source.labels.values[name] for name in self.source.classes])

    def train_dataloader(self) -> DataLoader:
        return self.loader("train", train=True)

    def val_dataloader(self) -> DataLoader:
        return self.loader("val", only=self.dealt("val", self.trainer.limit_val_batches if self.trainer else None))

    def predict_dataloader(self) -> DataLoader:
        split, only = self.predicted
        limit = self.trainer.limit_predict_batches if self.trainer else None
        return self.loader(split, only=self.dealt(split, limit, only))

    def state_dict(self) -> dict[str, Any]:
        # `processed`, not `completed`: at the end of a batch, where checkpoints are written, the latter lags by one
        assert self.trainer is not None
        seen = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
        epoch, batch = divmod(seen, int(self.trainer.num_training_batches))
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.done = dict(state_dict)


def _start_worker(_: int) -> None:
    """A worker must not act on signals that are meant for the run: it would save, or print, a second time. Those that
    `timeout` or a terminal sends to the whole group do not reach it, or the run would lose it before the save."""
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
