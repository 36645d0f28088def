"""What the policies promise: every trainable parameter in one group at its own rate; what is frozen does not move."""

from __future__ import annotations

from copy import deepcopy

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from src.contracts import ConfigError
from src.factory import make
from src.finetune.policy import groups
from src.models.network import Network
from src.module import Module
from tests.nets import SWIN, awake
from tests.yamls import names, node

FAMILIES = [
    "test_resnet", "test_efficientnet", "mobilenetv3_small_050", "test_convnext", SWIN, "test_vit", "test_byobnet",
]  # fmt: skip
PAIRS = [(p, n) for p in names("finetune") for n in FAMILIES if p != "attention" or n in (SWIN, "test_vit")]
LR, DECAY = 0.01, 0.05


def fresh(name: str, **values) -> Network:
    torch.manual_seed(0)
    values = {"name": name, "pretrained": False, "image_size": 32} | values
    return Network(make(node("model", "timm", **values)), 3)


@pytest.fixture(scope="module")
def network():
    """name -> a network of one's own, with dropout and stochastic depth."""
    made: dict[str, Network] = {}

    def get(name: str) -> Network:
        made.setdefault(name, awake(fresh(name, drop_rate=0.3, drop_path_rate=0.2)))
        return deepcopy(made[name])

    return get


def planned(net: Network, policy: str, **values) -> list[dict]:
    return groups(make(node("finetune", policy, **values)), net, net.layers, net.no_decay, LR, DECAY)


def batch(size: int = 32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    image = torch.randint(0, 256, (6, 3, size, size), dtype=torch.uint8, generator=generator)
    return {
        "image": image, "target": torch.tensor([0, 1, 2, 0, 1, 2]), "index": torch.arange(6),
        "valid": torch.ones(6, dtype=torch.bool),
    }  # fmt: skip


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items()}


def moved(before: dict[str, torch.Tensor], net: nn.Module) -> set[str]:
    return {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}


# every policy × every family


@pytest.mark.parametrize(("policy", "name"), PAIRS)
def test_each_trainable_parameter_is_in_one_group_and_decays_only_where_it_may(network, policy, name):
    net = network(name)
    found = planned(net, policy)
    places = [(id(p), group["weight_decay"]) for group in found for p in group["params"]]
    decay = dict(places)
    trainable = {n: p for n, p in net.named_parameters() if p.requires_grad}
    assert len(places) == len(decay) and set(decay) == {id(p) for p in trainable.values()}
    assert "head.weight" in trainable and "head.bias" in trainable
    for n, p in trainable.items():
        exempt = p.ndim == 1 or n.endswith("bias") or n.removeprefix("backbone.") in net.no_decay
        assert decay[id(p)] == (0 if exempt else DECAY), n


@pytest.mark.parametrize("policy", names("finetune"))
def test_what_a_loss_learns_is_in_one_group_at_the_rate_of_the_head_without_decay(network, policy):
    net, loss = network("test_vit"), nn.Bilinear(2, 2, 2)
    loss.bias.requires_grad_(False)
    plain = planned(net, policy)
    found = groups(make(node("finetune", policy)), net, net.layers, net.no_decay, LR, DECAY, loss)
    own = [group for group in found if any(p is loss.weight for p in group["params"])]
    assert len(own) == 1 and len(found) == len(plain) + 1
    assert (own[0]["lr"], own[0]["weight_decay"], len(own[0]["params"])) == (LR, 0.0, 1)


def test_position_embeddings_and_bias_tables_do_not_decay(network):
    for name, part in (("test_vit", "pos_embed"), (SWIN, "relative_position_bias_table")):
        net = network(name)
        free = {id(p) for g in planned(net, "full") if not g["weight_decay"] for p in g["params"]}
        found = [id(p) in free for n, p in net.named_parameters() if n.endswith(part)]
        assert found and all(found)


@pytest.mark.parametrize(("policy", "name"), PAIRS)
def test_what_is_frozen_does_not_move_and_what_trains_does(network, policy, name):
    """Three steps in training mode, with dropout: parameters, and the statistics of BatchNorm."""
    net = network(name)
    optimizer = make(node("optimizer", "adamw"))(planned(net, policy))
    trainable, before, given = {n for n, p in net.named_parameters() if p.requires_grad}, state(net), batch()
    net.train()
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(net(given["image"]), given["target"]).backward()
        assert all(p.grad is not None for g in optimizer.param_groups for p in g["params"])
        optimizer.step()
    changed = moved(before, net)
    assert {n for n, _ in net.named_parameters()} & changed <= trainable
    silent = {n for n in trainable - changed if dict(net.named_parameters())[n].grad.abs().max() > 0}
    assert not silent  # a weight behind dead units may stay; one with a gradient may not
    assert len(trainable & changed) > 0.8 * len(trainable)
    for module in [n.rpartition(".")[0] for n in before if n.endswith("running_mean")]:
        learns = any(f"{module}.{n}" in trainable for n in ("weight", "bias"))
        assert (f"{module}.running_mean" in changed) == (f"{module}.running_var" in changed) == learns, module


# what each policy says


@pytest.mark.parametrize("name", FAMILIES)
def test_full_trains_all_at_one_rate_and_head_the_head_only(network, name):
    net = network(name)
    assert {g["lr"] for g in planned(net, "full")} == {LR} and all(p.requires_grad for p in net.parameters())
    planned(net, "head")
    assert [n for n, p in net.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    planned(net, "full")
    assert all(p.requires_grad for p in net.parameters())  # a policy leaves nothing behind


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("stem", [0.1, 0.01])
def test_llrd_gives_every_group_its_rate_after_a_scheduled_step(network, name, stem):
    """timm's `lr_scale` would be ignored by torch's schedulers, so the rates are looked at behind one."""
    net = network(name)
    optimizer = torch.optim.SGD(planned(net, "llrd", stem=stem))
    schedule = LambdaLR(optimizer, lambda step: (1.0, 0.25)[step])
    optimizer.step()
    schedule.step()
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    depths = sorted(set(net.layers.values()))
    last = len(depths) - 1
    for n, p in net.named_parameters():
        layer = last + 1 if n.startswith("head.") else depths.index(net.layers[n.removeprefix("backbone.")])
        assert rate[id(p)] == pytest.approx(0.25 * LR * stem ** (1 - layer / (last + 1)), rel=1e-9), n
        if layer == 0:
            assert rate[id(p)] == pytest.approx(0.25 * LR * stem)
    assert rate[id(net.head.weight)] == rate[id(net.head.bias)] == 0.25 * LR
    first = next(n for n, _ in net.backbone.named_parameters() if net.layers[n] == 0)
    assert rate[id(net.backbone.get_parameter(first))] == min(rate.values())


UNTIL = {
    "test_resnet": "layer2", "test_efficientnet": "blocks.2", "mobilenetv3_small_050": "blocks.1",
    "test_convnext": "stages.1", SWIN: "layers.0", "test_vit": "blocks.1",
    "test_byobnet": "stages.1",
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_freeze_until_a_module_holds_it_and_all_before_it(network, name):
    net = network(name)
    planned(net, "freeze", until=UNTIL[name])
    deepest = max(d for n, d in net.layers.items() if n.startswith(UNTIL[name] + "."))
    for n, p in net.backbone.named_parameters():
        assert p.requires_grad == (net.layers[n] > deepest), n
    first = net.backbone.get_parameter(next(n for n, d in net.layers.items() if d == 0))
    assert not first.requires_grad and net.head.weight.requires_grad
    assert any(p.requires_grad for p in net.backbone.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_freeze_until_a_part_of_the_depth(network, name):
    net, held = network(name), []
    for until in (0, 0.25, 0.5, 0.75, 1.0):
        planned(net, "freeze", until=until)
        layers = {net.layers[n] for n, p in net.backbone.named_parameters() if not p.requires_grad}
        open_ = {net.layers[n] for n, p in net.backbone.named_parameters() if p.requires_grad}
        assert not layers & open_ and max(layers, default=-1) < min(open_, default=10**9)
        held.append(len(layers) / len(set(net.layers.values())))
    assert held[0] == 0 and held[-1] == 1 and held == sorted(held)
    assert held[2] == pytest.approx(0.5, abs=0.51 / len(set(net.layers.values())))


def test_a_stage_that_does_not_exist_is_refused_with_those_that_do(network):
    with pytest.raises(ConfigError, match="until=layer9") as caught:
        planned(network("test_resnet"), "freeze", until="layer9")
    assert all(stage in str(caught.value) for stage in ("conv1", "bn1", "layer1", "layer4"))
    with pytest.raises(ConfigError, match="until=layer"):  # half a name is none
        planned(network("test_resnet"), "freeze", until="layer")


@pytest.mark.parametrize(
    ("policy", "values"),
    [("freeze", {"until": 50}), ("freeze", {"until": -0.1}), ("llrd", {"stem": 0}), ("llrd", {"stem": 2.0})],
)
def test_numbers_outside_their_range_are_refused(network, policy, values):
    with pytest.raises(ConfigError, match=f"{next(iter(values))}="):
        planned(network("test_vit"), policy, **values)


def test_a_network_without_an_order_of_layers_is_refused_where_the_order_is_needed():
    net = fresh("pit_ti_224")
    for policy in ("llrd", "freeze"):
        with pytest.raises(ConfigError, match=f"finetune={policy}.*order(?s:.*)finetune=full"):
            planned(net, policy)
    for policy in ("full", "head"):
        assert planned(net, policy)


def test_a_policy_that_trains_nothing_is_refused(network):
    class Nothing(type(make(node("finetune", "full")))):
        def trains(self, place):
            return False

    net = network("test_vit")
    with pytest.raises(ConfigError, match="nothing to train"):
        groups(Nothing(), net, net.layers, net.no_decay, LR, DECAY)


# frozen means eval mode


def modes(net: Network) -> dict[str, bool]:
    return {n: m.training for n, m in net.named_modules() if list(m.parameters())}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("policy", ["head", "freeze"])
def test_frozen_modules_stay_in_eval_mode_when_the_network_trains(network, policy, name):
    net = network(name)
    planned(net, policy)
    for _ in range(2):  # whatever the mode was before
        for n, training in modes(net.train()).items():
            assert training == any(p.requires_grad for p in net.get_submodule(n).parameters()), n
        assert not any(m.training for m in net.eval().modules())


class Watch(pl.Callback):
    def __init__(self):
        self.seen: list[dict[str, bool]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(modes(pl_module.network))


@pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning")  # as in pyproject.toml
@pytest.mark.filterwarnings(r"ignore:The '\w+_dataloader' does not have many workers")  # src.data's loader has its own
def test_frozen_stages_neither_move_nor_wake_up_in_a_fit_with_validations(network):
    net = network("test_resnet")
    policy = make(node("finetune", "freeze", until="layer2"))
    task = make(node("task", "multiclass"))(classes=("a", "b", "c"))
    module = Module(
        net, task, make(node("loss", "cross_entropy"))(counts=(1, 1), images=2),
        lambda n: groups(policy, n, n.layers, n.no_decay, LR, DECAY),
        make(node("optimizer", "adamw")), make(node("scheduler", "cosine")), seed=0, facts={},
    )  # fmt: skip
    before, watch = state(net), Watch()
    data = torch.utils.data.DataLoader([batch()] * 2, batch_size=None)
    trainer = pl.Trainer(
        max_epochs=2, val_check_interval=1, num_sanity_val_steps=1, accelerator="cpu", logger=False, callbacks=[watch],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, data, data)
    assert trainer.global_step == 4 and len(watch.seen) == 4
    for seen in watch.seen:
        assert {n for n, training in seen.items() if training and n} == {
            n for n, m in net.named_modules() if n and any(p.requires_grad for p in m.parameters())
        }
    changed = moved(before, net)
    assert not [k for k in changed if k.split(".")[1] in ("conv1", "bn1", "layer1", "layer2")]
    assert "backbone.layer3.0.conv1.weight" in changed and "backbone.layer3.0.bn1.running_mean" in changed


def test_dropout_before_the_head_is_on_where_only_the_head_trains():
    network = fresh("test_resnet", drop_rate=0.5)
    planned(network, "head")
    network.train()
    images = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    assert not torch.equal(network(images), network(images))
    assert not network.backbone.training
