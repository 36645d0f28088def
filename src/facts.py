"""What is known of the images, the network and the machine before anything is trained: what the recipe goes by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

VIEWS = {"trivial": "turned, sheared, recoloured and cut out", "crop": "cut out"}
LEFT = {"trivial": 1 / 2, "crop": 2 / 3}  # of what the probe knows of images, the part that views must keep


@dataclass(frozen=True)
class Shaken:
    """Scores of held-out images in random views, as a training would show them."""

    asked: int  # images
    still: float  # as they are
    blind: float  # of the best answer that sees none
    trivial: float  # in views of augment=trivial
    crop: float | None = None  # in its crops alone; None: not asked, since `trivial` loses little

    @property
    def known(self) -> float:
        """What the probe knows of them: above a blind answer."""
        return max(self.still - self.blind, 0.0)

    def loses(self, view: str) -> bool:
        """Whether too little of that is left, beyond one standard error. MobileNetV2 at 96 px: of scenes, hand signs,
        clothes, icons and digits 0.55 to 0.93 is left in `trivial` and 0.78 or more in `crop`; of accented letters 0.39
        and 0.80, of spectrograms of words 0.42 and 0.59. What a training on such views costs: docs/results.md."""
        if (score := getattr(self, view)) is None:
            return False
        error = math.sqrt(max(score * (1 - score), 1e-4) / self.asked)
        return score + error < self.blind + LEFT[view] * self.known

    def told(self, view: str) -> str:
        change = 100 * (getattr(self, view) - self.still)
        return f"the probe on images {VIEWS[view]}: {change:+.1f} points of the {100 * self.known:.1f} that it knows"


@dataclass(frozen=True)
class Probed:
    """What the frozen network was asked; accuracies are held out, 0..1."""

    head: str  # the best head, such as `lda 0.5 on stages`
    score: float  # of the best head, cross-validated inside train
    last: float  # of the best head that reads the last features alone
    asked: int  # images that the questions below were asked of
    resize: Mapping[str, float]  # policy -> score; only those that were compared
    mirrored: float | None  # score on mirrored images less that on the images; None: not asked
    turned: tuple[float, ...] | None  # score on images upside down, and that of the best blind answer; classes only
    grey: float | None  # score without colours less that with them
    shaken: Shaken | None = None  # classes only
    noise: float | None = None  # the part of the training labels that is wrong; None: not asked
    wrong: int = 0  # training images that are better left out, since their label is
    notes: tuple[str, ...] = ()  # what else was seen, a sentence each


@dataclass(frozen=True)
class Ranked:
    """One of model.candidates."""

    name: str
    weights: str | None
    score: float  # of the best head on its features, held out
    knn: float | None  # of the nearest images
    parameters: float  # millions
    macs: float  # multiply-adds of an image, in millions
    seconds: float  # that this took, or less where its features were cached


@dataclass(frozen=True)
class Budget:
    """Seconds of wall time; what is left of it when the fit begins is planned with what an image takes."""

    total: float
    spent: float
    train: float  # per image
    predict: float  # per image
    test: int  # images


@dataclass(frozen=True)
class Facts:
    images: int  # to train on
    val: int
    counts: tuple[int, ...]  # training images of each class
    size: int  # of the network's input, in pixels
    channels: int
    family: str  # of the network: batchnorm | attention | other
    pretrained: bool
    ordered: bool  # whether the network says in which order its layers come
    device: str  # cpu | gpu | mps
    bf16: bool  # whether the GPU computes in bf16
    probed: Probed | None
    ranks: int = 1  # processes that train, each on batches of its own
    budget: Budget | None = None
    chosen: Ranked | None = None  # this network, where the user named several
    place: str = ""  # of it among them, as `2 of 3`
    rivals: int = 1  # that are fitted side by side, this one included
    dense: bool = False  # whether the target is the class of each pixel
    embeds: bool = False  # whether images are compared with each other
    geometric: bool = False  # whether the target may be where, how large or which way round something is
    rate: float | None = None  # the learning rate that the fine-tuning policy states; None: that of the family

    @property
    def each(self) -> float:
        """Training images of a class, on average; of numbers, of a tenth of their range."""
        return sum(self.counts) / len(self.counts) if self.counts else self.images / 10

    @property
    def shaken(self) -> Shaken | None:
        return self.probed.shaken if self.probed else None

    @property
    def imbalance(self) -> float:
        return max(self.counts) / max(min(self.counts), 1) if self.counts else 1.0
