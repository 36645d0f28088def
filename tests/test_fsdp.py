"""FSDP2 on two ranks: what DDP trains, in one file of whole tensors, exactly resumed; the rest is refused."""

import json
import signal

import pytest
import torch

from src.fsdp import blocks
from src.models.network import Network
from src.models.timm_backbone import timm_backbone
from tests.conftest import words
from tests.test_combined import tried
from tests.test_resume import same, saved, updates


@pytest.fixture(scope="module")
def run(zygote, shapes, tmp_path_factory):
    """trainer -> the folder of a run of two ranks, with several groups of weights."""

    def run(how: str, name: str, *more: str, fault: dict | None = None):
        where = home / name
        said = [*words(shapes, home), f"trainer={how}", "trainer.devices=2", "data.batch_size=5", "finetune=llrd"]
        said += ["stages=[fit,select,test]", "trainer.max_epochs=2", "trainer.limit_train_batches=3", "select=ema"]
        said += [f"run_dir={where}"]
        assert zygote.run(*said, *more, ranks=2, fault=fault) == (-9 if fault else 0), zygote.screen
        return where

    home = tmp_path_factory.mktemp("fsdp")
    return run


@pytest.fixture(scope="module")
def divided(run):
    return run("fsdp", "divided")


def tensors(node):
    """Every tensor of a checkpoint, in its order."""
    if isinstance(node, torch.Tensor):
        yield node
    for part in node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ():
        yield from tensors(part)


@pytest.mark.slow
def test_it_trains_to_the_weights_and_metrics_of_ddp_and_leaves_such_a_file(run, divided):
    copied = run("ddp", "copied")
    mine, theirs = saved(divided), saved(copied)
    assert json.loads((divided / "metrics.json").read_text()) == pytest.approx(
        json.loads((copied / "metrics.json").read_text()), abs=1e-4
    )
    assert list(mine) == list(theirs) and list(mine["state_dict"]) == list(theirs["state_dict"])
    for found, wanted in zip(tensors(mine), tensors(theirs), strict=True):
        assert type(found) is torch.Tensor and found.dtype == wanted.dtype
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bit(run, zygote, divided):
    fault = {"at": "step", "n": 5, "number": int(signal.SIGKILL)}
    killed = run("fsdp", "killed", fault=fault)
    done = updates(killed)
    assert 3 < done < 6, "killed within an epoch"
    assert zygote.run(f"resume={killed}", f"run_dir={killed}", seed=99, ranks=2) == 0, zygote.screen
    assert zygote.screen.count("a training step") == 2 * (6 - done)
    same(divided, killed)


def test_an_error_while_weights_are_gathered_is_told_and_not_one_of_torch_about_them(zygote, small):
    fault = {"at": "forward", "n": 15, "raises": "OutOfMemoryError"}
    assert zygote.run(*small, "trainer=fsdp", "trainer.devices=1", fault=fault) == 1
    assert "a training step" in zygote.screen and "Out of memory with data.batch_size=8" in zygote.screen


def test_a_batchnorm_that_is_a_unit_of_its_own_is_not_folded(zygote, small):
    more = ("model.name=mobilenetv2_035", "model.pretrained=false", "model.image_size=32", "model.batchnorm=frozen")
    assert zygote.run(*small, "trainer=fsdp", "trainer.devices=1", *more) == 0, zygote.screen


@pytest.mark.parametrize(
    ("name", "checkpointing", "units"),
    [
        ("test_vit", False, [f"blocks.{i}" for i in range(6)]),
        ("resnet18", False, [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]),
        ("test_resnet", True, ["layer1.0", "layer2.0", "layer4.0"]),  # which goes past layer1 to its only block
    ],
)
def test_a_unit_is_a_block_that_is_called(name, checkpointing, units):
    network = Network(timm_backbone(name, pretrained=False, grad_checkpointing=checkpointing), 2)
    names = {module: name for name, module in network.backbone.named_modules()}
    assert [names[block] for block in blocks(network, torch.device("cpu"))] == units


@pytest.mark.parametrize(
    "said",
    [
        "trainer.gradient_clip_algorithm=agc trainer.gradient_clip_val=0.1",
        "trainer.compile=aot_eager",
        "trainer.channels_last=true",
        "optimizer.opt=adafactor optimizer=timm",
        "optimizer.base.opt=muon optimizer=sam",
        "model.head=cosine",
        "penalty=l2_sp",
    ],
)
def test_what_needs_whole_weights_is_refused(shapes, tmp_path, said):
    refusal = tried(["trainer=fsdp", "trainer.devices=2", *said.split()], tmp_path, shapes)
    assert refusal.startswith("trainer=fsdp with ") and "\nSet " in refusal and "or trainer=ddp" in refusal
    assert ("network.head.scale" if said == "model.head=cosine" else said.split()[0]) in refusal
