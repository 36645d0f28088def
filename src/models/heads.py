"""Heads: what turns the features of an image into its logits."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import linear, normalize

from src.contracts import Affine, ConfigError


class MLP(nn.Sequential):
    """One hidden layer, as wide as the features. Told to bring nothing where a head starts from the probe; this one
    cannot start there."""

    def __init__(self, features: int, outputs: int):
        super().__init__(nn.Linear(features, features), nn.GELU(), nn.Linear(features, outputs))
        _begin(self[2])


class Cosine(nn.Module):
    """scale · cos(x, w of each output), without a bias. scale None: learnt, from 10 (Gidaris & Komodakis 2018, eq. 5);
    else fixed, as in CosFace (Wang et al. 2018)."""

    scale: torch.Tensor

    def __init__(self, features: int, outputs: int, scale: float | None):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, features) / features**0.5)  # of length 1
        if scale is None:
            self.scale = nn.Parameter(torch.tensor(10.0))
        else:
            self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * linear(normalize(x, dim=1), normalize(self.weight, dim=1))


class BNNeck(nn.Module):
    """BatchNorm, then a linear layer (Luo et al. 2019, "Bag of tricks … person re-identification", section 3.6, where
    neither has a shift, for the sake of a distance between the features that is not trained here)."""

    def __init__(self, features: int, outputs: int):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(features), nn.Linear(features, outputs)
        _begin(self.linear)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(x))

    def folded(self) -> Affine:
        """The same in eval mode, as one linear layer."""
        norm, weight = self.norm, self.linear.weight.detach()
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias.detach() - norm.running_mean * scale
        return weight * scale, self.linear.bias.detach() + weight @ shift


def _begin(layer: nn.Module) -> None:
    """Almost 0, so that the first loss is that of a head that knows nothing."""
    assert isinstance(layer, nn.Linear)
    nn.init.trunc_normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)


def head(kind: str, features: int, outputs: int, scale: float | None = None) -> nn.Module:
    """(B, features) -> (B, outputs)."""
    if scale is not None and kind != "cosine":
        raise ConfigError(
            f"model.head_scale={scale}: only model.head=cosine has a scale, and this is {kind}.\n"
            "Leave it out, or set model.head=cosine."
        )
    if kind == "cosine":
        return Cosine(features, outputs, scale)
    if kind == "linear":
        made = nn.Linear(features, outputs)
        _begin(made)
        return made
    others = {"mlp": MLP, "bnneck": BNNeck}
    if kind not in others:
        raise ConfigError(
            f"model.head={kind}: there is no such head.\nSet linear, stages, {', '.join(others)} or cosine."
        )
    return others[kind](features, outputs)


def affine(made: nn.Module) -> Affine | None:
    """weight (outputs, D) and bias (outputs,) of a head that is linear in eval mode; None: it is not."""
    if isinstance(made, BNNeck):
        return made.folded()
    return (made.weight.detach(), made.bias.detach()) if isinstance(made, nn.Linear) else None
