"""The network that is trained, tested and handed over: normalise, backbone, head."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.contracts import Affine, Backbone, ConfigError
from src.models.batchnorm import reestimate
from src.models.evidence import evidence
from src.models.folded import fold, unfold
from src.models.heads import affine, head
from src.models.stages import seen_by, stages


class Network(nn.Module):
    """(B, C, H, W) uint8, or float in 0..1 -> logits (B, outputs). Frozen modules stay in eval mode.

    stages: the head also reads all pooled stages, behind the last features. mirror: in eval mode the logits are the
    mean of those of the image and of its mirror image (for a softmax: the mean of the log-probabilities). unit: shift
    and scale (outputs,) of what the head puts out, so that it learns numbers near 0 and 1 whatever their unit is.
    frozen: a second backbone, as it was before the fine-tune, which the head reads, too: see `keep`.
    """

    dense = False  # one answer an image
    unused: frozenset[str] = frozenset()  # parameters that no answer depends on
    mean: torch.Tensor
    std: torch.Tensor
    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        backbone: Backbone,
        outputs: int,
        stages: bool = False,
        mirror: bool = False,
        unit: tuple[Sequence[float], Sequence[float]] | None = None,
        frozen: nn.Module | None = None,
    ):
        super().__init__()
        self.unit, self.outputs = unit, outputs
        for name, values in zip(("shift", "scale"), unit or ((0.0,), (1.0,)), strict=True):
            self.register_buffer(name, torch.tensor(values), persistent=False)
        self.spec, self.layers, self.no_decay = backbone.spec, backbone.layers, backbone.no_decay
        self.stage = backbone.stage
        self.family, self.features, self.mirror = backbone.family, backbone.features, mirror
        self.batchnorm, self.patch = backbone.batchnorm, backbone.patch
        self.layout = torch.channels_last
        self.register_buffer("mean", torch.tensor(self.spec.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.spec.std).view(1, -1, 1, 1), persistent=False)
        self.backbone = backbone.net
        self.see = backbone.stages
        self.keep(frozen)
        self.dropout = nn.Dropout(backbone.dropout)  # here, since a frozen backbone would switch its own off
        self.stages, self.kind = stages, backbone.head
        if self.kind == "stages":
            if self.see is None:
                raise ConfigError(
                    "model.head=stages: timm cannot show the stages of this network.\n"
                    "Set model.head=linear, or another model.name."
                )
            self.stages, self.kind = True, "linear"
        self.head = head(self.kind, self.width() if self.stages else backbone.features, outputs, backbone.head_scale)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.both(image)[0]

    def both(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """-> logits (B, outputs), and the last features (B, features) by which images are told to be unfamiliar."""
        if self.mirror and not self.training:
            (one, x), (other, y) = self._both(image), self._both(image.flip(3))
            return (one + other) / 2, (x + y) / 2
        return self._both(image)

    def _both(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.embed(image) if self.stages else self.backbone(self._normalised(image))
        logits = self._in_unit(self.head(self.dropout(x.to(next(self.head.parameters()).dtype))))
        return logits, x[:, : self.features]

    def _in_unit(self, found: torch.Tensor) -> torch.Tensor:
        return found.float() * self.scale + self.shift if self.unit else found

    def standard(self, found: torch.Tensor) -> torch.Tensor:
        """Outputs, or targets (of which there may be fewer), as the head knows them: without their unit."""
        n = found.shape[-1]
        return (found - self.shift[:n]) / self.scale[:n] if self.unit else found

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """-> (B, features + widths): what the head reads, then all stages, pooled (none where they are not known); then
        the same of the frozen backbone."""
        x = self._normalised(image)
        seen = [seen_by(self.backbone, self.see, x)]
        return torch.cat([*seen, seen_by(self.frozen, stages(self.frozen), x)], 1) if self.frozen else seen[0]

    def keep(self, frozen: nn.Module | None) -> None:
        """Lets a head read, behind what the backbone sees, what this one does, which does not learn."""
        self.frozen = frozen.eval().requires_grad_(False) if frozen else None

    def suit(self, device: str, channels_last: bool | str = "auto") -> None:
        """Lies in memory as convolutions are fastest on this device, and has BatchNorm folded where that pays; the
        answers stay. On a GPU cuDNN builds depthwise convolutions in channels_last anew for each size of a batch, which
        takes seconds, and small batches wait for the kernels that folding adds: docs/results.md."""
        if channels_last == "auto":
            depthwise = any(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in self.modules())
            channels_last = not (depthwise and device.startswith("cuda"))
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.layout)
        self.fold() if device.startswith("cpu") else self.unfold()

    def fold(self) -> None:
        """BatchNorm that stands still costs nothing from now on: see src/models/folded.py."""
        image = self._normalised(torch.zeros(1, self.spec.channels, *self.spec.size, device=self.mean.device))
        for net in (self.backbone, self.frozen):
            if net is not None:
                fold(net, image)

    def unfold(self) -> None:
        unfold(self)

    def answer(self, weight: torch.Tensor, bias: torch.Tensor, mirror: bool = False) -> None:
        """Puts this head on what `embed` sees: on the last features alone, where it reads nothing else."""
        self.stages = bool(weight[:, self.features :].any())
        weight = weight if self.stages else weight[:, : self.features]
        device = next(self.head.parameters()).device
        self.kind = "linear"
        self.head = nn.Linear(weight.shape[1], len(bias)).to(device)
        with torch.no_grad():
            self.head.weight.copy_(weight.to(device) / self.scale[:, None])
            self.head.bias.copy_(self.standard(bias.to(device)))
        self.mirror = mirror

    def answers(self) -> Affine | None:
        """The head, in eval mode, as one on all that `embed` sees, in the unit of the outputs: what `answer` takes.
        None where it is not linear."""
        if (own := affine(self.head)) is None:
            return None
        weight = torch.zeros(self.outputs, self.width())
        weight[:, : own[0].shape[1]] = own[0].float().cpu()
        scale, shift = self.scale.cpu(), self.shift.cpu() if self.unit else 0.0
        return weight * scale[:, None], own[1].float().cpu() * scale + shift

    def evidence(self, image: torch.Tensor, towards: torch.Tensor, signed: bool = False) -> torch.Tensor | None:
        """Where what moves the outputs of each image this way is: see src/models/evidence.py."""
        return evidence(self, image, towards, signed)

    def reestimate(self, batches: Iterable[dict[str, torch.Tensor]]) -> None:
        """The BatchNorm statistics that training moves, for weights that are an average and saw no batch themselves."""
        reestimate(self, batches, frozen=False, within=self if self.batchnorm == "train" else self.head)

    def _normalised(self, image: torch.Tensor) -> torch.Tensor:
        x = image.float() / 255 if image.dtype == torch.uint8 else image
        x = x.contiguous() if self.layout is torch.contiguous_format else x
        return ((x - self.mean) / self.std).to(next(self.backbone.parameters()).dtype)  # bf16-true has no float weights

    def width(self) -> int:
        """D of what `embed` sees."""
        training = self.backbone.training
        self.backbone.eval()
        with torch.no_grad():
            blank = torch.zeros(1, self.spec.channels, *self.spec.size, device=self.mean.device)
            found = self.embed(blank).shape[1]
        self.backbone.train(training)
        return found

    def train(self, mode: bool = True) -> Network:
        """What does not learn must not move: a module whose parameters are all frozen is put in eval mode,
        with its BatchNorm statistics, dropout and drop-path; so is every BatchNorm of the backbone, where its
        statistics are frozen."""
        super().train(mode)
        if mode:
            held = set(self.backbone.modules()) if self.batchnorm == "frozen" else set()
            for module in self.modules():
                parameters = list(module.parameters())
                frozen = isinstance(module, _BatchNorm) and module in held
                if frozen or (parameters and not any(p.requires_grad for p in parameters)):
                    module.eval()
        return self


def dry_run(network: Network, name: str, size: tuple[int, int] | None = None) -> None:
    """One blank image through the network, so that an impossible size is known before the first batch."""
    spec, training = network.spec, network.training
    size = size or spec.size
    network.eval()
    try:
        with torch.no_grad():
            out = network(torch.zeros(1, spec.channels, *size, dtype=torch.uint8))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"{name} cannot take images of {size[0]}x{size[1]} pixels: {error}\n"
            "Set model.image_size to a size that it can take (for a transformer, a multiple of its patch)."
        ) from error
    assert out.ndim in (2, 4) and math.isfinite(out.sum().item()), "the head must give finite logits of each image"
    network.train(training)
