"""Features of all stages, and averages: that a network shows what it computes, and that nothing else moves."""

import pytest
import timm
import torch
from torch import nn

from src.callbacks.ema import EMA
from src.checkpoint import averaged
from src.models.batchnorm import reestimate
from src.models.network import Network
from src.models.saved import load_model, save_model
from src.models.stages import family, stages
from src.models.timm_backbone import timm_backbone

FAMILIES = {
    "test_resnet": "batchnorm", "test_byobnet": "batchnorm", "test_efficientnet": "batchnorm", "test_convnext": "other",
    "test_vit": "attention",
}  # fmt: skip


def images(n: int = 3, size: int = 64) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=draw)


def network(name: str, **more) -> Network:
    torch.manual_seed(0)
    return Network(timm_backbone(name, pretrained=False, image_size=64), 4, **more).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_head_reads_comes_first_and_all_stages_behind_it(name):
    net = network(name)
    with torch.no_grad():
        found = net.embed(images())
        last = net.backbone(net._normalised(images()))
    torch.testing.assert_close(found[:, : net.features], last)
    assert found.shape[1] > net.features and bool(found.isfinite().all())
    assert net.family == FAMILIES[name] == family(net.backbone)


def test_a_stage_is_pooled_to_its_mean_and_its_standard_deviation():
    net = timm.create_model("test_resnet", num_classes=0).eval()
    see = stages(net)
    with torch.no_grad():
        x = torch.rand(2, 3, 64, 64)
        _, pooled = see(x)
        grids = net.forward_intermediates(x, intermediates_only=True)
    parts = [part for g in grids for part in (g.mean((2, 3)), g.flatten(2).std(2, correction=0))]
    torch.testing.assert_close(pooled, torch.cat(parts, 1))


def test_a_network_that_shows_no_stages_is_read_at_its_end():
    class Plain(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    assert stages(Plain()) is None


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_a_head_on_the_stages_and_mirroring_survive_the_model_folder(tmp_path, wide, mirror):
    net = network("test_resnet")
    with torch.no_grad():
        x = net.embed(images())
        other = net.embed(images().flip(3))
    weight, bias = torch.randn(4, x.shape[1]), torch.randn(4)
    if not wide:
        weight[:, net.features :] = 0
    net.answer(weight, bias, mirror=mirror)
    expected = x @ weight.T + bias
    expected = (expected + other @ weight.T + bias) / 2 if mirror else expected
    assert net.head.in_features == (x.shape[1] if wide else net.features)
    build = {"_target_": "src.models.timm_backbone.timm_backbone", "name": "test_resnet", "pretrained": False}
    save_model(net, tmp_path / "model", {"build": {**build, "image_size": 64}})
    again, facts = load_model(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(again(images()), expected, atol=1e-4, rtol=1e-4)
    assert (facts["stages"], facts["mirror"]) == (wide, mirror)


def test_frozen_batchnorm_keeps_its_statistics_and_trains_its_weights():
    torch.manual_seed(0)
    net = Network(timm_backbone("test_resnet", pretrained=False, image_size=64, batchnorm="frozen"), 4).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net(images(8)).sum().backward()
    torch.optim.SGD(net.parameters(), 0.1).step()
    after = net.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if "running_" in k or "num_batches" in k)
    assert not torch.equal(before["backbone.bn1.weight"], after["backbone.bn1.weight"])
    assert net.backbone.training and not net.backbone.bn1.training


def test_batchnorm_statistics_are_the_mean_over_the_batches():
    net = network("test_resnet")
    first = net.backbone.conv1[1]
    momentum = first.momentum
    batches = [{"image": images(4)[i : i + 2]} for i in (0, 2)]
    with torch.no_grad():
        inputs = [net.backbone.conv1[0](net._normalised(b["image"])) for b in batches]
    reestimate(net, [*batches, {"image": images(1)}])
    mean = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    variance = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in inputs]).mean(0)
    torch.testing.assert_close(first.running_mean, mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first.running_var, variance, atol=1e-5, rtol=1e-4)
    assert first.momentum == momentum and not net.training and not first.training


class Run:
    """As much of a trainer and a module as the average looks at."""

    def __init__(self, updates: int, accumulate: int = 1):
        self.estimated_stepping_batches, self.accumulate, self.global_step, self.batch = updates, accumulate, 0, 0
        self.network = nn.Linear(1, 1, bias=False)

    def step(self, value: float) -> None:
        self.batch += 1
        if self.batch % self.accumulate == 0:
            self.global_step += 1
            with torch.no_grad():
                self.network.weight.fill_(value)


def average(updates: int, accumulate: int = 1, decay: float | None = None) -> tuple[EMA, Run]:
    """Of a weight that is 1 before the first update and 0 after it: the part that the start still has."""
    run, ema = Run(updates, accumulate), EMA(decay)
    with torch.no_grad():
        run.network.weight.fill_(1.0)
    ema.on_train_start(run, run)
    for i in range(updates * accumulate):
        run.step(0.0)
        ema.on_train_batch_end(run, run, None, None, i)
    return ema, run


@pytest.mark.parametrize("updates", [10, 100, 1000, 20_000])
def test_the_average_forgets_the_starting_weights_at_any_length_of_run(updates):
    ema, _ = average(updates)
    assert float(ema.average["weight"]) < 0.01


def test_the_memory_of_the_average_is_a_part_of_the_run():
    ema, run = average(1000)
    for _ in range(100):  # a tenth of all updates
        run.step(1.0)
        ema.on_train_batch_end(run, run, None, None, 0)
    assert float(ema.average["weight"]) == pytest.approx(1 - 0.3679, abs=0.01)


def test_the_average_moves_once_per_update_and_obeys_a_given_decay():
    assert average(40, accumulate=4)[0].updates == 40
    ema, run = average(50, decay=0.5)
    run.step(1.0)
    ema.on_train_batch_end(run, run, None, None, 0)
    assert float(ema.average["weight"]) == pytest.approx(0.5, abs=1e-6)


def test_the_average_is_found_in_a_checkpoint():
    ema, _ = average(10)
    checkpoint = {"callbacks": {"EMA": ema.state_dict(), "Last": {}}}
    assert averaged(checkpoint) is ema.average
    assert averaged({"callbacks": {}}) is None
