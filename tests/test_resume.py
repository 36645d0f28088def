"""A run that is killed anywhere ends, when resumed, on the same bit as one that was not."""

import json
import signal
from pathlib import Path

import pytest
import torch

from src import checkpoint
from tests.conftest import NO_REPORT, words
from tests.test_combined import grouped

KILLS = [  # every step of an epoch, its ends, validations, saves, the test
    ("step", 1), ("step", 2), ("step", 5), ("step", 6), ("step", 7), ("step", 11), ("step", 16),
    ("validation", 1), ("validation", 4), ("save", 0), ("save", 3), ("save", 6), ("predict", 1),
]  # fmt: skip
PLACES = [(at, n, 0) for at, n in KILLS] + [(at, n, 2) for at, n in KILLS[2::4]]  # 2: with worker processes


def saved(run: Path) -> dict:
    return checkpoint.load(run / "checkpoints" / "last.ckpt")


def updates(run: Path) -> int:
    """The updates in the newest checkpoint, 0 where there is none."""
    return saved(run)["global_step"] if list(run.glob("checkpoints/last*.ckpt")) else 0


def same(a: Path, b: Path) -> None:
    """Weights, history, metrics and predictions are equal to the last bit."""
    first, second = saved(a)["state_dict"], saved(b)["state_dict"]
    assert first.keys() == second.keys()
    assert [k for k in first if not torch.equal(first[k], second[k])] == []
    for name in ("metrics.csv", "metrics.json", "predictions.csv", "model/weights.safetensors"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


def state(run: Path) -> str:
    return json.loads((run / "run.json").read_text())["state"]


@pytest.mark.parametrize(("at", "n", "workers"), PLACES)
def test_a_killed_run_resumes_to_the_same_bit(zygote, shapes, whole, tmp_path, at, n, workers):
    run, fault = tmp_path / "run", {"at": at, "n": n, "number": int(signal.SIGKILL)}
    start = [*words(shapes, tmp_path), NO_REPORT, f"run_dir={run}", f"data.num_workers={workers}"]
    assert zygote.run(*start, fault=fault) == -9, zygote.screen
    done = updates(run)
    assert done > 0 or (at, n) in [("step", 1), ("save", 0)]
    assert zygote.run(f"resume={run}", f"data.num_workers={workers}", seed=99) == 0, zygote.screen
    assert zygote.screen.count("a training step") == 18 - done  # it went on; starting again would be equal too
    same(whole, run)


@pytest.mark.parametrize(
    "more",
    [
        ["trainer.accumulate_grad_batches=2"],
        ["trainer.val_check_interval=4"],
        ["trainer.check_val_every_n_epoch=2"],
        ["trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=4"],
        ["finetune=lora", "finetune.rank=2", "model.head=mlp", "select=ema"],
        ["finetune=bitfit", "model.head=bnneck", "select=last"],
    ],
)
def test_a_resume_is_exact_whatever_the_loop_looks_like(zygote, shapes, tmp_path, more):
    start, fault = [*words(shapes, tmp_path), NO_REPORT, *more], {"at": "step", "n": 10, "number": int(signal.SIGKILL)}
    assert zygote.run(*start, f"run_dir={tmp_path / 'whole'}") == 0, zygote.screen
    assert zygote.run(*start, f"run_dir={tmp_path / 'run'}", fault=fault) == -9
    assert updates(tmp_path / "run") > 0
    assert zygote.run(f"resume={tmp_path / 'run'}", seed=99) == 0, zygote.screen
    assert 0 < zygote.screen.count("a training step") < 18
    same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(
    ("passes", "more"),
    [
        (2, ["optimizer=sam", "mix=both", "mix.off_epochs=1", "penalty=l2_sp", "callbacks.ema.last=0.5", "select=ema"]),
        (1, ["loss=elr", "data.sampler=balanced", "augment=three_augment"]),
        (1, ["distill=run", "distill.teacher.folder=TEACHER", "data.progressive=0.5", "model.head=stages", "GROUPED"]),
        (1, ["adversary=pgd", "adversary.steps=2", "mix=mixup", "augment=corruptions"]),
    ],
)
def test_a_resume_is_exact_whatever_a_step_looks_like(zygote, shapes, whole, tmp_path, passes, more):
    start = [*words(shapes, tmp_path), *(word.replace("TEACHER", str(whole)) for word in more if word != "GROUPED")]
    start += [NO_REPORT]
    if "GROUPED" in more:
        start += [*grouped(shapes, tmp_path), "data.sampler=group"]
    fault = {"at": "step", "n": 10 * passes, "number": int(signal.SIGKILL)}
    assert zygote.run(*start, f"run_dir={tmp_path / 'whole'}") == 0, zygote.screen
    assert zygote.screen.count("a training step") == 18 * passes
    assert zygote.run(*start, f"run_dir={tmp_path / 'run'}", fault=fault) == -9
    done = updates(tmp_path / "run")
    assert done > 0
    assert zygote.run(f"resume={tmp_path / 'run'}", seed=99) == 0, zygote.screen
    assert zygote.screen.count("a training step") == passes * (18 - done)
    same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("at", ["step", "validation", "predict"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_told_to_stop_saves_and_says_how_to_go_on(zygote, shapes, whole, tmp_path, at, number, code):
    run = tmp_path / "run"
    start = [*words(shapes, tmp_path), NO_REPORT, f"run_dir={run}", "callbacks.last.every_n_train_steps=null"]
    assert zygote.run(*start, fault={"at": at, "n": 3, "number": int(number)}) == code, zygote.screen
    assert state(run) == "preempted"
    assert f"train.py resume={run}" in zygote.screen
    assert updates(run) == {"step": 4, "validation": 12, "predict": 18}[at]  # after that step; after that validation
    assert zygote.run(f"resume={run}") == 0, zygote.screen
    same(whole, run)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_all_processes_of_a_run_ends_no_worker_before_the_run_has_saved(
    zygote, shapes, whole, tmp_path, number
):
    run = tmp_path / "run"
    start = [*words(shapes, tmp_path), NO_REPORT, f"run_dir={run}", "data.num_workers=2"]
    assert zygote.run(*start, fault={"at": "step", "n": 3, "number": int(number), "group": True}) == 143, zygote.screen
    assert (state(run), updates(run)) == ("preempted", 4)
    assert zygote.screen.count("saving after this step") == 1
    assert zygote.run(f"resume={run}") == 0, zygote.screen
    same(whole, run)


def test_a_damaged_last_checkpoint_gives_way_to_its_predecessor(zygote, shapes, whole, tmp_path):
    run = tmp_path / "run"
    start = [*words(shapes, tmp_path), f"run_dir={run}"]
    assert zygote.run(*start, fault={"at": "step", "n": 15, "number": int(signal.SIGKILL)}) == -9
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    assert zygote.run(f"resume={run}") == 0, zygote.screen
    assert "last.prev.ckpt" in zygote.screen
    same(whole, run)


def test_a_run_folder_can_be_moved(zygote, shapes, whole, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    start = [*words(shapes, tmp_path), f"run_dir={old}"]
    assert zygote.run(*start, fault={"at": "step", "n": 9, "number": int(signal.SIGKILL)}) == -9
    old.rename(new)
    assert zygote.run(f"resume={new}") == 0, zygote.screen
    assert not old.exists()
    same(whole, new)


def test_early_stopping_stays_decided(zygote, shapes, tmp_path):
    stop = ["callbacks=[default,early_stopping]", "callbacks.early_stopping.patience=1"]
    stop += [NO_REPORT]
    start = [*words(shapes, tmp_path), *stop, "callbacks.early_stopping.min_delta=1"]  # nothing can be that much better
    assert zygote.run(*start, f"run_dir={tmp_path / 'whole'}") == 0, zygote.screen
    assert updates(tmp_path / "whole") == 12
    assert zygote.run(*start, "refit=all", "select=last", f"run_dir={tmp_path / 'again'}") == 0, zygote.screen
    assert json.loads((tmp_path / "again" / "metrics.json").read_text())["refit/epochs"] == 2, "as many as were fitted"
    # the second validation decides; the signal comes in it, so the checkpoint is written with the decision
    fault = {"at": "validation", "n": 3, "number": int(signal.SIGTERM)}
    assert zygote.run(*start, f"run_dir={tmp_path / 'run'}", fault=fault) == 143
    assert zygote.run(f"resume={tmp_path / 'run'}") == 0, zygote.screen
    same(tmp_path / "whole", tmp_path / "run")


def test_a_sweep_that_is_told_to_stop_stops(zygote, shapes, tmp_path):
    fault = {"at": "step", "n": 3, "number": int(signal.SIGTERM)}
    assert zygote.run("-m", "seed=0,1", *words(shapes, tmp_path), fault=fault) == 143
    assert len(list((tmp_path / "logs" / "default").iterdir())) == 1


def test_init_from_keeps_the_input_of_the_weights(zygote, shapes, whole, tmp_path):
    start = [w for w in words(shapes, tmp_path) if not w.startswith("model.image_size")]
    assert zygote.run(*start, f"init_from={whole}", "stages=[fit]", "trainer.max_epochs=1") == 0, zygote.screen
    assert "input 3×32×32" in zygote.screen
    assert "head: kept" in zygote.screen


def test_resume_auto_takes_the_newest_unfinished_run(zygote, shapes, whole, tmp_path):
    start = words(shapes, tmp_path)
    assert zygote.run(*start, fault={"at": "step", "n": 9, "number": int(signal.SIGKILL)}) == -9
    assert zygote.run(*start, "resume=auto") == 0, zygote.screen
    (run,) = (tmp_path / "logs" / "default").iterdir()
    same(whole, run)
    assert zygote.run(*start, "resume=auto") == 0
    assert "no unfinished run" in zygote.screen
    assert len(list((tmp_path / "logs" / "default").iterdir())) == 2


def test_two_fits_with_one_seed_give_the_same_bits(zygote, shapes, whole, tmp_path):
    assert zygote.run(*words(shapes, tmp_path), NO_REPORT, f"run_dir={tmp_path / 'run'}", seed=7) == 0, zygote.screen
    same(whole, tmp_path / "run")


def test_a_finished_run_has_nothing_left_to_do(zygote, whole):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*.ckpt")}
    assert zygote.run(f"resume={whole}") == 0
    assert "are done" in zygote.screen and "test/acc" in zygote.screen
    assert before == {p: p.stat().st_mtime_ns for p in whole.rglob("*.ckpt")}


@pytest.mark.parametrize(
    "word",
    [
        "data.batch_size=4",
        "model.name=test_efficientnet",
        "optimizer=sgd",
        "trainer.limit_train_batches=2",
        "seed=3",
        "debug=few",
    ],
)
def test_a_resume_that_would_change_the_run_is_refused(zygote, whole, word):
    assert zygote.run(f"resume={whole}", word) == 2
    assert word.split("=")[0].split(".")[0] in zygote.screen and "init_from" in zygote.screen
    assert "in the run" in zygote.screen and "a training step" not in zygote.screen


def test_a_run_of_an_older_version_is_not_resumed(zygote, shapes, tmp_path):
    assert zygote.run(*words(shapes, tmp_path), f"run_dir={tmp_path / 'run'}", "stages=[]") == 0, zygote.screen
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("\npenalty:", "\nno_longer_there:"))
    assert zygote.run(f"resume={tmp_path / 'run'}") == 2
    assert "older version" in zygote.screen and "knows no penalty" in zygote.screen and "init_from" in zygote.screen


def test_a_resume_on_other_data_is_refused(zygote, shapes, tmp_path):
    import shutil

    run, own = tmp_path / "run", tmp_path / "images"
    shutil.copytree(shapes, own)
    start = [*words(own, tmp_path), f"run_dir={run}"]
    assert zygote.run(*start, fault={"at": "step", "n": 8, "number": int(signal.SIGKILL)}) == -9
    next((own / "train" / "left").iterdir()).unlink()
    assert zygote.run(f"resume={run}") == 3
    assert "fingerprint" in zygote.screen


def test_init_from_takes_the_weights_and_nothing_else(zygote, small, whole, tmp_path):
    assert zygote.run(*small, f"init_from={whole}", f"run_dir={tmp_path / 'run'}", "trainer.max_epochs=1") == 0
    assert zygote.screen.count("a training step") == 6
    assert "weights.safetensors" in zygote.screen


def test_a_checkpoint_alone_rebuilds_the_model(whole, tmp_path):
    from src.models.saved import load_model
    from src.predict import predict

    alone, images = tmp_path / "alone.ckpt", whole.parent.parent / "shapes0" / "test"
    alone.write_bytes((whole / "checkpoints" / "best.ckpt").read_bytes())
    first, second = load_model(alone)[0].state_dict(), load_model(whole / "model")[0].state_dict()
    assert all(torch.equal(first[k], second[k]) for k in {**first, **second})
    assert predict(str(alone), str(images), str(tmp_path / "p.csv")) == 0


def test_a_run_folder_from_elsewhere_cannot_call_what_it_likes(zygote, shapes, tmp_path):
    run = tmp_path / "run"
    start = [*words(shapes, tmp_path), f"run_dir={run}"]
    assert zygote.run(*start, fault={"at": "step", "n": 8, "number": int(signal.SIGKILL)}) == -9
    text = (run / "config.yaml").read_text()
    assert "src.losses.cross_entropy.CrossEntropy" in text
    (run / "config.yaml").write_text(text.replace("src.losses.cross_entropy.CrossEntropy", "os.system"))
    assert zygote.run(f"resume={run}") == 2
    assert "os.system" in zygote.screen and "ALLOWED" in zygote.screen


def test_checkpoints_are_plain_data(whole):
    for file in whole.glob("checkpoints/*.ckpt"):
        found = torch.load(file, weights_only=True)
        assert found["state_dict"] and found["loops"] and found["optimizer_states"]
