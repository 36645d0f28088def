"""A network that answers for each pixel: a backbone, and a light feature pyramid on its stages, or a linear layer."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import grid_sample, interpolate

from src.contracts import Backbone, ConfigError
from src.models.network import Network

WIDTH = 96


class Pyramid(nn.Module):
    """Feature pyramid (Lin et al. 2017), summed at the finest stage (Kirillov et al. 2019, semantic FPN), and the
    classes by a 1 x 1 convolution. `widths`: channels of the stages, fine ones first."""

    def __init__(self, widths: list[int], outputs: int, dropout: float):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, WIDTH, 1) for width in widths)
        self.smooth = nn.ModuleList(_block(WIDTH) for _ in widths)
        self.last = nn.Sequential(_block(WIDTH), nn.Dropout2d(dropout))
        self.classes = nn.Conv2d(WIDTH, outputs, 1)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.zeros_(self.classes.bias)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """-> (B, outputs, h, w) at the finest stage's size."""
        above, total = None, None
        for stage, lateral, smooth in reversed(list(zip(maps, self.lateral, self.smooth, strict=True))):
            here = lateral(stage)
            if above is not None:
                here = here + _as_large(above, here)
            above = here
            found = smooth(here)
            total = found if total is None else found + _as_large(total, found)
        return self.classes(self.last(total))


class Flat(nn.Module):
    """A linear answer to the maps of all stages, made as large as the finest one: what is linear may be made larger
    afterwards, when it has only `outputs` channels."""

    def __init__(self, widths: list[int], outputs: int):
        super().__init__()
        self.classes = nn.ModuleList(nn.Conv2d(width, outputs, 1, bias=not i) for i, width in enumerate(widths))

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """-> (B, outputs, h, w) at the finest stage's size."""
        found = [classes(stage) for classes, stage in zip(self.classes, maps, strict=True)]
        return torch.stack([_as_large(part, found[0]) for part in found]).sum(0)


def _block(width: int) -> nn.Sequential:
    """A separable 3 x 3 convolution: on maps this large a full one would cost more than the backbone."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        nn.Conv2d(width, width, 1, bias=False),
        nn.GroupNorm(8, width),
        nn.ReLU(inplace=True),
    )


def _as_large(what: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return interpolate(what, size=other.shape[-2:], mode="bilinear", align_corners=False)


class DenseNetwork(Network):
    """(B, C, H, W) uint8, or float in 0..1 -> logits (B, outputs, H, W). stages: the head is linear (`Flat`)."""

    dense = True

    def __init__(self, backbone: Backbone, outputs: int, stages: bool = False, mirror: bool = False):
        super().__init__(backbone, outputs, mirror=mirror)
        self.stages = stages
        self.maps = backbone.maps
        if self.maps is None:
            raise ConfigError("This network shows no maps of its stages, which masks need. Choose another model.name.")
        training = self.backbone.training
        self.backbone.eval()
        seen = self.maps(torch.zeros(1, self.spec.channels, *self.spec.size))
        named = dict(self.backbone.named_parameters())
        total = torch.stack([stage.sum() for stage in seen]).sum()
        read = torch.autograd.grad(total, list(named.values()), allow_unused=True)
        self.unused = frozenset(f"backbone.{name}" for name, grad in zip(named, read, strict=True) if grad is None)
        self.backbone.train(training)
        self.widths = [stage.shape[1] for stage in seen]
        self.head = Flat(self.widths, outputs) if stages else Pyramid(self.widths, outputs, backbone.dropout)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.mirror and not self.training:
            return (self._logits(image) + self._logits(image.flip(3)).flip(3)) / 2
        return self._logits(image)

    def _logits(self, image: torch.Tensor) -> torch.Tensor:
        assert self.maps is not None
        return interpolate(self.head(self.maps(self._normalised(image))), image.shape[-2:], mode="bilinear")

    def pixels(self, image: torch.Tensor, place: torch.Tensor, mirror: bool = False) -> torch.Tensor:
        """What the stages show at `place` (B, M, 2), x and y in -1..1 -> (B, M, D), fine stages first. mirror: of the
        mirror image, at the same places of what is shown."""
        assert self.maps is not None
        image, place = (image.flip(3), place * place.new_tensor([-1, 1])) if mirror else (image, place)
        found = self.maps(self._normalised(image))
        at = [grid_sample(part.float(), place[:, :, None], "bilinear", "border", False)[..., 0] for part in found]
        return torch.cat(at, 1).movedim(1, 2)

    def answer(self, weight: torch.Tensor, bias: torch.Tensor, mirror: bool = False) -> None:
        """Puts a linear head on what `pixels` sees."""
        self.stages, device = True, self.mean.device
        head = Flat(self.widths, len(bias)).to(device)
        with torch.no_grad():
            for part, columns in zip(head.classes, weight.split(self.widths, 1), strict=True):
                part.get_parameter("weight").copy_(columns[:, :, None, None])
            head.classes[0].get_parameter("bias").copy_(bias)
        self.head, self.mirror = head.to(memory_format=self.layout), mirror
