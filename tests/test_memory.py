"""What changes memory and speed alone leaves the result as it is; and what is said where memory is not enough."""

from __future__ import annotations

import copy
import csv
import importlib
import itertools
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import src
from src import hardware, rng, settle, world
from src.contracts import ConfigError
from src.models.dense import DenseNetwork
from src.models.network import Network
from src.models.recompute import recomputed
from src.models.timm_backbone import timm_backbone
from src.module import Module
from src.stages import find_lr, pace
from tests import nets
from tests.conftest import words
from tests.test_combined import built
from tests.test_resume import same, saved, updates

quiet = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*in eval mode at the start")
IMAGES = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def one_step(kind: str, name: str, again: bool) -> tuple[nn.Module, int]:
    """The network after a backward pass, and how many numbers the forward pass left for it."""
    rng.seed(0, "weights")
    backbone = timm_backbone(
        name, pretrained=False, image_size=64, drop_rate=0.2, drop_path_rate=0.3, grad_checkpointing=again
    )
    net = DenseNetwork(backbone, 3) if kind == "dense" else Network(backbone, 3, stages=kind == "stages")
    nets.awake(net.train())
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.data_ptr()] = x.numel()
        return x

    rng.seed(0, "step", 1)
    with saved_tensors_hooks(pack, lambda x: x):
        loss = net(IMAGES).square().mean()
    loss.backward()
    return net, sum(kept.values())


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for name in ("test_resnet", "test_vit") for kind in ("plain", "stages", "dense")]
    + [("plain", name) for name in ("test_efficientnet", "test_convnext", nets.SWIN)],
)
def test_layers_that_are_computed_again_give_the_same_gradients_and_statistics_with_less_memory(kind, name):
    (plain, most), (again, kept) = (one_step(kind, name, on) for on in (False, True))
    assert kept < 0.9 * most
    for (key, a), b in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None and b.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-6, atol=1e-6, msg=key)
    for (key, a), b in zip(plain.named_buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=0, msg=key)  # BatchNorm has counted the batch once
    assert not any(m.__dict__.get("held") for m in again.modules())


def test_a_network_that_cannot_compute_its_layers_again_is_refused():
    class No(nn.Module):
        def set_grad_checkpointing(self, enable: bool = True) -> None:
            assert not enable, "gradient checkpointing not supported"

    for net in (No(), nn.Linear(1, 1)):
        with pytest.raises(ConfigError, match=r"model\.grad_checkpointing=true: mine cannot"):
            recomputed(net, "mine")


def fitted(said: str, place, shapes) -> Module:
    place.mkdir(exist_ok=True)
    r = built(said.split(), place, shapes)
    module = r.module(r.network())
    r.trainer().fit(module, datamodule=r.loaders)
    return module


@quiet
def test_a_compiled_network_trains_as_it_is_and_keeps_its_names(shapes, tmp_path):
    from torch._dynamo.utils import counters

    said = "trainer.max_epochs=1 trainer.limit_val_batches=1 model.drop_rate=0.2"
    plain = fitted(said, tmp_path / "a", shapes)
    counters.clear()
    compiled = fitted(f"{said} trainer.compile=eager", tmp_path / "b", shapes)
    assert counters["stats"]["unique_graphs"] >= 2 and not counters["graph_break"]
    first, second = plain.state_dict(), compiled.state_dict()
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-4, atol=1e-6, msg=key)
    copy.deepcopy(compiled.network)


@quiet
def test_an_update_of_fewer_batches_counts_its_images_as_any_other(shapes, tmp_path):
    said = "optimizer=sgd trainer.gradient_clip_val=null trainer.accumulate_grad_batches="
    two, four = (fitted(f"{said}{n}", tmp_path / str(n), shapes) for n in (2, 4))  # of the two batches that there are
    one = fitted("optimizer=sgd trainer.gradient_clip_val=null", tmp_path / "1", shapes)
    pairs = list(zip(two.network.parameters(), four.network.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not all(torch.equal(a, b) for (a, _), b in zip(pairs, one.network.parameters(), strict=True))


def test_batches_are_added_up_to_the_effective_batch_or_it_is_refused():
    assert [settle.accumulated(256, *more) for more in ((64, 1), (256, 1), (32, 4))] == [4, 1, 2]
    for more in ((48, 1), (64, 3), (512, 1)):
        with pytest.raises(ConfigError, match=r"effective_batch=256 data\.batch_size=.*\n.*Set data\.batch_size="):
            settle.accumulated(256, *more)


def test_the_largest_part_of_the_effective_batch_that_fits_is_found():
    assert [settle.largest(1000, 256, lambda n, most=most: n <= most) for most in (1000, 256, 100, 7)] == [
        256,
        256,
        64,
        4,
    ]
    assert settle.largest(100, 256, lambda n: True) == 64  # more images than that there are not
    with pytest.raises(ConfigError, match="not even 3 images"):
        settle.largest(1000, 48, lambda n: n < 3)


@quiet
def test_a_batch_is_tried_by_two_updates_and_does_not_fit_where_the_memory_runs_out(shapes, tmp_path, monkeypatch):
    real, sizes, limits = Module.training_step, [], []

    def step(self, batch, batch_idx):
        sizes.append(len(batch["image"]))
        if sizes[-1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, batch, batch_idx)

    monkeypatch.setattr(Module, "training_step", step)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    r = built(["trainer.accumulate_grad_batches=3"], tmp_path, shapes)
    assert settle.largest(48, 32, lambda n: settle.fits(r, n)) == 8
    assert sizes == [24, 16, 8, 8]
    assert limits[-1] == 1.0


def test_an_effective_batch_trains_resumes_and_says_what_a_cpu_cannot_answer(zygote, shapes, tmp_path):
    start = [*words(shapes, tmp_path), "trainer.effective_batch=32", "trainer.auto_batch=true", "trainer.compile=auto"]
    fault = {"at": "step", "n": 13, "number": int(signal.SIGKILL)}
    assert zygote.run(*start, f"run_dir={tmp_path / 'whole'}") == 0, zygote.screen
    assert "auto_batch  the memory of a cpu is not measured" in zygote.screen and "compile     auto" in zygote.screen
    said = yaml.safe_load((tmp_path / "whole" / "config.yaml").read_text())["trainer"]
    assert (said["accumulate_grad_batches"], said["compile"]) == (4, False)
    assert saved(tmp_path / "whole")["global_step"] == 6  # four batches and two, of three epochs
    assert zygote.run(*start, f"run_dir={tmp_path / 'run'}", fault=fault) == -9
    assert updates(tmp_path / "run") > 0
    assert zygote.run(f"resume={tmp_path / 'run'}", seed=9) == 0, zygote.screen
    same(tmp_path / "whole", tmp_path / "run")


def test_a_fit_that_is_added_later_adds_up_as_many_batches_and_what_was_left_open_is_told(zygote, shapes, tmp_path):
    start, run = [*words(shapes, tmp_path), "trainer.effective_batch=32", "stages=[]"], tmp_path / "run"
    assert zygote.run(*start, f"run_dir={run}") == 0, zygote.screen
    assert zygote.run(f"resume={run}", "stages=[fit]") == 0, zygote.screen
    assert saved(run)["global_step"] == 6
    assert zygote.run(*start, "trainer.compile=auto", f"run_dir={run}2") == 0, zygote.screen
    assert zygote.run(f"resume={run}2", "stages=[fit]") == 2 and "so trainer.compile has decided" in zygote.screen


@pytest.mark.parametrize("word", ["model.grad_checkpointing=true", "trainer.compile=eager"])
def test_a_resume_is_exact_however_the_gradient_is_computed(zygote, shapes, tmp_path, word):
    start, fault = (
        [*words(shapes, tmp_path), word, "trainer.max_epochs=1"],
        {"at": "step", "n": 4, "number": int(signal.SIGKILL)},
    )
    assert zygote.run(*start, f"run_dir={tmp_path / 'whole'}") == 0, zygote.screen
    assert zygote.run(*start, f"run_dir={tmp_path / 'run'}", fault=fault) == -9
    assert updates(tmp_path / "run") > 0
    assert zygote.run(f"resume={tmp_path / 'run'}", seed=99) == 0, zygote.screen
    same(tmp_path / "whole", tmp_path / "run")


def test_where_the_memory_is_not_enough_three_remedies_are_told(zygote, shapes, tmp_path):
    fault = {"at": "step", "n": 3, "raises": "OutOfMemoryError"}
    assert zygote.run(*words(shapes, tmp_path), f"run_dir={tmp_path / 'run'}", fault=fault) == 1
    said = "Out of memory with data.batch_size=8, model.image_size=32, trainer.precision=32-true: CUDA out of memory."
    assert said in zygote.screen
    for remedy in (
        "data.batch_size=4 trainer.effective_batch=8",
        "model.grad_checkpointing=true",
        "model.image_size=16",
    ):
        assert remedy in zygote.screen
    assert "Traceback" not in zygote.screen


def test_the_range_test_leaves_its_curve_and_nothing_else(zygote, shapes, whole, tmp_path):
    run = tmp_path / "run"
    stages = "stages=[find_lr,fit,select,refit,test,report]"
    assert zygote.run(*words(shapes, tmp_path), f"run_dir={run}", stages) == 0, zygote.screen
    with (run / "lr_finder.csv").open() as stream:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]
    ratios = [b["lr"] / a["lr"] for a, b in itertools.pairwise(rows)]
    assert len(rows) > 20 and ratios == pytest.approx([ratios[0]] * len(ratios)) and ratios[0] > 1
    assert rows[0]["lr"] == pytest.approx(1e-6) and (run / "lr_finder.png").stat().st_size > 5000
    assert "find_lr  the loss" in zygote.screen
    same(whole, run)


def test_the_rate_at_which_the_loss_falls_fastest_is_found():
    rates = [10 ** (-5 + 0.05 * i) for i in range(101)]
    loss = [2 / (1 + (rate / 1e-3) ** 1.5) + (rate / 0.2) ** 2 for rate in rates]  # a slope around 1e-3, up from 0.1
    found = find_lr.steepest([(rate, x, x) for rate, x in zip(rates, loss, strict=True)])
    assert found == pytest.approx(1e-3, rel=0.3)
    assert find_lr.steepest([(rate, rate, rate) for rate in rates]) is None


def test_float32_products_are_as_exact_as_asked_on_a_gpu_alone(monkeypatch):
    said = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", said.append)
    for where in ("cpu", "gpu"):
        monkeypatch.setattr(hardware, "accelerator", lambda cfg, where=where: where)
        hardware.obey({"trainer": {"matmul_precision": "high"}})
    assert said == ["high"]


@pytest.mark.parametrize(
    ("where", "said", "ranks", "found"),
    [
        ("cpu", "auto", 1, [0, 0, 0]),
        ("cpu", 2, 1, [2, 2, 2]),
        ("gpu", "auto", 1, [0, 4, 15]),
        ("gpu", "auto", 4, [0, 3, 3]),
        ("gpu", 0, 1, [0, 0, 0]),
    ],
)
def test_where_a_gpu_trains_the_other_cores_decode(monkeypatch, where, said, ranks, found):
    monkeypatch.setattr(hardware, "accelerator", lambda cfg: where)
    monkeypatch.setattr(world, "cores", lambda: 16)
    cfg = {"data": {"num_workers": said}, "trainer": {"devices": ranks, "num_nodes": 1}}
    assert [hardware.workers(cfg)(images) for images in (30, 800, 100_000)] == found


@pytest.mark.parametrize(
    ("quota", "found"), [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("9900000 100000", 16),
                         ("max 100000", 16), (None, 16)]
)  # fmt: skip
def test_a_container_has_the_cores_that_it_is_given(monkeypatch, tmp_path, quota, found):
    monkeypatch.setattr(world.os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(world, "QUOTA", tmp_path / "cpu.max")
    if quota:
        world.QUOTA.write_text(f"{quota}\n")
    assert world.cores() == found


def test_torch_has_no_more_threads_than_there_are_cores_to_use(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(world, "cores", lambda: 2)
    try:
        torch.set_num_threads(3)
        world.use_cores()
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)  # as OMP_NUM_THREADS had said
        world.use_cores()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "running", "said", "found"),
    [
        (2, 2, {}, "1000"),
        (2, 1, {}, None),  # nothing but this process
        (2, None, {}, None),  # there is no such file
        (64, 9, {}, None),
        (2, 2, {"GOMP_SPINCOUNT": "7"}, "7"),
        (2, 2, {"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
)
def test_beside_another_job_on_few_cores_threads_hardly_spin(monkeypatch, tmp_path, cores, running, said, found):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # what it is now comes back at the end
        monkeypatch.delenv(name)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(world, "cores", lambda: cores)
    monkeypatch.setattr(world, "LOAD", tmp_path / "loadavg")
    if running:
        world.LOAD.write_text(f"0.10 0.20 0.30 {running}/123 4567\n")
    importlib.reload(src)
    assert os.environ.get("GOMP_SPINCOUNT") == found


def test_a_compiler_that_is_not_there_is_told_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    cfg = {"trainer": {"compile": True, "accelerator": "cpu", "devices": 1, "num_nodes": 1, "precision": "32-true"}}
    with pytest.raises(ConfigError, match=r"trainer\.compile=true: .*C\+\+ compiler"):
        hardware.refuse_impossible(cfg)


@pytest.mark.parametrize(("seconds", "precision", "answer"), [(10, "32-true", False), (600, "32-true", True),
                         (300, "32-true", False), (300, "bf16-mixed", True)])  # fmt: skip
def test_compiling_pays_where_it_saves_more_than_it_costs(monkeypatch, seconds, precision, answer):
    run = SimpleNamespace(source=SimpleNamespace(splits={"train": range(100)}))
    monkeypatch.setattr(hardware, "accelerator", lambda cfg: "gpu")
    monkeypatch.setattr(settle, "prepare", lambda cfg, home: run)
    monkeypatch.setattr(settle, "pace", lambda r, device: SimpleNamespace(train=seconds / 1000))
    assert settle.pays({"trainer": {"max_epochs": 10, "precision": precision}}, SimpleNamespace()) is answer


def test_what_a_process_holds_for_itself_does_not_grow_with_the_table(tmp_path, monkeypatch):
    import tracemalloc

    from src.data.scan import fingerprint
    from src.data.table import table

    for name, value in (("buffers.LARGE", 2**13), ("buffers.CHUNK", 1000), ("columns.CHUNK", 1000)):
        monkeypatch.setattr(f"src.{name}", value)
    monkeypatch.setattr("src.columns.SORTED", 2000)
    monkeypatch.setattr("src.data.split.COMPARED", 1000)
    monkeypatch.setattr("src.data.scan.HASHED", 1000)
    (tmp_path / "0000").mkdir()
    for i in range(1000):
        (tmp_path / "0000" / f"{i:06d}.png").touch()
    for folder in range(1, 16):
        (tmp_path / f"{folder:04d}").symlink_to(tmp_path / "0000", target_is_directory=True)
    peaks = []
    for n in (8_000, 16_000):
        order = np.random.default_rng(0).permutation(n).tolist()
        lines = [f"{i // 1000:04d}/{i % 1000:06d}.png,class_{i % 10}" for i in order]
        (tmp_path / "table.csv").write_text("\n".join(["path,target", *lines]))
        tracemalloc.start()
        try:
            source = table(tmp_path, "table.csv")
            fingerprint(source, 100)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert len(source.splits["train"]) == 0.7 * n
    assert peaks[1] - peaks[0] < 30 * 8_000  # 134, where all of it is memory


def test_the_pace_that_a_budget_is_planned_with_is_of_the_precision_of_the_fit(shapes, tmp_path):
    r, kinds = built([], tmp_path, shapes), []
    network = r.network()
    network.head.register_forward_hook(lambda module, seen, out: kinds.append(out.dtype))
    for precision in (None, "bf16-mixed"):
        pace.pace(replace(r, network=lambda: network), "cpu", precision)
    assert len(kinds) % 2 == 0 and kinds == sorted(kinds, key=[torch.float32, torch.bfloat16].index)
    assert set(kinds) == {torch.float32, torch.bfloat16}
