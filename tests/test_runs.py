"""Runs as users start them: folders that nobody shares, faults that are told, results that agree with each other."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from src.tables import read as rows
from tests.conftest import ROOT


def test_a_run_leaves_what_the_interface_promises(whole):
    names = {str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file()}
    assert names >= {
        "config.yaml", "run.json", "metrics.json", "metrics.csv", "predictions.csv", "split.csv",
        "checkpoints/best.ckpt", "checkpoints/last.ckpt", "model/weights.safetensors", "model/model.json",
    }  # fmt: skip
    assert not [n for n in names if n.endswith(".tmp")]
    state = json.loads((whole / "run.json").read_text())
    assert state["state"] == "finished"
    assert state["done"] == ["probe", "fit", "select", "calibrate", "refit", "test", "robustness", "report"]
    assert set(state["seconds"]) == set(state["done"]) - {"probe"}


def test_the_metrics_agree_with_the_predictions(whole):
    found, metrics = rows(whole / "predictions.csv"), json.loads((whole / "metrics.json").read_text())
    right = sum(r["target"] == r["prediction"] for r in found) / len(found)
    assert len(found) == 24
    assert metrics["test/acc"] == pytest.approx(right)
    assert metrics["test/acc/low"] <= right <= metrics["test/acc/high"]


def test_predict_gives_the_probabilities_of_the_test_without_hydra_or_lightning(whole, shapes, tmp_path):
    out = tmp_path / "again.csv"
    code = (
        "import sys, runpy; sys.argv = ['predict', *sys.argv[1:]]\n"
        "try: runpy.run_module('src.predict', run_name='__main__')\n"
        "finally: print([m for m in 'hydra omegaconf pytorch_lightning torchmetrics sklearn matplotlib pyarrow onnx'"
        ".split() if m in sys.modules])"
    )
    words = [str(whole), str(shapes / "test"), "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("[]")
    again = {r["path"].split("shapes0/")[-1]: r for r in rows(out)}
    for row in rows(whole / "predictions.csv"):
        for name in ("prob/left", "prob/right"):
            assert float(row[name]) == pytest.approx(float(again[row["path"]][name]), abs=1e-5)


def test_predict_lists_bad_files_and_goes_on(zygote, whole, tmp_path, shapes):
    import shutil

    from src.predict import predict

    shutil.copytree(shapes / "test", tmp_path / "new")
    (tmp_path / "new" / "left" / "bad.jpg").write_text("<html>not found</html>")
    assert predict(str(whole), str(tmp_path / "new"), str(tmp_path / "out.csv")) == 3
    assert len(rows(tmp_path / "out.csv")) == 24


def test_predict_writes_nothing_where_it_can_predict_nothing(whole, tmp_path):
    from src.contracts import DataError
    from src.predict import predict

    out = tmp_path / "out.csv"
    out.write_text("path,prediction\n")
    (tmp_path / "bad.png").write_bytes(b"")
    for where in (tmp_path / "nowhere", tmp_path / "bad.png"):
        with pytest.raises(DataError, match=r"[Nn]othing was written"):
            predict(str(whole), str(where), str(out))
    assert out.read_text() == "path,prediction\n"


def test_predict_reads_the_tables_that_training_reads(whole, shapes, tmp_path):
    from src.predict import predict

    table = tmp_path / "t.csv"
    table.write_text(f"image;label\n{shapes}/test/left/00.png;left\n", encoding="utf-8-sig")
    assert predict(str(whole), str(table), str(tmp_path / "out.csv"), column="image") == 0
    assert len(rows(tmp_path / "out.csv")) == 1


def test_eight_runs_started_together_get_eight_folders(tmp_path):
    code = f"from src.folder import create; from pathlib import Path; print(create(Path({str(tmp_path)!r}), 'x'))"
    command = [sys.executable, "-c", code]
    many = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    assert len({p.communicate()[0].strip() for p in many}) == 8


def test_a_folder_in_use_is_refused(zygote, whole):
    from src.folder import RunFolder

    with RunFolder(whole).lock() as home:
        home.update(state="running")
        assert zygote.run(f"resume={whole}") == 2
        assert home.state()["state"] == "running"  # that of the run that goes on
        home.update(state="finished")
    assert f"in use by process {os.getpid()}" in zygote.screen
    assert zygote.run(f"resume={whole}") == 0


@pytest.mark.parametrize("why", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_worked_on_with_a_warning(tmp_path, monkeypatch, why):
    from src import folder, partial
    from src.search import jobs

    def refused(*_):
        raise OSError(why, os.strerror(why))

    for module, name in ((folder.fcntl, "lockf"), (folder.fcntl, "flock"), (folder.os, "lockf")):
        monkeypatch.setattr(module, name, refused)

    def worked():
        with folder.RunFolder(tmp_path / "run").lock() as home:
            assert home.locked and not home.held()

    def predicted():
        with partial.Partial(tmp_path / "part", {}, 1, 1) as part:
            part.add([{}])

    def searched():
        job = jobs.Job(tmp_path / "trial", [], {}, [sys.executable, "-c", ""])
        job.begin()
        assert job.process and job.process.wait() == 0

    for work in (worked, predicted, searched):
        with pytest.raises(OSError, match="error") if why == errno.EIO else pytest.warns(UserWarning, match="no locks"):
            work()


def test_a_full_disk_keeps_the_old_file_and_leaves_no_half_of_a_new_one(tmp_path, monkeypatch):
    from src import checkpoint, folder

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file, last = tmp_path / "run.json", tmp_path / "last.ckpt"
    folder.write(file, "old")
    checkpoint.AtomicCheckpointIO().save_checkpoint({"a": 1}, last)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "fsync", full)
    for work in (
        lambda: folder.write(file, "new"),
        lambda: checkpoint.AtomicCheckpointIO().save_checkpoint({"a": 2}, last),
    ):
        with pytest.raises(OSError, match="No space"):
            work()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_that_a_full_disk_ends_says_so_in_a_paragraph(tmp_path, monkeypatch, capsys):
    from omegaconf import OmegaConf

    from src import folder, run

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    home = folder.RunFolder(tmp_path)
    home.update(state="running")
    home.locked = True
    monkeypatch.setattr(run.resume, "open_home", lambda cfg: home)
    monkeypatch.setattr(run.signals, "install", lambda: None)
    for name, what in (("run", full), ("quiet", lambda: None)):
        monkeypatch.setattr(run, name, what)
    monkeypatch.setattr(folder, "write", full)
    assert run.job(OmegaConf.create()) == 1
    assert "No space left" in capsys.readouterr().err


def test_a_non_finite_loss_stops_before_the_update_and_keeps_the_last_good_checkpoint(zygote, small, tmp_path):
    run = tmp_path / "run"
    assert zygote.run(*small, f"run_dir={run}", "optimizer.lr=1e30", "trainer.gradient_clip_val=null") == 1
    assert "The loss is" in zygote.screen and "The update was not made" in zygote.screen
    assert "optimizer.lr" in zygote.screen and "Traceback" not in zygote.screen
    assert json.loads((run / "run.json").read_text())["state"] == "failed"
    from src import checkpoint

    for file in (run / "checkpoints").glob("*.ckpt"):
        assert all(bool(v.isfinite().all()) for v in checkpoint.load(file)["state_dict"].values())


def test_an_unwritable_log_folder_is_told_before_training(zygote, small, tmp_path):
    (tmp_path / "file").write_text("")
    assert zygote.run(*small, f"paths.logs={tmp_path / 'file' / 'logs'}") == 2
    assert "cannot be written" in zygote.screen and "paths.logs" in zygote.screen


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["model.name=resnet18x", "model.pretrained=false"], 2, "resnet18"),
        (["data.batch_size=100"], 2, "48 training images"),
        (["trainer.accelerator=gpu"], 2, "sees no GPU"),
        (["finetune=freeze", "finetune.until=layer9"], 2, "is no part of this network"),
        (["optimizer=timm", "optimizer.opt=lamp"], 2, "lamb"),
        (["model.name=test_vit", "model.image_size=33"], 2, "model.image_size"),
        (["model.weights=nowhere.safetensors"], 2, "no such file"),
        (["init_from=nowhere"], 2, "there is no such folder"),
        (["resume=nowhere"], 2, "no run folder"),
        (["trainer.precision=16-mixed"], 2, "fp16 is for GPUs"),
        (["select=best", "trainer.limit_val_batches=0"], 2, "select=last"),
        (["trainer.check_val_every_n_epoch=9"], 2, "select=last"),
        (["trainer.fast_dev_run=true"], 2, "debug=fast"),
        (["task.monitor=val/f1"], 2, "val/f1_macro"),
    ],
)
def test_a_mistake_is_told_in_a_paragraph(zygote, small, words, code, told):
    assert zygote.run(*small, *words) == code, zygote.screen
    assert told in zygote.screen
    assert "Traceback" not in zygote.screen


def test_data_that_cannot_be_used_exit_with_3(zygote, small, shapes, tmp_path):
    import shutil

    own = tmp_path / "images"
    shutil.copytree(shapes, own)
    bad = own / "train" / "left" / "zz.jpg"
    bad.write_bytes(b"")
    words = [w for w in small if not w.startswith("data.root")] + [f"data.root={own}"]
    assert zygote.run(*words) == 3
    assert "train/left/zz.jpg: empty file" in zygote.screen and "data.bad_images=skip" in zygote.screen
    assert zygote.run(*words, "data.bad_images=skip", "trainer.max_epochs=1") == 0
    before = sorted((tmp_path / "logs").rglob("*"))
    for more in ((), (f"paths.logs={tmp_path / 'new' / 'logs'}",), (f"run_dir={tmp_path / 'new' / 'run'}",)):
        assert zygote.run(*words, f"data.root={tmp_path / 'nowhere'}", *more) == 3
    assert sorted((tmp_path / "logs").rglob("*")) == before and not (tmp_path / "new").exists(), "there is a trace"


def test_bf16_is_refused_on_a_cpu_without_it(monkeypatch):
    from src import hardware
    from src.contracts import ConfigError

    flags = yaml.safe_load((ROOT / "configs/trainer/default.yaml").read_text())
    cfg = {"trainer": flags | {"accelerator": "cpu", "precision": "bf16-mixed"}, "stages": ["fit"], "select": "best"}
    monkeypatch.setattr(hardware, "fast_bf16", lambda: False)
    with pytest.raises(ConfigError, match="no bf16 arithmetic"):
        hardware.refuse_impossible(cfg | {"optimizer": {}})
    monkeypatch.setattr(hardware, "fast_bf16", lambda: True)
    hardware.refuse_impossible(cfg | {"optimizer": {}})


@pytest.mark.parametrize("preset", sorted(p.stem for p in (ROOT / "configs/debug").glob("*.yaml")))
def test_every_debug_preset_runs(zygote, small, preset, tmp_path):
    words = [w for w in small if not w.startswith(("trainer.max_epochs", "trainer.log_every"))]
    assert zygote.run(*words, f"debug={preset}", "logger=[tensorboard,csv]") == 0, zygote.screen
    if preset == "profile":
        assert "run_training_batch" in zygote.screen
    if preset == "overfit":
        history = rows(next(tmp_path.glob("logs/debug/*/metrics.csv")))
        losses = [float(r["train/loss"]) for r in history if r["train/loss"]]
        assert losses[-1] < 0.3 * losses[0]


def test_a_table_trains_and_the_split_it_leaves_is_a_table_again(zygote, small, shapes, tmp_path):
    lines = [f"train/{c}/{i:02d}.png,{c}" for c in ("left", "right") for i in range(24)]
    (tmp_path / "labels.csv").write_text("path,target\n" + "\n".join(lines))
    words = [w for w in small if not w.startswith("data=")] + ["data=csv", "trainer.max_epochs=1"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert zygote.run(*words, f"data.table={tmp_path / 'labels.csv'}", f"run_dir={first}") == 0, zygote.screen
    assert zygote.run(*words, f"data.table={first / 'split.csv'}", f"run_dir={second}") == 0, zygote.screen
    assert (first / "predictions.csv").read_bytes() == (second / "predictions.csv").read_bytes()


def test_every_trainer_flag_is_in_the_yaml():
    """So that no override needs a plus. What the template makes itself, or sets per split, is not the user's."""
    import inspect

    from pytorch_lightning import Trainer

    from src import hardware

    own = {"self", "logger", "callbacks", "plugins", "model_registry", "limit_predict_batches"}
    listed = set(yaml.safe_load((ROOT / "configs/trainer/default.yaml").read_text())) - {"_target_", "_partial_"}
    assert listed - set(hardware.OWN) == set(inspect.signature(Trainer.__init__).parameters) - own
    assert set(hardware.OWN) <= listed


def test_the_interval_is_that_of_the_monitored_metric(zygote, small, tmp_path):
    run = tmp_path / "run"
    more = ["task.monitor=val/nll", "task.mode=min", "trainer.max_epochs=1", "trainer.enable_progress_bar=false"]
    assert zygote.run(*small, f"run_dir={run}", *more) == 0, zygote.screen
    found = json.loads((run / "metrics.json").read_text())
    assert found["test/nll/low"] < found["test/nll"] < found["test/nll/high"]
    assert "test/nll  0." in zygote.screen and "epoch 1/1" not in zygote.screen


def test_the_interval_of_images_that_come_in_groups_is_that_of_the_groups(zygote, small, shapes, tmp_path):
    files = [f"{split}/{c}/{i:02d}.png" for split, n in (("train", 24), ("val", 8), ("test", 12))
             for c in ("left", "right") for i in range(n)]  # fmt: skip
    lines = [f"{f},{f.split('/')[0]},{f.split('/')[1]},{f.split('/')[0]}{int(f[-6:-4]) // 3}" for f in files]
    (tmp_path / "labels.csv").write_text("path,split,target,patient\n" + "\n".join(lines))
    words = ["data=csv", f"data.table={tmp_path / 'labels.csv'}", "trainer.max_epochs=1", "optimizer.lr=1e-9"]
    found = []
    for more in ([], ["data.group=patient"]):
        run = tmp_path / f"run{len(more)}"
        assert zygote.run(*small, *words, f"run_dir={run}", *more) == 0, zygote.screen
        found.append(json.loads((run / "metrics.json").read_text()))
    assert found[0]["test/acc"] == found[1]["test/acc"] < 1
    assert any(found[0][f"test/acc/{end}"] != found[1][f"test/acc/{end}"] for end in ("low", "high"))


def test_a_fit_without_validation_can_be_tested(zygote, small, tmp_path):
    run = tmp_path / "run"
    more = ["trainer.limit_val_batches=0", "select=last", "trainer.max_epochs=1", "task.monitor=val/f1_macro"]
    assert zygote.run(*small, f"run_dir={run}", *more) == 0, zygote.screen
    found = json.loads((run / "metrics.json").read_text())
    assert "test/acc" in found and "val/acc" not in found
    assert "test/acc/low" not in found  # the mean of what is not measured per image has no such interval


def test_no_logger_is_a_choice(zygote, small, tmp_path):
    words = [w for w in small if not w.startswith("logger")]
    assert zygote.run(*words, "logger=[]", "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}") == 0, zygote.screen
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_stages_can_follow_later(zygote, small, tmp_path):
    run = tmp_path / "run"
    assert zygote.run(*small, f"run_dir={run}", "stages=[fit]", "trainer.max_epochs=1") == 0
    assert not (run / "model").exists()
    assert zygote.run(f"resume={run}", "stages=[fit,select,test]") == 0, zygote.screen
    assert "a training step" not in zygote.screen
    assert (run / "predictions.csv").is_file()


@pytest.mark.parametrize("group", ["loss", "finetune", "optimizer", "scheduler", "augment"])
def test_every_member_of_a_group_trains(zygote, small, group):
    others = {"asymmetric", "bce", "huber", "mae", "mask", "mse", "multihead"}  # of other tasks: see test_tasks.py
    others |= {"gaussian_nll", "quantile", "arcface", "proxy_anchor", "supcon"}  # see test_spread.py, test_retrieval.py
    others |= {"attention"}  # of other networks: see test_policies.py
    others |= {"auto"}  # of the recipe, which `small` does without: see test_auto.py
    for option in sorted({p.stem for p in (ROOT / "configs" / group).glob("*.yaml")} - others):
        assert zygote.run(*small, f"{group}={option}", "trainer.max_epochs=1", "stages=[fit]") == 0, zygote.screen


def test_a_sweep_runs_every_job_and_remembers_the_worst_code(zygote, small, tmp_path):
    assert zygote.run("-m", *small, "trainer.max_epochs=1", "data.batch_size=8,100,16", "stages=[fit]") == 2
    assert len(list((tmp_path / "logs" / "default").iterdir())) == 2  # the mistake left nothing behind
    assert [p for p in ("multirun", "multirun.yaml", "outputs") if (ROOT / p).exists()] == []


def test_tensorboard_gets_scalars_images_confusion_and_hparams(zygote, small, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    assert zygote.run(*small, f"run_dir={run}", "logger=[tensorboard]") == 0, zygote.screen
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "val/acc", "test/acc"} <= set(tags["scalars"])
    shown = {"The least certain images", "How far to believe it/reliability"}
    assert {"train/images", "test/predictions", *(f"report/{name}" for name in shown)} <= set(tags["images"])
    assert len(events.Scalars("val/acc")) == 3


@pytest.mark.slow
def test_a_hung_step_does_not_outlive_a_second_signal(zygote, small):
    with zygote.running(*small, fault={"at": "step", "n": 3, "sleeps": 500}, seconds=45) as process:
        for said in ("it hangs", "once more ends at once"):
            while said not in zygote.screen:
                time.sleep(0.1)
            time.sleep(1.1)  # less would be the same signal, to the process and to its group
            os.kill(process, signal.SIGTERM)
    assert zygote.code == 143, zygote.screen
