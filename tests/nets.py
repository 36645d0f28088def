"""A swin as small as timm's own test networks, among which timm 1.0.31 has none; and model/ folders without a run."""

from pathlib import Path
from typing import Any

import torch
from timm.models import register_model
from timm.models._registry import generate_default_cfgs
from timm.models.swin_transformer import SwinTransformer, _cfg, _create_swin_transformer

from src.models.network import Network
from src.models.saved import save_model
from src.models.timm_backbone import timm_backbone

TASKS = {
    "class": ("multiclass", {"monitor": "val/acc", "mode": "max"}),
    "labels": ("multilabel", {"monitor": "val/map_macro", "mode": "max", "separator": "|"}),
    "numbers": ("regression", {"monitor": "val/rmse", "mode": "min"}),
    "identity": ("retrieval", {"monitor": "val/recall_at_1", "mode": "max", "dimensions": 3}),
}
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


def model(
    folder: Path,
    name: str = "test_resnet",
    classes: tuple[str, ...] = ("cat", "dog", "owl"),
    target: str = "class",
    resize: str = "squash",
    channels: int = 3,
    frozen: bool = False,
    **options: Any,
) -> Network:
    """Writes a model/ folder of an untrained network that is sure of what it says; options: stages, mirror, unit."""
    torch.manual_seed(0)
    build = {"name": name, "pretrained": False, "image_size": 32, "in_chans": channels}
    other = timm_backbone(**build).net if frozen else None
    network = Network(timm_backbone(**build), len(classes), frozen=other, **options)
    awake(network.backbone)
    with torch.no_grad():
        network.head.weight.normal_(std=0.3)
        network.head.bias.normal_()
    network.train()(torch.rand(8, channels, 32, 32))  # BatchNorm statistics move
    task, words = TASKS[target]
    facts = {
        "build": {"_target_": "src.models.timm_backbone.timm_backbone", **build},
        "task": {"_target_": f"src.tasks.{task}.{task}", "_partial_": True, **words},
        "labels": {"columns": ["target"]}, "monitor": words["monitor"], "target": target,
        "classes": list(classes), "resize": resize, "versions": {"timm": "1.0.31"},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_model(network.eval(), folder, facts)
    return network
