"""From a decoded image to what the network is fed: one evaluation view, and random training views. All stay uint8."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from src.contracts import ConfigError, InputSpec

SLIVER = 8  # times its place in the centre that an image may be long; what is beyond is cut off first
RESIZE = ("crop", "squash", "pad")
GEOMETRIC = ("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")  # torchvision's names


def evaluation(spec: InputSpec, resize: str = "crop") -> Callable[[torch.Tensor], torch.Tensor]:
    """uint8 (C, h, w) -> uint8 (C, H, W), without chance: what is validated, tested and predicted on.

    crop: the short side becomes size / spec.crop and the centre is cut out, as the weights were evaluated;
    squash: both sides are resized, nothing is lost but the aspect ratio; pad: the long side fits, the rest is the mean.
    """
    mode, (height, width) = InterpolationMode(spec.interpolation), spec.size
    fill = [round(255 * m) for m in spec.mean]

    def view(image: torch.Tensor) -> torch.Tensor:
        h, w = image.shape[-2:]
        if resize == "squash":
            return F.resize(image, [height, width], mode, antialias=True)
        if resize == "crop":
            scale = max(math.floor(height / spec.crop) / h, math.floor(width / spec.crop) / w)
            if max(h * scale / height, w * scale / width) > SLIVER:  # or a line of 2,000 pixels costs 1.6 GB
                h, w = min(h, math.ceil(SLIVER * height / scale)), min(w, math.ceil(SLIVER * width / scale))
                image = F.center_crop(image, [h, w])
            larger = [max(round(h * scale), height), max(round(w * scale), width)]
            return F.center_crop(F.resize(image, larger, mode, antialias=True), [height, width])
        scale = min(height / h, width / w)
        inner = [max(round(h * scale), 1), max(round(w * scale), 1)]
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        edges = [left, top, width - inner[1] - left, height - inner[0] - top]
        return F.pad(F.resize(image, inner, mode, antialias=True), edges, fill=fill)

    return view


class Augment:
    """A random view for training: a random crop, resized, perhaps mirrored, then `policy`, one of torchvision's.

    scale, ratio: the crop's part of the area and its aspect ratio, as in Szegedy et al. 2015 (RandomResizedCrop), that
    of the image being 1 where `resize` is squash, as when it is tested; scale None: no crop, but the evaluation view.
    flip: the probability of mirroring; the data say whether mirrored images keep their label. colour False: colours
    stay as they are, and of `policy` what moves, turns and shears is left.
    """

    def __init__(
        self,
        spec: InputSpec,
        scale: Sequence[float] | None = (0.4, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        policy: Callable[[torch.Tensor], torch.Tensor] | str | None = None,
        colour: bool = True,
        erase: float = 0.0,
        resize: str | None = None,
    ):
        if isinstance(policy, str):
            raise ConfigError(
                f"augment.policy={policy}: no recipe has decided it (recipe=off, or a preset says augment=auto).\n"
                "Set recipe=auto and augment=auto on the command line, or name an augment."
            )
        policy = policy if policy is None or colour else colourless(policy)
        self.keeps_place = policy is None or getattr(policy, "keeps_place", isinstance(policy, v2.ColorJitter))
        self.seen = getattr(policy, "kinds", ())  # corruptions that the training knows
        if policy is not None and spec.channels not in (1, 3):
            raise ConfigError(
                f"augment: {type(policy).__name__} changes colours and knows 1 or 3 channels; "
                f"these images have {spec.channels}.\nUse augment=light or augment=none."
            )
        mode = InterpolationMode(spec.interpolation)
        steps: list[Callable] = [evaluation(spec, resize or "squash")]
        if scale is not None:
            steps = [partial(_cut, spec.size, tuple(scale), tuple(ratio), mode, resize == "squash")]
        self.whole = partial(_resized, spec.size, mode) if scale is None else steps[0]
        steps += [v2.RandomHorizontalFlip(flip)] if flip else []
        steps += [policy] if policy is not None else []
        steps += [v2.RandomErasing(erase, value=[round(255 * m) for m in spec.mean])] if erase else []
        self.steps = steps

    def __call__(self, image: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """mask (1, h, w): moves as the image does, by whole pixels, and comes back as its last channel."""
        if mask is not None:
            image, mask = self.whole(image, mask)
            both = tv_tensors.Image(image), tv_tensors.Mask(mask)
            for step in self.steps[1:]:
                both = step(*both)
            return torch.cat([part.as_subclass(torch.Tensor) for part in both])
        for step in self.steps:
            image = step(image)
        return image


def _cut(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    mode: InterpolationMode,
    squashed: bool,
    *both: torch.Tensor,
) -> Any:
    """Where elongated images are squashed to be tested, a crop of their own shape is; one of 4 : 3 at the most would
    never show the whole of them, nor show it as it will be tested."""
    aspect = both[0].shape[-1] / both[0].shape[-2] if squashed else 1.0
    crop = v2.RandomResizedCrop(size, scale, (ratio[0] * aspect, ratio[1] * aspect))
    box = crop.make_params([both[0]])
    return _resized(size, mode, *(F.crop(part, **box) for part in both))


def _resized(
    size: tuple[int, int], mode: InterpolationMode, image: torch.Tensor, mask: torch.Tensor | None = None
) -> Any:
    """torchvision itself would take of a mask the corners of pixels, half of one beside those of its image."""
    view = F.resize(image, list(size), mode, antialias=True)
    return view if mask is None else (view, F.resize(mask, list(size), InterpolationMode.NEAREST_EXACT))


def colourless(policy: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same, of whose operations only those are left that change no colour."""
    spaces = [name for name in ("_AUGMENTATION_SPACE", "_PARTIAL_AUGMENTATION_SPACE") if hasattr(policy, name)]
    if not spaces:
        raise ConfigError(
            f"data.colour=false: {type(policy).__name__} does nothing but change colours.\n"
            "Use augment=light, trivial, randaug, augmix or none, or set data.colour=true."
        )
    for name in spaces:
        setattr(policy, name, {k: v for k, v in getattr(policy, name).items() if k in GEOMETRIC})
    return policy


def no_augment(spec: InputSpec) -> None:
    """The evaluation view, in training too."""
    return None
