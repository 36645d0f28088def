"""Heads other than a linear layer, and other ways to pool the last maps: used as asked, shipped, or refused."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy

from src import check
from src.contracts import ConfigError
from src.factory import make
from src.models.heads import BNNeck, Cosine, head
from src.models.network import Network
from src.models.saved import load_model, save_model
from src.models.weights import load_weights
from tests.yamls import node

KINDS = ("linear", "mlp", "cosine", "bnneck")
BUILD = {"_target_": "src.models.timm_backbone.timm_backbone", "name": "test_resnet", "pretrained": False}


def network(name: str = "test_resnet", outputs: int = 3, size: int = 64, **values) -> Network:
    torch.manual_seed(0)
    return Network(make(node("model", "timm", name=name, pretrained=False, image_size=size, **values)), outputs)


def images(n: int = 6) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def learnt(net: Network, steps: int = 8) -> list[float]:
    target, losses = torch.tensor([0, 1, 2, 0, 1, 2]), []
    optimizer = torch.optim.AdamW(net.head.parameters(), 0.01)
    net.train()
    for _ in range(steps):
        loss = cross_entropy(net(images()), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_learns_and_survives_the_model_folder(tmp_path, kind):
    net = network(head=kind)
    losses = learnt(net)
    assert losses[-1] < 0.8 * losses[0]
    save_model(net.eval(), tmp_path, {"build": {**BUILD, "image_size": 64, "head": kind}})
    again, facts = load_model(tmp_path)
    assert facts["head"] == kind and type(again.head) is type(net.head)
    net.suit("cpu")
    with torch.no_grad():
        assert torch.equal(again(images()), net(images()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_that_is_linear_in_eval_mode_says_so_and_no_other_does(kind):
    net = network(head=kind, outputs=4)
    net.head.train()(torch.randn(32, net.features) * 3 + 1)  # statistics that are not 0 and 1
    net.eval()
    with torch.no_grad():
        expected, seen = net(images()), net.embed(images())
    found = net.answers()
    assert (found is None) == (kind in ("mlp", "cosine"))
    if found:
        torch.testing.assert_close(seen @ found[0].T + found[1], expected, atol=1e-5, rtol=1e-5)
        net.answer(*found)
        torch.testing.assert_close(net(images()), expected, atol=1e-5, rtol=1e-5)


def test_a_head_that_was_answered_over_is_shipped_as_the_linear_one_that_it_is(tmp_path):
    net = network(head="cosine", head_scale=20.0).eval()
    weight, bias = torch.randn(3, net.width()), torch.randn(3)
    net.answer(weight, bias)
    save_model(net, tmp_path, {"build": {**BUILD, "image_size": 64, "head": "cosine", "head_scale": 20.0}})
    again, facts = load_model(tmp_path)
    assert facts["head"] == "linear" and isinstance(again.head, nn.Linear)
    torch.testing.assert_close(again(images()), net(images()))


def test_a_cosine_head_knows_no_length_and_its_scale_is_learnt_unless_it_is_given():
    learnt, fixed = (head("cosine", 5, 3, scale) for scale in (None, 16.0))
    x = torch.randn(7, 5)
    for made, scale in ((learnt, 10.0), (fixed, 16.0)):
        torch.testing.assert_close(made(x), made(100 * x))
        assert isinstance(made, Cosine) and float(made(made.weight).detach().max()) == pytest.approx(scale, rel=1e-5)
    assert [n for n, _ in learnt.named_parameters()] == ["weight", "scale"]
    assert [n for n, _ in fixed.named_parameters()] == ["weight"] and set(fixed.state_dict()) == {"weight", "scale"}


def test_frozen_statistics_are_those_of_the_weights_not_those_of_a_new_head():
    net = network(head="bnneck", batchnorm="frozen").train()
    assert isinstance(net.head, BNNeck) and net.head.norm.training and not net.backbone.bn1.training
    net(images())
    assert net.head.norm.num_batches_tracked == 1
    body = net.backbone.bn1.running_mean.clone()
    net.reestimate([{"image": images()}, {"image": images()}])
    torch.testing.assert_close(net.head.norm.running_mean, net.eval().embed(images())[:, : net.features].mean(0))
    assert torch.equal(net.backbone.bn1.running_mean, body)


def test_a_scale_without_a_cosine_is_refused():
    with pytest.raises(ConfigError, match=r"head_scale=3.*\nLeave it out, or set model.head=cosine"):
        network(head="mlp", head_scale=3.0)
    with pytest.raises(ConfigError, match=r"model.head=arc.*\nSet linear"):
        network(head="arc")


@pytest.mark.parametrize(
    "words",
    ["start=probe model.head=mlp", "select=ema+closing model.head=cosine", "select=last+blend model.head=mlp",
     "model.head_scale=5", "model.head=arc", "model.pool=mean", "finetune=lora finetune.rank=0",
     "finetune=lora finetune.alpha=0", "finetune=stage finetune.stage=-1"],
)  # fmt: skip
def test_words_that_do_not_go_together_are_told_before_torch(words):
    assert len(check.mistakes(words.split())) == 1


@pytest.mark.parametrize("words", ["select=ema+closing model.head=bnneck", "model.head=cosine model.head_scale=5"])
def test_words_that_do_pass(words):
    assert check.mistakes(words.split()) == []


FORMULAS = {
    "avg": lambda x: x.mean((2, 3)),
    "max": lambda x: x.amax((2, 3)),
    "catavgmax": lambda x: torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1),
    "gem": lambda x: x.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3),
}


@pytest.mark.parametrize("pool", FORMULAS)
@pytest.mark.parametrize("name", ["test_resnet", "test_byobnet", "test_efficientnet"])
def test_maps_are_pooled_as_asked_and_the_network_knows_its_width(tmp_path, name, pool):
    net = network(name, pool=pool).eval()
    with torch.no_grad():
        maps = net.backbone.forward_features(net._normalised(images()))
        expected, seen = FORMULAS[pool](maps), net.embed(images())
        torch.testing.assert_close(seen[:, : net.features], expected, atol=1e-5, rtol=1e-4)
        assert net.head.in_features == expected.shape[1] == net.features
        save_model(net, tmp_path, {"build": {**BUILD, "name": name, "image_size": 64, "pool": pool}})
        net.suit("cpu")
        assert torch.equal(load_model(tmp_path)[0](images()), net(images()))


def test_a_file_of_weights_fits_however_it_is_pooled(tmp_path):
    save_file({k: v.clone() for k, v in network().state_dict().items()}, tmp_path / "w.safetensors")
    for pool in ("gem", "max"):
        notes = load_weights(network(pool=pool), tmp_path / "w.safetensors", lambda state: state)
        assert "head: kept" in notes[1]


@pytest.mark.parametrize(
    ("name", "size", "pool", "reason"),
    [("test_vit", 64, "gem", "no pooling of maps"), ("test_vit", 64, "catavgmax", "Only avg"),
     ("test_convnext", 64, "catavgmax", "width"), ("test_resnet", 32, "max", "nothing changes at 32 px")],
)  # fmt: skip
def test_a_network_that_cannot_pool_so_is_refused_with_the_reason(name, size, pool, reason):
    with pytest.raises(
        ConfigError, match=rf"model.pool={pool}: model.name={name} .*{reason}.*\nSet model.pool=default"
    ):
        network(name, size=size, pool=pool)


def test_a_transformer_is_pooled_over_its_patches():
    net, usual = network("test_vit", pool="avg").eval(), network("test_vit").eval()
    assert net.features == usual.features and not torch.equal(net(images()), usual(images()))


def test_masks_have_a_decoder_of_their_own_and_embeddings_begin_as_the_features():
    from src.learner import start

    masks = make(node("task", "segmentation"))(classes=("a", "b"))
    images = make(node("task", "retrieval", dimensions=None))(classes=("a", "b"))
    told = [
        ({"head": "mlp"}, masks, "decoder"),
        ({"pool": "max"}, masks, "decoder"),
        ({"head": "bnneck"}, images, "as"),
    ]
    for more, task, why in told:
        model = node("model", "timm", name="test_resnet", pretrained=False, image_size=64, **more)
        with pytest.raises(ConfigError, match=f"model.{next(iter(more))}=.*{why}.*\nLeave"):
            start({"seed": 0, "init_from": None, "start": "random", "model": model}, task, ("a", "b"))


def test_the_recipe_leaves_out_what_needs_a_linear_head_and_takes_the_rate_of_the_policy(zygote, shapes, tmp_path):
    from tests.test_auto import found, words

    run, more = (
        tmp_path / "run",
        ("model.head=mlp", "finetune=lora", "finetune.rank=2", "trainer.max_epochs=1", "refit=none"),
    )
    assert zygote.run(*words(shapes, tmp_path, *more), f"run_dir={run}") == 0, zygote.screen
    config, state = found(run, "config.yaml"), found(run, "run.json")
    assert config["start"] == "random" and config["optimizer"]["lr"] == 1e-3
    assert {"ema", "last", "probe"} <= set(state["candidates"]) and not any("+" in name for name in state["candidates"])
    assert "no closing heads, since model.head=mlp is not linear" in zygote.screen
    assert "no closing heads" in zygote.screen
    assert json.loads((run / "model" / "model.json").read_text())["head"] in ("mlp", "linear")


def test_a_closing_head_takes_the_place_of_one_that_is_linear_in_eval_mode(zygote, shapes, tmp_path):
    from tests.test_auto import found, words

    run, more = tmp_path / "run", ("model.head=bnneck", "select=last+blend", "trainer.max_epochs=1")
    assert zygote.run(*words(shapes, tmp_path, *more), f"run_dir={run}") == 0, zygote.screen
    assert found(run, "run.json")["chosen"] == "last+blend"
    assert found(run, "model/model.json")["head"] == "linear" and found(run, "config.yaml")["start"] == "random"


def test_a_head_on_all_stages_is_one_linear_layer_that_learns_ships_and_takes_a_solved_start(tmp_path):
    net = network(head="stages", outputs=3)
    assert isinstance(net.head, nn.Linear) and net.head.in_features == net.width() > net.features
    body = {n: p.clone() for n, p in net.backbone.named_parameters()}
    cross_entropy(net.train()(images()), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    reached = [n for n, p in net.backbone.named_parameters() if p.grad is not None]
    assert reached == list(body)
    losses = learnt(net)
    assert losses[-1] < 0.8 * losses[0]
    net.eval()
    with torch.no_grad():
        weight, bias = net.answers()
        torch.testing.assert_close(net.embed(images()) @ weight.T + bias, net(images()), atol=1e-5, rtol=1e-5)
    save_model(net, tmp_path, {"build": {**BUILD, "image_size": 64, "head": "stages"}})
    again, facts = load_model(tmp_path)
    net.suit("cpu")
    assert facts["stages"] and facts["head"] == "linear" and torch.equal(again(images()), net(images()))
    net.answer(weight[:, : net.features] * 1.0, bias)  # a head on the last features alone takes its place
    save_model(net, tmp_path, {"build": {**BUILD, "image_size": 64, "head": "stages"}})
    assert torch.equal(load_model(tmp_path)[0](images()), net(images()))


def test_a_network_that_shows_no_stages_takes_no_head_on_them():
    from src.contracts import Backbone, InputSpec

    spec = InputSpec((8, 8), 3, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ConfigError, match="head=stages.*\nSet model.head=linear"):
        Network(Backbone(body, 3, spec, {}, head="stages"), 2)


def test_a_run_with_a_head_on_all_stages_starts_at_the_probe_and_all_candidates_are_there(zygote, shapes, tmp_path):
    from tests.test_auto import found, words

    run, more = tmp_path / "run", ("model.head=stages", "trainer.max_epochs=1", "refit=none", "augment=auto")
    assert zygote.run(*words(shapes, tmp_path, *more), f"run_dir={run}") == 0, zygote.screen
    config, state = found(run, "config.yaml"), found(run, "run.json")
    assert config["start"] == "probe" and {"ema+closing", "ema+blend", "ema", "last", "probe"} <= set(
        state["candidates"]
    )
    assert config["augment"]["policy"]["_target_"].endswith("ColorJitter")  # as where no augment is given
    assert "`augment=jitter` | upside down the probe has" in (run / "recipe.md").read_text()
    assert "head: solved by the probe" in zygote.screen
