"""Many machines: what queues a preempted run again, and what is compared before the first step."""

import os
import subprocess

import pytest
from omegaconf import OmegaConf

from src import world
from src.callbacks.alike import Alike
from src.check import mistakes
from src.contracts import ConfigError
from src.resume import open_home
from tests.conftest import ROOT


@pytest.mark.parametrize("code, queued", [(143, ["requeue 7"]), (0, []), (1, [])])
def test_the_batch_script_queues_what_was_preempted_again(tmp_path, code, queued):
    for name, body in {
        "srun": f'echo "$@" >> {tmp_path}/srun.txt\nexit {code}',
        "scontrol": f'echo "$@" >> {tmp_path}/again.txt',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "PYTHON": "python3"}
    script = [str(ROOT / "scripts" / "slurm.sbatch"), "data=folder", "data.root=a b"]
    done = subprocess.run(script, cwd=ROOT, env=env, check=False)
    assert done.returncode == code
    [said] = (tmp_path / "srun.txt").read_text().splitlines()
    assert said.endswith("python3 train.py trainer=slurm run_dir=logs/slurm/7 data=folder data.root=a b")
    again = tmp_path / "again.txt"
    assert (again.read_text().splitlines() if again.exists() else []) == queued


def test_the_batch_script_leaves_what_is_said_to_you(tmp_path):
    (tmp_path / "srun").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/srun.txt\n')
    (tmp_path / "srun").chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "PYTHON": "python3"}
    for said, found in {
        "run_dir=a": "trainer=slurm run_dir=a",
        "trainer=fsdp": "run_dir=logs/slurm/7 trainer=fsdp",
        "trainer.devices=2": "trainer=slurm run_dir=logs/slurm/7 trainer.devices=2",
    }.items():
        subprocess.run([str(ROOT / "scripts" / "slurm.sbatch"), said], cwd=ROOT, env=env, check=True)
        assert (tmp_path / "srun.txt").read_text().strip().endswith(f"train.py {found}")


def test_a_run_that_is_resumed_in_the_queue_is_not_given_another_folder(tmp_path):
    (tmp_path / "srun").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/srun.txt\n')
    (tmp_path / "srun").chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "PYTHON": "python3"}
    script = [str(ROOT / "scripts" / "slurm.sbatch"), "resume=a b"]
    assert subprocess.run(script, cwd=ROOT, env=env, check=False).returncode == 0
    assert (tmp_path / "srun.txt").read_text().endswith("python3 train.py trainer=slurm resume=a b\n")


@pytest.fixture
def under_srun(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "FINETUNE_RUN_DIR", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")

    def opened(rank: int, **words):
        monkeypatch.delenv("FINETUNE_RUN_DIR", raising=False)
        monkeypatch.setenv("SLURM_PROCID", str(rank))
        paths = {"logs": "logs"}
        return open_home(OmegaConf.create({"run_dir": None, "resume": None, "name": "n", "paths": paths} | words)).path

    return opened


def test_the_ranks_that_srun_starts_go_on_in_the_folder_of_rank_0(under_srun, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("")
    assert [under_srun(rank, resume=str(run)) for rank in (0, 1)] == [run, run]
    assert [under_srun(rank, run_dir=str(run)) for rank in (0, 1)] == [run, run]
    for rank in (0, 1):
        with pytest.raises(ConfigError, match="resume=auto under srun"):
            under_srun(rank, resume="auto")


def test_the_ranks_that_torchrun_starts_under_srun_are_told_by_its_store_which_run_it_is(
    under_srun, tmp_path, monkeypatch
):
    (tmp_path / "logs" / "n" / "1" / "checkpoints").mkdir(parents=True)
    (tmp_path / "logs" / "n" / "1" / "checkpoints" / "last.ckpt").touch()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setattr(world, "_through_store", lambda key, value, seconds: value)
    monkeypatch.setenv("RANK", "0")
    paths = {"logs": str(tmp_path / "logs")}
    assert under_srun(0, resume="auto", paths=paths) == tmp_path / "logs" / "n" / "1"


@pytest.mark.parametrize("resume, wrong", [("auto", True), ("b", True), ("a", False), (str(ROOT / "a"), False)])
def test_a_resumed_run_has_one_folder(monkeypatch, resume, wrong):
    monkeypatch.chdir(ROOT)
    assert ["Leave run_dir out" in fault for fault in mistakes([f"resume={resume}", "run_dir=a"])] == [True] * wrong


def test_ranks_that_would_run_different_things_do_not_begin(monkeypatch):
    mine, other = {"config": "a", "images": "b"}, {"config": "a", "images": "c"}
    monkeypatch.setattr(world, "gather", lambda said: [said, mine, mine])
    Alike(**mine).setup(None, None, "fit")
    monkeypatch.setattr(world, "gather", lambda said: [said, mine, other])
    with pytest.raises(ConfigError, match="images of rank 2 is c, of rank 0 b \\(1 of 3"):
        Alike(**mine).setup(None, None, "fit")
