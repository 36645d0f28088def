"""The types that cross a wall between rooms, and the errors a user may meet. No behaviour."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn


class ConfigError(ValueError):
    """The user's words cannot be obeyed: what was asked, what was found, what to do. Exit code 2."""


class DataError(ValueError):
    """The user's images or tables cannot be used: what was asked, what was found, what to do. Exit code 3."""


@dataclass(frozen=True)
class InputSpec:
    """What a network wants to see; stated by its weights, read by the data room."""

    size: tuple[int, int]  # (H, W) in pixels
    channels: int
    mean: tuple[float, ...]  # one per channel, of values in 0..1
    std: tuple[float, ...]
    interpolation: str  # bilinear | bicubic | nearest
    crop: float  # the part of the resized short side that the centre crop keeps, 0..1


class Stat(Protocol):
    @property
    def st_size(self) -> int: ...

    @property
    def st_mtime_ns(self) -> int: ...


class File(Protocol):
    """Where the bytes of one image are, called as pathlib does: a Path, or a piece of a larger file. `open` and `stat`
    raise OSError where there is nothing."""

    @property
    def name(self) -> str: ...

    @property
    def suffix(self) -> str: ...

    def open(self, mode: Literal["rb"]) -> IO[bytes]: ...

    def stat(self) -> Stat: ...


class Root(Protocol):
    """What paths are relative to, `root / path` being a File: a Path, or an archive that finds its pieces. Its text is
    where it lies. It goes to worker processes, so it can be pickled and holds no open file."""

    def __truediv__(self, path: str, /) -> File: ...


SUSPECTS, LEFT = "suspects.csv", "left out"  # doubtful training labels, and the column that says which are not learnt
UNLABELLED = -1  # the class of an image that is only to be predicted


def _columns() -> Any:
    from src import columns  # which needs NumPy, which the check of the user's words does without

    return columns


@dataclass(frozen=True)
class Split:
    """The images of one split: paths (POSIX, relative to the source's root) and their targets. Whatever sequences are
    given, they are kept as columns (src/columns.py), that tables of any length fit into the memory."""

    paths: Sequence[str]
    targets: Sequence[Any]
    groups: Sequence[int] = ()  # images of one group are alike, and are held out together; (): each is on its own
    labelled: bool = True  # only of test there need be no labels, and then of all its images

    def __post_init__(self) -> None:
        for name in ("paths", "targets", "groups"):
            object.__setattr__(self, name, _columns().column(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.paths)

    def only(self, kept: Sequence[int] | np.ndarray) -> Split:
        """These images."""
        paths, targets, groups = (_columns().take(rows, kept) for rows in (self.paths, self.targets, self.groups))
        return Split(paths, targets, groups, self.labelled)

    def joined(self, other: Split) -> Split:
        """These images, then those."""
        join = _columns().joined
        groups = join(self.groups, other.groups) if self.groups and other.groups else ()  # of all images, or of none
        return Split(join(self.paths, other.paths), join(self.targets, other.targets), groups)


def _one_class() -> Any:
    from src.labels import OneClass  # which imports this module

    return OneClass()


@dataclass(frozen=True)
class Source:
    """Which images there are. The class list is decided once, from train, and is equal in all splits."""

    root: Root  # a Path, or an archive that is called like one
    classes: tuple[str, ...]  # of a regression the names of its numbers
    splits: Mapping[str, Split]  # always train and val; test where there is one; multiclass targets index `classes`
    notes: tuple[str, ...] = ()  # what was decided for the user, one sentence each, printed at the start
    labels: Any = field(default_factory=_one_class)  # how targets are read and written: src.labels.Labels


@dataclass(frozen=True)
class Backbone:
    """A network without a classifier, and what must be known of it."""

    net: nn.Module  # (B, C, H, W) float, normalised -> (B, features)
    features: int
    spec: InputSpec
    layers: Mapping[str, int]  # parameter name -> depth, 0 = stem; grouped as layer-wise learning rates need it
    patch: int = 1  # pixels; the sides of an image are multiples of it
    dropout: float = 0.0  # before the head
    no_decay: frozenset[str] = frozenset()  # parameters that the architecture exempts from weight decay
    weights: Path | None = None  # a file that is to be loaded once the head exists
    convert: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = field(default=lambda state: state)
    # convert: a foreign state dict -> this network's names and shapes (position embeddings, input channels)
    stages: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None
    # stages: (B, C, H, W) normalised -> ((B, features), all stages pooled (B, widths)); None: not known
    maps: Callable[[torch.Tensor], list[torch.Tensor]] | None = None
    # maps: (B, C, H, W) normalised -> the stages as (B, width, h, w), fine ones first; None: not known
    stage: Mapping[str, int] = field(default_factory=dict)  # parameter name -> stage, 0 = that of the stem; {}: unknown
    family: str = "other"  # batchnorm | attention | other; the recipe goes by it
    head: str = "linear"  # what is on top: linear | stages (linear, on all of them) | mlp | cosine | bnneck
    head_scale: float | None = None  # of a cosine head; None: learnt
    batchnorm: str = "train"  # train: the statistics of each batch | frozen: those that came with the weights


@dataclass(frozen=True)
class Teacher:
    """A network that has learnt already, and what must be known of it by those that learn from it."""

    network: nn.Module  # (B, C, H, W) uint8, or float in 0..1 -> (B, outputs), in eval mode
    outputs: int
    classes: tuple[str, ...] | None  # None: not known, but in their order
    task: str | None  # `_target_` of the task that it was trained for
    spec: InputSpec
    name: str
    notes: tuple[str, ...] = ()


Weights = Any  # plain data: what the head that was trained, and the one solved after it, count in their sum
Affine = tuple["torch.Tensor", "torch.Tensor"]  # weight (outputs, D), bias (outputs,)


@dataclass(frozen=True)
class Head:
    """A linear head that was solved on features, not trained by gradient steps."""

    name: str
    weight: torch.Tensor  # (outputs, D)
    bias: torch.Tensor  # (outputs,)
    logits: torch.Tensor | None = None  # (N, outputs) of the images it was solved on, out of fold
    parts: tuple[tuple[torch.Tensor, Affine], ...] = ()  # (images held out (n,), the head that did not see
    # them); of an image that is held out several times they add up
    score: float | None = None  # held out, where that is not the skill of the logits


@dataclass(frozen=True)
class Noise:
    """How many labels are wrong, as far as held-out answers tell, and which."""

    share: float  # of all labels
    sure: float  # standard errors by which that is more than none
    known: float  # how sure the answers are that tell it, 0..1
    wrong: torch.Tensor  # (N,) bool: the label is rather wrong than right
    head: Head  # whose answers tell it


@dataclass(frozen=True)
class Part:
    """One of several targets that stand side by side, each in a slice of the outputs and of the targets (N, outputs)
    that are NaN where it is unknown. A class is 1 among zeros there."""

    name: str  # its column in the table
    kind: str  # multiclass | multilabel | regression | ordinal
    target: str  # as in Task
    columns: slice
    classes: tuple[str, ...]
    known: int = 0  # training images that have it
    loss: str | None = None  # by its name; None: the usual one
    weight: float = 1.0  # of its loss in the sum


Scorer = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]  # (logits (N, outputs), target (N, …)) -> …


@dataclass(frozen=True)
class Task:
    """What differs between kinds of target. Logits are what the network puts out: of a regression, the numbers."""

    outputs: int  # width of the head; 0: as many as the network has features
    target: str  # class (an index) | labels (0 or 1 for each) | numbers | mask | mixed (`parts`) | identity (the index
    # of a class that later splits need not have); a loss says in `takes` which it is for
    monitor: str  # the metric that chooses the checkpoint, named once, here
    mode: str  # max | min
    metrics: Callable[..., Any]  # (what was tuned) -> a torchmetrics MetricCollection of (logits, target)
    decode: Callable[..., list[dict[str, Any]]]  # (logits, what was tuned) -> one row of predictions.csv per image
    skill: Scorer  # -> how good, of which 1 is perfect: what the probe is judged by
    constant: Callable[[torch.Tensor], torch.Tensor]  # training targets -> (outputs,): the best blind answer
    scores: Scorer | None = None  # -> (N,), whose mean is the monitored metric
    score: Scorer | None = None  # -> the monitored metric, where it is no mean over images
    by_class: bool = False  # the scores weigh classes, so that images are to be resampled within theirs
    dense: bool = False  # the target is the class of each pixel; logits are then (N, C, C) counts: truth by answer
    embeds: bool = False  # logits are embeddings: images are compared, and `decode` says which row is the `nearest`
    geometric: bool = False  # the target may be where or how large something is, so that few changes keep it
    ordered: bool = False  # classes are levels, and what is answered is the one nearest to their mean: src/levels.py
    unit: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # shift and scale of the outputs; numbers first
    spread: Any = None  # what is learnt of numbers beside them; a loss says in `spread` what it learns
    undo: Callable[..., torch.Tensor] | None = None  # (rows of predictions.csv, what was tuned) -> logits
    solve: Callable[..., list[Head]] | None = None
    # (x (N, D), target, columns, seed) -> heads on the columns {view: slice}, cross-validated, the best first
    moved: Callable[..., float] | None = None
    # (head, x, changed (n, D), which of x they are, target) -> the change of the held-out score; None: by the logits
    check: Callable[[Source], Source] | None = None  # raises where the images cannot be learnt or measured; adds notes
    close: Callable[..., Affine] | None = None
    # (x (N, D), target, column) -> a head solved on the features that the training left
    weigh: Callable[..., dict[str, Weights]] | None = None
    # (trained, closing, x, target of val) -> {"", "closing", "blend"}: what the two heads count in each candidate
    mix: Callable[..., Affine] | None = None  # (trained, closing, weights, training targets) -> both as one head
    # without these two there is no blend, and the closing head replaces the one that was trained
    tune: Callable[..., dict[str, Any]] | None = None  # (logits, target) of val -> plain words for metrics and decode
    doubts: Callable[..., list[tuple[int, dict[str, Any]]]] | None = None
    # (logits out of fold, target) -> the images whose label the others contradict, the surest first, and what they say
    noise: Callable[..., Noise | None] | None = None  # (heads of `solve`, target) -> which are wrong
    parts: tuple[Part, ...] = ()  # where the target is several of different kinds
    alone: Callable[..., list[tuple[str, Task, torch.Tensor, torch.Tensor]]] | None = None
    # (logits, target) -> each part of which these images tell something: its name, the task that it would be alone, and
    # its logits and targets, of the images that have its label
    figure: Callable[..., Any] | None = None
    # (rows of predictions.csv, classes) -> a picture for TensorBoard; of a part also (…, the figure to draw it into)


@dataclass(frozen=True)
class Exam:
    """What a test of robustness is given."""

    images: torch.Tensor  # (N, C, H, W), uint8 or float in 0..1, as they are evaluated
    target: torch.Tensor
    index: torch.Tensor  # (N,) in the split: by which chance is keyed
    seed: int
    task: Task
    network: Callable[[torch.Tensor], torch.Tensor]  # images on `device` -> what is shipped says of them; it has slopes
    device: str
    batch_size: int
    logits: Callable[[torch.Tensor], torch.Tensor]  # images -> what the network says of them
    error: Callable[[torch.Tensor], float]  # logits -> 1 - the monitored metric; the metric, where less is better
    clean: torch.Tensor  # logits of the images as they are
    seen: Sequence[str] = ()  # the corruptions that were trained on


@dataclass(frozen=True)
class Run:
    """What a stage is given: factories, since later stages need several networks and trainers."""

    cfg: Mapping[str, Any]
    home: Any  # RunFolder
    source: Source
    audit: Any  # what is known of the images: src.data.audit.Audit
    task: Task
    spec: InputSpec
    network: Callable[[], Any]  # () -> the Network at its starting weights
    module: Callable[[Any], Any]  # Network -> the LightningModule
    trainer: Callable[..., Any]  # () -> Trainer for the fit; (split) -> a bare one that only predicts
    loaders: Any  # Loaders, the LightningDataModule
    checkpoints: Path  # the folder of those that this fit leaves
    fork: Callable[..., Run]  # (name, rate, epochs, whole) -> the same with checkpoints of its own: src.build.fork
    save: Callable[[Any, Mapping[str, Any]], str]  # (Network, facts) -> model/ is written; the sha256 of the weights
    load: Callable[[], Any]  # () -> the Network, rebuilt from model/ alone
    decisions: Any  # the room src.decisions: what is fitted on val after the choice, and said of each image
    model: Path  # the folder of the model that is shipped, and tested
    leader: bool  # this rank writes
