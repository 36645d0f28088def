"""What is known of the images, the network and the machine before anything is trained: what the recipe goes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BESIDE = 50  # images a class below which the backbone as it was, which knows no image by heart, has something to add to
# the one that was fine-tuned (docs/results.md, two backbones)


@dataclass(frozen=True)
class Shaken:
    """Scores of held-out images, as they are and in random views of augment=trivial."""

    still: float
    blind: float  # of the best answer that sees none
    trivial: float

    @property
    def lost(self) -> bool:
        """Whether less than half of what the probe knows of them, above a blind answer, is left in these views. Of
        scenes, hand signs, clothes, icons and letters 0.56 to 0.72 is left, of small digits 0.47 and 0.50, of
        spectrograms of words 0.31 (MobileNetV2 at 96 px, 5 to 20 images a class). What it costs to train on them:
        docs/results.md, what augmentation may do."""
        return self.trivial < (self.still + self.blind) / 2


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
    def imbalance(self) -> float:
        return max(self.counts) / max(min(self.counts), 1) if self.counts else 1.0
