"""What only a GPU can show: it trains as a CPU does, fits, resumes, joins a process group and says what it lacks."""

import json
import signal

import pytest
import torch

from src import hardware, settle
from src.evaluate import evaluate
from src.models.folded import fold, unfold
from tests.conftest import words
from tests.test_combined import built
from tests.test_memory import fitted, quiet
from tests.test_resume import same, updates

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def on_gpu(shapes, folder, *more: str) -> list[str]:
    """A small run, bit by bit the same each time."""
    said = [word for word in words(shapes, folder) if word != "trainer.accelerator=cpu"]
    return [*said, "trainer.accelerator=gpu", "trainer.deterministic=warn", f"run_dir={folder / 'run'}", *more]


@pytest.fixture(scope="module")
def run(zygote, shapes, tmp_path_factory):
    """The folder of one that nobody interrupted."""
    folder = tmp_path_factory.mktemp("gpu")
    assert zygote.run(*on_gpu(shapes, folder)) == 0, zygote.screen
    return folder / "run"


def metrics(folder) -> dict:
    return json.loads((folder / "metrics.json").read_text())


@quiet
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # by the compiler: what is asked for is exact
@pytest.mark.parametrize(
    "more",
    [
        "trainer.compile=true",
        "trainer.precision=bf16-mixed",
        "trainer.precision=16-mixed optimizer.fused=false",
        "trainer.matmul_precision=high",
    ],
)
def test_it_trains_as_a_cpu_does(shapes, tmp_path, more):
    said = "trainer.limit_val_batches=1 trainer.accelerator="
    a, b = (fitted(f"{said}{where}", tmp_path / where.split()[0], shapes) for where in ("cpu", f"gpu {more}"))
    for (key, x), y in zip(a.network.named_parameters(), b.network.parameters(), strict=True):
        torch.testing.assert_close(y.cpu(), x, rtol=0.05, atol=5e-3, msg=key)


def test_a_run_of_all_stages_is_evaluated_by_a_cpu_with_the_same_numbers(run):
    again = evaluate(str(run), ["trainer.accelerator=cpu"])
    for key in ("test/acc", "test/nll"):
        assert again[key] == pytest.approx(metrics(run)[key], abs=1e-3)
    assert (run / "report" / "index.html").is_file()


@pytest.mark.parametrize(("at", "n"), [("step", 9), ("validation", 3), ("save", 4)])
def test_a_killed_run_resumes_to_the_same_bit(run, zygote, shapes, tmp_path, at, n):
    fault = {"at": at, "n": n, "number": int(signal.SIGKILL)}
    assert zygote.run(*on_gpu(shapes, tmp_path), fault=fault) == -9, zygote.screen
    done = updates(tmp_path / "run")
    assert 0 < done < 18
    assert zygote.run(f"resume={tmp_path / 'run'}", seed=99) == 0, zygote.screen
    assert zygote.screen.count("a training step") == 18 - done
    same(run, tmp_path / "run")


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_a_process_group_of_one_gpu_trains_as_the_gpu_alone(run, zygote, shapes, tmp_path, how):
    assert zygote.run(*on_gpu(shapes, tmp_path), f"trainer={how}", "trainer.devices=1") == 0, zygote.screen
    assert "Initializing distributed" in zygote.screen
    assert metrics(tmp_path / "run")["test/nll"] == pytest.approx(metrics(run)["test/nll"], abs=1e-2)


def test_how_many_processes_decode_changes_nothing(run, zygote, shapes, tmp_path):
    assert zygote.run(*on_gpu(shapes, tmp_path), "data.num_workers=2") == 0, zygote.screen
    assert "decoded and augmented by up to 2 processes" in zygote.screen
    same(run, tmp_path / "run")


def test_the_recipe_decides_for_a_gpu_and_its_run_ends(zygote, shapes, tmp_path):
    said = [word for word in on_gpu(shapes, tmp_path) if word not in ("recipe=off", "trainer.deterministic=warn")]
    assert zygote.run(*said, "trainer.compile=auto") == 0, zygote.screen
    assert "trainer.precision=bf16-mixed" in zygote.screen and "compile     auto: about" in zygote.screen


@quiet
def test_the_batch_that_fits_is_found(shapes, tmp_path):
    said = ["trainer.accelerator=gpu", "model.name=resnet50", "model.image_size=1024"]
    r = built(said, tmp_path, shapes)
    assert settle.fits(r, 1)
    held = torch.empty(int(0.88 * torch.cuda.mem_get_info()[0]), dtype=torch.uint8, device="cuda")
    assert not settle.fits(r, 48)
    del held


def test_memory_that_is_not_enough_is_told_with_what_needs_less(shapes, tmp_path):
    cfg = dict(built([], tmp_path, shapes).cfg)
    with pytest.raises(torch.OutOfMemoryError) as error:
        torch.empty(2**45, dtype=torch.uint8, device="cuda")
    assert "data.batch_size=4 trainer.effective_batch=8" in hardware.too_large(error.value, cfg)


def test_batchnorm_is_folded_to_the_same_numbers(shapes, tmp_path):
    net = built(["model.name=mobilenetv2_035"], tmp_path, shapes).network().backbone.eval().cuda().double()
    image = torch.rand(4, 3, 32, 32, device="cuda", dtype=torch.float64)
    unfold(net)
    plain = net(image)
    assert fold(net, image) > 30
    torch.testing.assert_close(net(image), plain)
