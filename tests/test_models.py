"""What the models room promises: any timm network, its weights from any file that fits, a folder that rebuilds it."""

from __future__ import annotations

import json
import pickle
import re
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import nn

from src.contracts import Backbone, ConfigError
from src.factory import make
from src.models import timm_backbone as room
from src.models.folded import FOLDED, fold, unfold
from src.models.network import Network, dry_run
from src.models.saved import load_model, save_model
from src.models.weights import load_weights, read_spec
from tests.nets import SWIN
from tests.yamls import node

FAMILIES = {  # the smallest of each
    "resnet": "test_resnet",
    "efficientnet": "test_efficientnet",
    "mobilenet2": "mobilenetv2_035",
    "mobilenet3": "mobilenetv3_small_050",
    "mobilenet4": "mobilenetv4_conv_small_035",
    "convnext": "test_convnext",
    "swin": SWIN,
    "vit": "test_vit",
}
OTHERS = {"conv_head": "resnetv2_18", "norm_head": "levit_128s", "no_order": "pit_ti_224"}
SMALL = FAMILIES["efficientnet"]


def backbone(name: str, **values) -> Backbone:
    return make(node("model", "timm", **{"name": name, "pretrained": False, "image_size": 64} | values))


def started(name: str, file: Path, outputs: int = 3, **values) -> tuple[Network, list[str]]:
    """As run.py starts a network from a file."""
    torch.manual_seed(7)
    body = backbone(name, weights=str(file), **values)
    network = Network(body, outputs).eval()
    return network, load_weights(network, body.weights, body.convert)


def picture(channels: int = 3, size: int = 64, images: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (images, channels, size, size), dtype=torch.uint8, generator=generator)


def timm_network(name: str, classes: int = 3) -> nn.Module:
    """timm's own, with a classifier, and BatchNorm statistics that are not the initial ones."""
    torch.manual_seed(1)
    fixed = timm.get_pretrained_cfg(name).fixed_input_size
    network = timm.create_model(name, num_classes=classes, **({"img_size": 64} if fixed else {}))
    with torch.no_grad():
        network.train()(picture(images=4).float() / 255)
        for parameter in network.parameters():  # at the start many networks give zero
            parameter += 0.05 * torch.randn_like(parameter)
    return network.eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """name -> (a safetensors file in timm's names with 3 classes, the network that it is of)."""
    folder, made = tmp_path_factory.mktemp("weights"), {}

    def get(name: str) -> tuple[Path, nn.Module]:
        if name not in made:
            network, file = timm_network(name), folder / f"{name}.safetensors"
            save_file({k: v.clone() for k, v in network.state_dict().items()}, file)
            made[name] = file, network
        return made[name]

    return get


# the network


@pytest.mark.parametrize("name", [*FAMILIES.values(), *OTHERS.values()])
def test_a_backbone_gives_one_row_of_features_per_image_and_knows_its_layers(name):
    body = backbone(name)
    with torch.no_grad():
        assert body.net.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, body.features)
    if name == OTHERS["no_order"]:
        assert body.layers == {}
    else:
        parameters = {n for n, _ in body.net.named_parameters()}
        assert set(body.layers) == parameters and min(body.layers.values()) == 0
        first = body.net.pretrained_cfg["first_conv"]
        assert name == "levit_128s" or body.layers[f"{first}.weight"] == 0


@pytest.mark.parametrize("name", [*FAMILIES.values(), "convnext_atto.d2_in1k", "vit_tiny_patch16_224.augreg_in21k"])
def test_the_input_spec_is_that_of_the_weights(name):
    spec, stated = backbone(name, image_size=None).spec, timm.get_pretrained_cfg(name)
    assert (spec.mean, spec.std, spec.interpolation) == (stated.mean, stated.std, stated.interpolation)
    assert (spec.channels, *spec.size) == stated.input_size and spec.crop == stated.crop_pct
    changed = backbone(name, in_chans=2).spec
    assert changed.size == (64, 64) and changed.channels == len(changed.mean) == len(changed.std) == 2


def test_patterns_of_parameters_without_decay_are_resolved():
    body = backbone("xcit_nano_12_p16_224")
    assert "pos_embed.*" in body.net.no_weight_decay()
    assert {"cls_token", "pos_embed.token_projection.weight"} <= body.no_decay
    assert body.no_decay <= {n for n, _ in body.net.named_parameters()}


@pytest.mark.parametrize("name", FAMILIES.values())
def test_uint8_and_float_images_give_the_same_logits(name):
    network = Network(backbone(name), 5).eval()
    with torch.no_grad():
        logits = network(picture())
        assert logits.shape == (2, 5) and torch.equal(logits, network(picture().float() / 255))


@pytest.mark.parametrize("name", ["rexnet_100", "test_resnet", "ghostnet_050"])
def test_no_dropout_is_none_where_timm_has_some_of_its_own(name):
    body = backbone(name)
    assert not [m for m in body.net.modules() if isinstance(m, nn.Dropout) and m.p]


def test_the_network_normalises_with_the_statistics_of_the_weights():
    body = backbone("test_resnet")
    network, seen = Network(body, 2).eval(), []
    body.net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(torch.tensor(body.spec.mean).view(1, 3, 1, 1).expand(1, 3, 64, 64))
    assert seen[0].abs().max() < 1e-6
    network(torch.full((1, 3, 64, 64), 255, dtype=torch.uint8))
    assert torch.allclose(seen[1][0, :, 0, 0], (1 - torch.tensor(body.spec.mean)) / torch.tensor(body.spec.std))


@pytest.mark.parametrize("name", FAMILIES.values())
@pytest.mark.parametrize("option", ["drop_rate", "drop_path_rate"])
def test_dropout_and_stochastic_depth_arrive_in_the_network(name, option):
    """Only in training, and only if they are asked for: timm's own stochastic depth of a swin is 0.1."""
    if (name, option) == ("test_efficientnet", "drop_path_rate"):
        name = "efficientnet_lite0"  # the small one has no residual branch that could be dropped
    torch.manual_seed(0)
    for rate in (0.0, 0.6):
        network, images = Network(backbone(name, **{option: rate}), 3), picture(images=4)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.1 * torch.randn_like(parameter)  # residual branches that start at zero would hide it
            network.train()
            once, again = network(images), network(images)
            assert torch.equal(once, again) == (rate == 0)
            network.eval()
            assert torch.equal(network(images), network(images))


def test_an_option_that_a_network_does_not_know_is_refused():
    with pytest.raises(ConfigError, match=r"dla46_c.*drop_path_rate"):
        backbone("dla46_c", drop_path_rate=0.1)


@pytest.mark.parametrize(("name", "size"), [("crossvit_tiny_240", 64), ("test_vit", 8), ("test_convnext", 2)])
def test_an_impossible_image_size_is_known_before_the_first_batch(name, size):
    with pytest.raises(ConfigError, match=r"model\.image_size"):
        dry_run(Network(backbone(name, image_size=size), 2), name)


def test_the_dry_run_leaves_the_network_as_it_was():
    network = Network(backbone("test_resnet"), 2)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    dry_run(network.train(), "test_resnet")
    assert network.training and all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_a_misspelt_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"mobilenetv2_035") as caught:
        backbone("mobilnetv2_035")
    assert "no such network" in str(caught.value)


def test_weights_that_cannot_be_downloaded_are_explained(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(room.timm, "create_model", offline)
    with pytest.raises(ConfigError, match=r"no route to host.*(?s:.*)model\.weights=FILE") as caught:
        backbone("test_resnet", pretrained=True)
    assert "more" not in str(caught.value).splitlines()[0]


# weights from a file


@pytest.mark.parametrize("name", [*FAMILIES.values(), OTHERS["conv_head"]])
def test_weights_with_as_many_classes_give_the_logits_of_timm(files, name):
    file, whole = files(name)
    network, notes = started(name, file)
    with torch.no_grad():
        expected = whole((picture() / 255 - network.mean) / network.std)
        assert expected.std() > 1e-3
        torch.testing.assert_close(network(picture()), expected)
    assert "head: kept" in notes[1]


@pytest.mark.parametrize("name", [*FAMILIES.values(), *OTHERS.values()])
def test_weights_with_other_classes_keep_the_body_and_say_that_the_head_is_new(files, name):
    file, whole = files(name)
    network, notes = started(name, file, outputs=4)
    assert "head: re-initialised" in notes[1]
    own = whole.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in network.backbone.state_dict().items())
    assert network.head.weight.abs().max() < 0.1 and not network.head.bias.any()


@pytest.mark.parametrize("name", FAMILIES.values())
def test_weights_without_a_classifier_load(files, name, tmp_path):
    torch.manual_seed(2)
    body = backbone(name)
    save_file({k: v.clone() for k, v in body.net.state_dict().items()}, tmp_path / "w.safetensors")
    network, notes = started(name, tmp_path / "w.safetensors")
    assert "have none" in notes[1]
    assert all(torch.equal(v, body.net.state_dict()[k]) for k, v in network.backbone.state_dict().items())


WRAPPED = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "optimizer": {"lr": 0.1}},
    "distributed": lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_state_dicts_of_torch_save_load(files, tmp_path, kind):
    whole = files(SMALL)[1]
    torch.save(WRAPPED[kind](whole.state_dict()), tmp_path / "w.pth")
    network, notes = started(SMALL, tmp_path / "w.pth")
    assert "head: kept" in notes[1]
    assert torch.equal(network.head.weight, whole.classifier.weight)


@pytest.mark.parametrize("name", FAMILIES.values())
def test_other_channel_counts_keep_the_filters(files, name):
    """One channel: the sum, so that a grey image looks as it did. Others: repeated, at the same overall strength."""
    file, whole = files(name)
    first = f"{whole.pretrained_cfg['first_conv']}.weight"
    known = whole.state_dict()[first]
    expected = {1: known.sum(1, keepdim=True), 2: known[:, :2] * 1.5, 4: known[:, [0, 1, 2, 0]] * 0.75}
    for channels, weight in expected.items():
        network, _ = started(name, file, in_chans=channels)
        torch.testing.assert_close(network.backbone.state_dict()[first], weight)
        assert network(picture(channels)).isfinite().all()


def test_position_embeddings_are_resampled_to_another_size(files):
    file, whole = files("test_vit")
    network, _ = started("test_vit", file, image_size=96)
    known = whole.pos_embed.detach()
    assert network.backbone.pos_embed.shape != known.shape
    expected = resample_abs_pos_embed(known, [6, 6], num_prefix_tokens=1)
    torch.testing.assert_close(network.backbone.pos_embed.detach(), expected)
    assert network(picture(size=96)).shape == (2, 3)


def test_windows_of_a_swin_fit_another_size(files, tmp_path):
    """A bias that is the same for all pairs of places stays the same, whatever the window."""
    name, key = SWIN, "layers.3.blocks.0.attn.relative_position_bias_table"
    state = {k: v.clone() for k, v in files(name)[1].state_dict().items()}
    state[key] = torch.arange(6.0).expand(len(state[key]), 6).contiguous()
    save_file(state, tmp_path / "w.safetensors")
    network, notes = started(name, tmp_path / "w.safetensors", image_size=96)
    found = network.backbone.state_dict()[key]
    assert len(found) == 25 and len(state[key]) == 9  # a window of 3 instead of 2
    torch.testing.assert_close(found, torch.arange(6.0).expand(25, 6), atol=1e-4, rtol=0)
    assert "head: kept" in notes[1] and network(picture(size=96)).isfinite().all()


def test_the_spec_in_a_file_goes_with_its_weights(tmp_path):
    spec = asdict(backbone("test_resnet").spec) | {"mean": (0.1, 0.2, 0.3), "size": (48, 48)}
    state = {k: v.clone() for k, v in backbone("test_resnet").net.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors", metadata={"input_spec": json.dumps(spec)})
    network, _ = started("test_resnet.mine", tmp_path / "w.safetensors", image_size=None)
    assert network.spec.mean == (0.1, 0.2, 0.3) and network.spec.size == (48, 48)
    assert network.spec == read_spec(tmp_path / "w.safetensors")


def test_weights_of_another_architecture_are_refused_with_a_table(files):
    with pytest.raises(ConfigError) as caught:
        started("test_convnext", files("test_resnet")[0])
    said = str(caught.value)
    assert re.search(r"\d\d tensors missing, \d\d unexpected, \d of another shape", said)
    assert "  missing     backbone.stem.0.weight  (24, 3, 4, 4)\n" in said and "\n  unexpected  backbone.bn1" in said
    assert "Set model.name" in said and len(said.splitlines()) < 30


def test_weights_that_fit_no_converter_of_timm_are_refused_with_a_table(tmp_path):
    torch.save(
        {"features.0.0.weight": torch.zeros(24, 3, 4, 4), "features.1.0.block.3.weight": torch.zeros(4, 4)},
        tmp_path / "w.pt",
    )
    with pytest.raises(ConfigError, match="tensors missing, 2 unexpected"):
        started("test_convnext", tmp_path / "w.pt")


@pytest.mark.parametrize("prefix", ["model.", "_orig_mod.", "module._orig_mod.", "model.backbone."])
def test_weights_of_before_torch_0_4_1_and_in_any_wrapper_fit(files, tmp_path, prefix):
    network = files("test_resnet")[1]
    state = {prefix + k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    ours, notes = started("test_resnet", tmp_path / "w.pt")
    assert "head: kept" in notes[1] or prefix == "model.backbone."
    body = ours.backbone.state_dict()
    assert all(torch.equal(body[k], v) for k, v in network.state_dict().items() if k in body and "batches" not in k)


def test_of_a_checkpoint_of_timm_the_averaged_weights_are_taken(files, tmp_path):
    state = files(SMALL)[1].state_dict()
    averaged = {k: v / 2 for k, v in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": averaged, "args": Namespace(lr=1.0)}, tmp_path / "w.pt")
    network, notes = started(SMALL, tmp_path / "w.pt")
    assert torch.equal(network.head.weight, averaged["classifier.weight"])
    assert "averaged" in notes[0] and "state_dict_ema" in notes[0]


class Evil:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_pickled_objects_are_refused_and_never_run(tmp_path):
    trace = tmp_path / "it ran"
    files = {"network.pt": nn.Linear(2, 2), "inside.pt": {"state_dict": {"a": Evil(trace)}}, "alone.pt": Evil(trace)}
    for name, thing in files.items():
        torch.save(thing, tmp_path / name)
    (tmp_path / "raw.pkl").write_bytes(pickle.dumps(Evil(trace)))
    for name in (*files, "raw.pkl"):
        with pytest.raises(ConfigError, match="cannot be read"):
            started(SMALL, tmp_path / name)
    assert not trace.exists()


@pytest.mark.parametrize("thing", [[1, 2], {"epoch": 3}, {0: torch.zeros(2)}, {"model": {"a": 1}}])
def test_plain_data_that_is_no_state_dict_is_refused(tmp_path, thing):
    torch.save(thing, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="not a state dict"):
        started(SMALL, tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_files_that_are_missing_or_damaged_are_refused(files, tmp_path, suffix):
    with pytest.raises(ConfigError, match="there is no such file"):
        started(SMALL, tmp_path / f"none.{suffix}")
    state = {k: v.clone() for k, v in backbone(SMALL).net.state_dict().items()}
    state["bn2.bias"][0] = torch.inf
    (save_file if suffix == "safetensors" else torch.save)(state, tmp_path / f"spoilt.{suffix}")
    with pytest.raises(
        ConfigError, match=r"1 of its tensors are not finite, such as backbone.bn2.bias.*\n.*another file"
    ):
        started(SMALL, tmp_path / f"spoilt.{suffix}")
    whole = files(SMALL)[0].read_bytes()
    for name, content in {"text": b"hello", "empty": b"", "cut": whole[: len(whole) // 2]}.items():
        file = tmp_path / f"{name}.{suffix}"
        file.write_bytes(content)
        with pytest.raises(ConfigError, match="cannot be read"):
            started(SMALL, file)


# the model folder


def saved(name: str, folder: Path, outputs: int = 3, **values) -> Network:
    torch.manual_seed(4)
    network = Network(backbone(name, **values), outputs)
    network.train()(picture(network.spec.channels, images=4))  # BatchNorm statistics move
    build = node("model", "timm", **{"name": name, "pretrained": False, "image_size": 64} | values)
    save_model(network, folder, {"build": build, "classes": ["a", "b", "c"]})
    network.suit("cpu")
    return network.eval()


@pytest.mark.parametrize("name", [*FAMILIES.values(), *OTHERS.values()])
def test_a_saved_network_comes_back_to_the_bit(tmp_path, name):
    network = saved(name, tmp_path / "model", in_chans=1)
    again, facts = load_model(tmp_path / "model")
    assert facts["classes"] == ["a", "b", "c"] and again.spec == network.spec and not again.training
    with torch.no_grad():
        assert torch.equal(again(picture(1)), network(picture(1)))
    assert not list((tmp_path / "model").glob("*.tmp"))


@pytest.mark.parametrize(("name", "planar"), [("test_resnet", False), ("mobilenetv2_035", True), ("test_vit", False)])
def test_a_gpu_convolves_depth_by_depth_in_planes_and_folds_nothing(name, planar):
    network, images = Network(backbone(name), 3).eval(), picture()
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    network.suit("cpu")
    folded = network(images)
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convs)
    assert any(FOLDED in vars(m) for m in network.modules()) == (name != "test_vit")
    network.suit("cuda:0", channels_last=True)
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convs)
    network.suit("cuda:0")
    assert all(m.weight.is_contiguous() for m in convs) == planar
    assert not any(FOLDED in vars(m) for m in network.modules())
    seen = []
    convs[0].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    torch.testing.assert_close(network(images.contiguous(memory_format=torch.channels_last)), folded)
    assert seen[0].is_contiguous() == planar


@pytest.mark.parametrize(("device", "asked", "told"), [("cuda:0", "auto", 1), ("cpu", "auto", 0), ("cuda:0", False, 0)])
def test_the_layout_that_was_chosen_for_a_gpu_is_told_with_its_reason(monkeypatch, device, asked, told):
    from src import hardware
    from src.learner import start

    monkeypatch.setattr(hardware, "layout", lambda cfg: (device, asked))
    model = node("model", "timm", name="mobilenetv2_035", pretrained=False, image_size=64)
    cfg = {"seed": 0, "init_from": None, "start": "random", "model": model, "trainer": {"channels_last": asked}}
    _, notes = start(cfg, make(node("task", "multiclass"))(classes=("a", "b")), ("a", "b"))
    assert sum("planes (trainer.channels_last): cuDNN" in note for note in notes) == told


@pytest.mark.parametrize("name", [SMALL, "test_vit"])
def test_a_frozen_backbone_is_read_beside_the_other_and_comes_back_to_the_bit(tmp_path, name):
    torch.manual_seed(4)
    network, other = Network(backbone(name), 3).eval(), Network(backbone(name), 3).eval()
    build = node("model", "timm", name=name, pretrained=False, image_size=64)
    weight, bias, images = torch.randn(2, 3, network.width()), torch.randn(2, 3), picture()
    with torch.no_grad():
        said = [n.embed(images) @ w.T + b for n, w, b in zip((network, other), weight, bias, strict=True)]
    alone = []
    for n, w, b in zip((network, other), weight, bias, strict=True):
        n.answer(w, b)
        alone.append(n.evidence(images, torch.eye(3)[:2], signed=True))
    network.keep(other.backbone)
    for i in (0, 1):  # a head that reads one of them alone
        network.answer(torch.cat([w * (i == j) for j, w in enumerate(weight)], 1), bias[i])
        torch.testing.assert_close(network.evidence(images, torch.eye(3)[:2], signed=True), alone[i])
    network.answer(torch.cat(list(weight), 1), bias.sum(0))
    network.suit("cpu")
    frozen = network.train().frozen
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())
    save_model(network.eval(), tmp_path / "model", {"build": build, "classes": ["a", "b", "c"]})
    with torch.no_grad():
        torch.testing.assert_close(network(images), sum(said), atol=1e-4, rtol=1e-4)
        assert torch.equal(load_model(tmp_path / "model")[0](images), network(images))
    again, notes = started(name, tmp_path / "model" / "weights.safetensors")
    assert "the fine-tuned one of two backbones" in notes[0]
    assert torch.equal(again.state_dict()[key := next(iter(again.state_dict()))], network.state_dict()[key])


@pytest.fixture
def folder(tmp_path) -> Path:
    saved(SMALL, tmp_path / "model")
    return tmp_path / "model"


def test_the_weights_of_a_model_folder_can_start_a_run(folder):
    network, notes = started(SMALL, folder / "weights.safetensors", outputs=5)
    assert "re-initialised" in notes[1]
    assert torch.equal(network.backbone.conv_stem.weight, load_model(folder)[0].backbone.conv_stem.weight)


def test_a_single_flipped_bit_is_noticed(folder):
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-100] ^= 1
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match="sha256"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_a_folder_without_a_model_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"no {name}"):
        load_model(folder)


@pytest.mark.parametrize(
    "target",
    [
        "torch.hub.load", "builtins.eval", "os.system", "timm.create_model", "src.factory.make", "src.models.weights",
        "src.models.weights.torch.load", "src.models.weights.load_file", "src.models.network.load_file",
        "src.models.network.importlib.import_module", "src.models.timm_backbone.timm.create_model",
        "src.models.network.Network.__init__", "src.models.no_such_file.build", "src.models.network.no_such_function",
    ],
)  # fmt: skip
def test_a_model_folder_can_name_no_function_but_those_of_the_room(folder, target):
    facts = json.loads((folder / "model.json").read_text())
    facts["build"] = {"_target_": target, "github": "x/y", "model": "z"}
    (folder / "model.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match=r"src\.models"):
        load_model(folder)


# BatchNorm that stands still


@pytest.mark.parametrize("name", ["test_byobnet", "mobilenetv2_035", "densenet121", "resnetv2_50"])
def test_a_folded_batchnorm_changes_no_number_no_gradient_and_nothing_in_training(name):
    torch.manual_seed(0)
    net = backbone(name).net.double()
    for norm in (m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        for value, low, high in ((norm.running_mean, -1, 1), (norm.running_var, 0.5, 2), (norm.weight, 0.5, 1.5)):
            nn.init.uniform_(value, low, high)
    images = torch.rand(2, 3, 64, 64, dtype=torch.double)

    def seen(training: bool) -> list[torch.Tensor]:
        net.train(training).zero_grad()
        last, stages = net.forward_intermediates(images)
        net(images).square().sum().backward()
        kept = {k: v.clone() for k, v in net.state_dict().items()}
        found = [last, *stages, *(p.grad.clone() for p in net.parameters() if p.grad is not None), *kept.values()]
        net.load_state_dict(start)
        return [part.detach() for part in found]

    start = {k: v.clone() for k, v in net.state_dict().items()}
    plain, trained = seen(False), seen(True)
    count = fold(net.eval(), images[:1])
    assert count > 8 and net.state_dict().keys() == start.keys()
    for before, after in zip(plain, seen(False), strict=True):
        torch.testing.assert_close(after, before)
    for before, after in zip(trained, seen(True), strict=True):
        assert torch.equal(after, before)
    unfold(net)
    assert all(torch.equal(*pair) for pair in zip(seen(False), plain, strict=True))


def test_what_is_read_twice_or_shown_as_it_is_is_not_folded():
    class Net(nn.Module):
        def __init__(self, twice: bool, shown: bool, act: nn.Module):
            super().__init__()
            self.twice, self.shown, self.act = twice, shown, act
            self.conv, self.norm, self.after = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.last = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            x = self.act(self.conv(x))
            return self.after(self.last(self.norm(x) + (x if self.twice else 0)))

        def forward_intermediates(self, x):
            x = self.last(self.norm(self.act(self.conv(x))))
            return self.after(x), [x] if self.shown else []

    plain, place = nn.Identity(), nn.ReLU(inplace=True)
    cases = (False, False, plain, 2), (True, False, plain, 1), (False, True, plain, 1), (False, False, place, 1)
    for twice, shown, act, count in cases:
        assert fold(Net(twice, shown, act).eval(), torch.rand(1, 3, 4, 4)) == count
