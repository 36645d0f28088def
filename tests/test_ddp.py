"""Two processes, by Lightning's launcher and by torchrun: the test metrics of one, uneven shards and all."""

import csv
import json
import subprocess
import sys

import pytest
import torch

from src.data.folder import folder
from src.data.images import read
from src.data.transforms import evaluation
from src.models.saved import load_model
from src.tasks.multiclass import multiclass
from tests import made
from tests.conftest import ROOT, free_port
from tests.test_combined import grouped

pytestmark = pytest.mark.slow


def train(how: list[str], words: list[str]) -> str:
    done = subprocess.run([sys.executable, *how, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "strides" not in done.stderr, done.stderr  # torch's warning of gradients that DDP has to copy
    return done.stdout


@pytest.fixture(scope="module", params=["launcher", "torchrun"])
def run(request, shapes, whole, tmp_path_factory):
    from tests.conftest import latest, words

    home = tmp_path_factory.mktemp(request.param)
    said = [*words(shapes, home), f"run_dir={home / 'run'}", "trainer=ddp", "trainer.devices=2", "data.batch_size=5"]
    if request.param == "launcher":  # with what a step may have more
        said += [*grouped(shapes, home), "data.sampler=group", "distill=run", f"distill.teacher.folder={whole}"]
        said += ["penalty=l2_sp", "data.progressive=0.5", "model.head=stages"]
    said += ["adversary=fast"] if request.param == "torchrun" else []
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    screen = train([*(torchrun if request.param == "torchrun" else []), "train.py"], latest(said))
    return home / "run", screen


def test_the_test_metrics_are_those_of_one_process(run, shapes):
    where, _ = run
    source = folder(shapes)
    network, facts = load_model(where / "model")
    view, split = evaluation(network.spec, facts["resize"]), source.splits["test"]
    images = [view(read(shapes / p, 3)) for p in split.paths]
    with torch.inference_mode():
        # the same batches of 5: 24 test images are 5 batches, so one rank has a batch less than the other
        batches = [torch.stack(images[i : i + 5]) for i in range(0, len(images), 5)]
        logits = torch.cat([network(b.contiguous(memory_format=torch.channels_last)) for b in batches])
    metrics = multiclass(source.classes, "val/acc", "max").metrics()
    metrics.update(logits, torch.tensor(split.targets))
    found = json.loads((where / "metrics.json").read_text())
    assert {k: float(v) for k, v in metrics.compute().items()} == {
        k.removeprefix("test/"): v
        for k, v in found.items()
        if k.startswith("test/") and k.count("/") == 1 and k != "test/images"
    }


def test_a_probe_that_is_solved_again_is_solved_by_all_ranks(zygote, shapes, tmp_path):
    from tests.test_auto import words

    said = ["recipe=probe", "trainer=ddp", "trainer.devices=2", "trainer.strategy.timeout.minutes=0.3"]
    said += ["stages=[probe,select,test]"]
    assert zygote.run(*words(shapes, tmp_path, *said, f"run_dir={tmp_path / 'run'}"), ranks=2) == 0, zygote.screen
    assert json.loads((tmp_path / "run" / "model" / "model.json").read_text())["chosen"]["solved_again"] is True


def test_a_non_finite_loss_ends_all_ranks_at_once(zygote, shapes, tmp_path):
    from tests.conftest import words

    said = [*words(shapes, tmp_path), "trainer=ddp", "trainer.devices=2", "data.batch_size=5", "optimizer.lr=1e30"]
    assert zygote.run(*said, "trainer.gradient_clip_val=null", ranks=2) == 1, zygote.screen
    assert "The loss is" in zygote.screen


def test_it_is_written_and_said_once(run):
    where, screen = run
    assert screen.count("test/acc") == 1
    assert len((where / "predictions.csv").read_text().splitlines()) == 25
    assert json.loads((where / "run.json").read_text())["state"] == "finished"
    history = (where / "metrics.csv").read_text().splitlines()
    assert len(history) == len(set(history))


def test_masks_are_measured_where_a_rank_has_no_val_image(zygote, tmp_path):
    root = made.shapes(tmp_path / "shapes", n=20)
    said = [
        "data=csv", f"data.root={root}", "data.table=table.csv", "task=segmentation", "recipe=off", "data.batch_size=6",
        "task.labels.values={ground: 0, block: 100, line: 200}", "model.name=test_byobnet.glyphs", "trainer=ddp",
        "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_epochs=1", f"paths.cache={tmp_path / 'cache'}",
        f"run_dir={tmp_path / 'run'}", "logger=[csv]", "select=last",
    ]  # fmt: skip
    assert zygote.run(*said, ranks=2) == 0, zygote.screen
    assert "strides" not in zygote.screen, zygote.screen
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["val/images"] == 3 and found["test/images"] == 5 and 0 < found["test/miou"] < 1
    with (tmp_path / "run" / "metrics.csv").open() as stream:
        during = [float(row["val/miou"]) for row in csv.DictReader(stream) if row.get("val/miou")]
    assert during == [pytest.approx(found["val/miou"], abs=1e-5)]


def test_the_process_group_ends_before_the_interpreter_does():
    script = (
        "import atexit\nimport torch.distributed as dist\n"
        "atexit.register(lambda: print('there' if dist.is_initialized() else 'gone'))\n"  # the last of all to be called
        "from src import world\n"
        f"dist.init_process_group('gloo', init_method='tcp://127.0.0.1:{free_port()}', rank=0, world_size=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "gone\n", done.stderr
