"""What each way to fine-tune a part names, in every family; and that low-rank updates leave nothing behind."""

from __future__ import annotations

import re
from copy import deepcopy
from itertools import pairwise
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.layers import ScaledStdConv2d
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from src import lowrank
from src.callbacks.ema import EMA
from src.contracts import ConfigError
from src.factory import make
from src.finetune.attention import Attention
from src.finetune.policy import groups
from src.models.network import Network
from src.models.saved import load_model, save_model
from src.models.stages import family
from tests.nets import SWIN, awake
from tests.yamls import node

LR, DECAY = 0.01, 0.05
STAGES = {  # network -> a stage, and all that it has of the backbone
    "test_resnet": (0, r"conv1|bn1"), "test_efficientnet": (1, r"blocks\.1"),
    "test_byobnet": (4, r"stages\.3|final_conv"), "mobilenetv3_small_050": (3, r"blocks\.[23]"),
    "test_convnext": (0, r"stem|stages\.0"), SWIN: (2, r"layers\.2"),
    "test_vit": (5, r"blocks\.5|norm"),
}  # fmt: skip
ATTENTIVE = (SWIN, "test_vit")


@pytest.fixture(scope="module")
def network():
    """name -> a network of one's own."""
    made: dict[str, Network] = {}

    def get(name: str) -> Network:
        if name not in made:
            torch.manual_seed(0)
            backbone = make(node("model", "timm", name=name, pretrained=False, image_size=32))
            made[name] = awake(Network(backbone, 3))
        return deepcopy(made[name])

    return get


def planned(net: Network, policy: str, seed: int = 0, **values) -> list[dict]:
    return groups(make(node("finetune", policy, **values)), net, net.layers, net.no_decay, LR, DECAY, seed=seed)


def trained(net: Network, optimizer: torch.optim.Optimizer, steps: int) -> None:
    image = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(net(image), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
        optimizer.step()


def asked(net: Network, policy: str, pattern: str = "") -> set[str]:
    """The names of the backbone that train, said in another way than the policies say them."""
    owners = {f"{n}.{own}": m for n, m in net.backbone.named_modules() for own, _ in m.named_parameters(recurse=False)}
    names = {n for n, _ in net.backbone.named_parameters()}
    kinds = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
    return {
        "norm": lambda: {n for n in names if isinstance(owners.get(n), kinds)},
        "bitfit": lambda: {n for n in names if re.search(r"(^|\.)bias$", n)},
        "attention": lambda: {n for n in names if ".attn." in n},
        "stage": lambda: {n for n in names if re.match(rf"({pattern})\.", n)},
    }[policy]()


@pytest.mark.parametrize(
    "name, layers",
    {
        "xcit_nano_12_p16_224": [r"blocks\.\d+\.attn", r"cls_attn_blocks\.\d+\.attn"],
        "cait_xxs24_224": [r"blocks\.\d+\.attn", r"blocks_token_only\.\d+\.attn"],
    }.items(),
)
def test_attention_layers_of_all_names_are_found_and_no_whole_blocks(name, layers):
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=0)
    policy = Attention()
    policy.prepare(SimpleNamespace(backbone=net), 0)
    assert all(any(re.fullmatch(rf"backbone\.{layer}\.", found) for layer in layers) for found in policy.layers)
    assert {layer for layer in layers for found in policy.layers if re.fullmatch(rf"backbone\.{layer}\.", found)} == {
        *layers
    }


def test_a_network_with_batchnorm_that_pools_by_attention_is_of_that_family():
    with torch.device("meta"):
        assert family(timm.create_model("resnet50_clip", num_classes=0)) == "batchnorm"


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("policy", ["norm", "bitfit", "attention", "stage"])
def test_a_real_step_moves_what_the_policy_names_at_its_rate_and_nothing_else(network, policy, name):
    net, (stage, pattern) = network(name), STAGES[name]
    if policy == "attention" and name not in ATTENTIVE:
        with pytest.raises(ConfigError, match="no attention layers, but: .*\n.*finetune=lora"):
            planned(net, policy)
        return
    wanted = {f"backbone.{n}" for n in asked(net, policy, pattern)}
    assert wanted
    found = planned(net, policy, **({"stage": stage} if policy == "stage" else {}))
    assert {n for n, p in net.named_parameters() if p.requires_grad} == wanted | {"head.weight", "head.bias"}
    places = [id(p) for g in found for p in g["params"]]
    assert sorted(places) == sorted(id(p) for p in net.parameters() if p.requires_grad)
    assert {g["lr"] for g in found} == {LR} and {g["weight_decay"] for g in found} <= {0.0, DECAY}
    before = {k: v.clone() for k, v in net.state_dict().items()}
    trained(net, make(node("optimizer", "adamw"))(found), 1)
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    parameters = dict(net.named_parameters())
    live = {n for n in wanted if parameters[n].grad.abs().max() > 0}
    assert live <= changed & set(parameters) <= wanted | {"head.weight", "head.bias"} and len(live) > len(wanted) / 2
    for key in [k for k in before if k.endswith("running_mean")]:
        assert (key in changed) == any(key.replace("running_mean", n) in wanted for n in ("weight", "bias")), key


def test_only_the_layers_that_attend_train_not_the_blocks_around_them(network):
    class AttentionBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn, self.mlp = nn.MultiheadAttention(4, 1), nn.Linear(4, 4)

    net = network("test_resnet")
    net.backbone.block = AttentionBlock()
    planned(net, "attention")
    on = {n for n, p in net.backbone.block.named_parameters() if p.requires_grad}
    assert on == {n for n, _ in net.backbone.block.named_parameters() if n.startswith("attn.")}


@pytest.mark.parametrize("name", STAGES)
def test_every_parameter_is_in_one_stage_and_the_stages_follow_each_other(network, name):
    net = network(name)
    assert list(net.stage) == [n for n, _ in net.backbone.named_parameters()]
    assert (
        sorted(set(net.stage.values())) == list(range(max(net.stage.values()) + 1)) and len(set(net.stage.values())) > 3
    )
    depths = [[net.layers[n] for n, s in net.stage.items() if s == stage] for stage in sorted(set(net.stage.values()))]
    assert all(min(b) >= min(a) and max(b) >= max(a) for a, b in pairwise(depths))
    with pytest.raises(
        ConfigError, match=rf"stage=9 is none of this network's {len(depths)}\.\n.*0 from .*Set finetune"
    ):
        planned(net, "stage", stage=9)


def test_a_network_without_what_is_to_train_is_refused_with_what_to_do():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, bias=False)

        def forward(self, x):
            return self.conv(x).mean((2, 3))

    net = network_of(Bare())
    for policy, lacks in (("norm", "no normalisation"), ("bitfit", "no biases"), ("stage", "where its stages end")):
        with pytest.raises(ConfigError, match=f"finetune={policy}: .*{lacks}(?s:.*)Use finetune="):
            planned(net, policy)
    assert {n for n, p in net.named_parameters() if p.requires_grad or planned(net, "lora")} > {"head.weight"}


def network_of(net: nn.Module) -> Network:
    from src.contracts import Backbone, InputSpec

    spec = InputSpec((32, 32), 3, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    return Network(Backbone(net, 4, spec, {}), 3)


@pytest.mark.parametrize(
    "values", [{"rank": 0}, {"alpha": 0.0}, {"alpha": -1.0}, {"layers": "("}, {"layers": "no_such_layer"}]
)
def test_low_rank_updates_that_cannot_be_are_refused(network, values):
    with pytest.raises(ConfigError, match=rf"{next(iter(values))}=(?s:.*)Set finetune\."):
        planned(network("test_resnet"), "lora", **values)


def test_a_pattern_that_matches_nothing_is_told_what_could_match(network):
    net = network("test_resnet")
    count = sum(isinstance(m, nn.Linear | nn.Conv2d) for m in net.backbone.modules())
    told = rf"matches no linear .*\nIt has {count}: conv1\.0, .* … layer4.*\n.*use finetune=llrd"
    with pytest.raises(ConfigError, match=told):
        planned(net, "lora", layers=r"attn\.(qkv|proj)$")


@pytest.mark.parametrize("name", STAGES)
def test_low_rank_updates_change_nothing_at_first_and_no_name(network, name):
    net = network(name)
    before, image = net.state_dict(), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    logits = net.eval()(image)
    planned(net, "lora", rank=2)
    after = net.state_dict()
    assert torch.equal(net(image), logits)
    assert {k for k in after if "lora_" not in k} == set(before) and all(
        torch.equal(after[k], before[k]) for k in before
    )
    layers = [n for n, m in net.backbone.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    on = {n for n, p in net.named_parameters() if p.requires_grad}
    assert on == {f"backbone.{n}.lora_{part}" for n in layers for part in ("down", "up")} | {"head.weight", "head.bias"}


@pytest.mark.parametrize("name", STAGES)
def test_what_is_shipped_is_the_plain_network_with_the_updates_added(network, tmp_path, name):
    net = network(name)
    plain = set(net.state_dict())
    trained(net, make(node("optimizer", "adamw"))(planned(net, "lora", rank=2)), 3)
    build = {"_target_": "src.models.timm_backbone.timm_backbone", "name": name, "pretrained": False, "image_size": 32}
    save_model(net.eval(), tmp_path, {"build": build})
    again, image = load_model(tmp_path)[0], torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert set(load_file(tmp_path / "weights.safetensors")) == plain == set(again.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(image), net(image), atol=1e-5, rtol=1e-5)
    moved = lowrank.merged(net.state_dict())
    assert any(not torch.equal(v, net.state_dict()[k]) for k, v in moved.items() if k.startswith("backbone."))


@pytest.mark.parametrize(
    "layer", [nn.Linear(6, 4), nn.Conv2d(6, 4, 3, groups=2), ScaledStdConv2d(6, 4, 3)], ids=["linear", "grouped", "std"]
)
def test_the_weight_is_the_sum_that_the_paper_writes_also_where_the_layer_changes_it_before_use(layer):
    layer, plain = deepcopy(layer), deepcopy(layer)
    lowrank.attach(layer, rank=2, alpha=6.0, key=1)
    own = dict(layer.named_parameters())
    with torch.no_grad():
        own["lora_up"].normal_()
        plain.weight += 3 * (own["lora_up"] @ own["lora_down"]).reshape(plain.weight.shape)
    x = torch.randn(5, 6) if isinstance(layer, nn.Linear) else torch.randn(5, 6, 8, 8)
    torch.testing.assert_close(layer(x), plain(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lowrank.merged(layer.state_dict()), dict(plain.state_dict()), atol=1e-6, rtol=1e-6)
    assert (layer.lora_down.shape[0], layer.lora_up.shape[1]) == (2, 2) and isinstance(layer, type(plain))


def test_updates_are_drawn_from_the_seed_and_not_twice(network):
    net, twin, other = (network("test_resnet") for _ in range(3))
    for which, seed in ((net, 0), (twin, 0), (other, 1)):
        planned(which, "lora", seed)
    first = {k: v.clone() for k, v in net.state_dict().items() if "lora_down" in k}
    assert all(torch.equal(v, twin.state_dict()[k]) for k, v in first.items())
    assert not any(torch.equal(v, other.state_dict()[k]) for k, v in first.items())
    planned(net, "lora", 1)  # as each stage that predicts makes a module again
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in first.items())


def test_the_average_keeps_weights_and_updates_apart(network):
    net, ema = network("test_resnet"), EMA(decay=0.0)
    optimizer = make(node("optimizer", "adamw"))(planned(net, "lora"))
    trainer = type("Trainer", (), {"global_step": 0, "estimated_stepping_batches": 10})()
    module = type("Module", (), {"network": net})()
    ema.on_train_start(trainer, module)
    trained(net, optimizer, 3)
    trainer.global_step = 3
    ema.on_train_batch_end(trainer, module, None, None, 2)
    average, live = ema.state_dict()["average"], net.state_dict()
    assert average.keys() == live.keys() and all(torch.equal(average[k], live[k]) for k in live)
