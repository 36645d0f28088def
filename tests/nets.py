"""A swin as small as timm's own test networks, among which timm 1.0.31 has none."""

from typing import Any

import torch
from timm.models import register_model
from timm.models._registry import generate_default_cfgs
from timm.models.swin_transformer import SwinTransformer, _cfg, _create_swin_transformer

SWIN = "small_swin"
default_cfgs = generate_default_cfgs({f"{SWIN}.untrained": _cfg()})


@register_model
def small_swin(pretrained: bool = False, **kwargs: Any) -> SwinTransformer:
    shape = {"patch_size": 4, "window_size": 7, "embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 3, 6)}
    return _create_swin_transformer(SWIN, pretrained=pretrained, **shape | kwargs)


def awake(net: Any) -> Any:
    """Untrained residual branches end with a scale of 0, behind which nothing has a gradient while it is frozen."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.ndim == 1 and name.endswith("weight") and not parameter.any():
                parameter.fill_(1.0)
    return net
