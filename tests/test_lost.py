"""A rank that dies or hangs: the others say so within the timeout, nothing is left behind, and the run goes on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from src import checkpoint, folder, hardware, resume, world
from src.contracts import ConfigError
from tests.conftest import ROOT, free_port, latest, words

GLOO = (
    "[/x/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:17809: Connection reset by peer. This is typically so."
)


def child(pid: int) -> int:
    """The process of rank 1, which rank 0 has started."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def is_gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(") ")[2][0] == "Z"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "number, how, minutes", [(signal.SIGKILL, "which has died", 10), (signal.SIGSTOP, "which hangs", 0.4)]
)
def test_a_lost_rank_ends_the_job_which_then_goes_on(zygote, shapes, tmp_path, number, how, minutes):
    where = tmp_path / "run"
    said = [*words(shapes, tmp_path), "trainer=ddp", "trainer.devices=2", f"trainer.strategy.timeout.minutes={minutes}"]
    said += ["trainer.enable_progress_bar=false", f"run_dir={where}", "scheduler.warmup=0", "trainer.max_epochs=5000"]
    with zygote.running(*said, ranks=2, seconds=120) as leader:
        end = time.monotonic() + 300
        while not (where / "checkpoints" / "last.ckpt").exists():
            assert not is_gone(leader) and time.monotonic() < end, zygote.screen
            time.sleep(0.1)
        other = child(leader)
        os.kill(other, number)
    assert zygote.code == 1, zygote.screen
    time.sleep(0.5)
    assert is_gone(other)
    assert "Rank 0" in zygote.screen and how in zygote.screen and f"resume={where}" in zygote.screen, zygote.screen
    assert json.loads((where / "run.json").read_text())["state"] == "failed"
    ends = checkpoint.load(where / "checkpoints" / "last.ckpt")["epoch"] + 2
    assert zygote.run(*said[:-1], f"trainer.max_epochs={ends}", ranks=2) == 0, zygote.screen
    assert json.loads((where / "metrics.json").read_text())["fit/epochs"] == ends


def ip(*commands: str) -> bool:
    return all(subprocess.run(["ip", *one.split()], capture_output=True).returncode == 0 for one in commands)


@pytest.fixture
def machines():
    """Two network namespaces, which a cable joins: their names and its ends."""
    a, b = ends = [f"ft{os.getpid()}{side}" for side in "ab"]
    if shutil.which("ip") is None or not ip(f"netns add {a}"):
        pytest.skip("network namespaces are not permitted")
    try:
        assert ip(f"netns add {b}", f"link add {a} type veth peer name {b}")
        for n, end in enumerate(ends, 1):
            assert ip(f"link set {end} netns {end}", f"-n {end} addr add 10.9.0.{n}/24 dev {end}")
            assert ip(f"-n {end} link set {end} up", f"-n {end} link set lo up")
        yield ends
    finally:
        for end in ends:
            ip(f"netns del {end}")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="has no network namespaces")
def test_where_the_cable_is_cut_the_ranks_of_both_machines_end_and_say_why(machines, shapes, tmp_path):
    where, screens = tmp_path / "run", [tmp_path / f"{end}.txt" for end in machines]
    said = [*words(shapes, tmp_path), "trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2", f"run_dir={where}"]
    said += ["trainer.strategy.timeout.minutes=0.3", "trainer.max_epochs=5000", "trainer.enable_progress_bar=false"]
    torchrun = ["torch.distributed.run", "--nnodes=2", "--master-addr=10.9.0.1", f"--master-port={free_port()}"]
    ranks = []
    try:
        for n, (name, screen) in enumerate(zip(machines, screens, strict=True)):
            command = [
                "ip",
                "netns",
                "exec",
                name,
                sys.executable,
                "-m",
                *torchrun,
                f"--node-rank={n}",
                "train.py",
                *latest(said),
            ]
            env = os.environ | {"GLOO_SOCKET_IFNAME": name}
            with screen.open("w") as stream:
                ranks.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=stream, stderr=stream))
        end = time.monotonic() + 200
        while not (where / "checkpoints" / "last.ckpt").exists():
            assert time.monotonic() < end and not any(rank.poll() for rank in ranks), screens[0].read_text()
            time.sleep(0.1)
        assert ip(f"-n {machines[1]} link set {machines[1]} down")
        assert ranks[0].wait(60) == 1
        while f"resume={where}" not in screens[1].read_text():  # its torchrun asks the other one's for minutes
            assert time.monotonic() < end + 60, screens[1].read_text()
            time.sleep(0.1)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    for n, screen in enumerate(screens):
        assert f"Rank {n} waited in vain for another one" in screen.read_text(), screen.read_text()
        assert f"resume={where}" in screen.read_text()


@pytest.mark.parametrize(
    "error, told",
    [
        (
            RuntimeError(GLOO),
            "Rank 0 lost another one, which has died: Read error .127.0.0.1.:17809: Connection reset by peer.",
        ),
        (
            RuntimeError("[gloo/buffer.cc:78] Timed out waiting 9ms for recv"),
            "Rank 0 waited in vain .* waiting 9ms for recv",
        ),
        (RuntimeError("Application timeout caused pair closure"), "Rank 0 waited in vain"),  # gloo's, too
        (torch.distributed.DistStoreError("Timed out after 31 seconds"), "Rank 0 waited in vain"),
        (ConnectionResetError("Connection reset by peer"), "^$"),  # of a download
        (RuntimeError("gloo: op.preamble.length <= op.nbytes"), "^$"),
    ],
)
def test_what_is_said_of_a_lost_rank(error, told):
    assert re.match(told, world.lost(error))


def test_resume_auto_leaves_a_run_alone_in_which_a_process_works(tmp_path):
    for name in ("1", "2"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / "last.ckpt").touch()
    alive = folder.RunFolder(tmp_path / "2")
    if (child := os.fork()) == 0:
        with alive.lock():
            time.sleep(60)
        os._exit(0)
    try:
        while not alive.held():
            time.sleep(0.01)
        assert resume.unfinished(tmp_path) == tmp_path / "1"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert resume.unfinished(tmp_path) == tmp_path / "2"


def test_a_rank_that_resumes_waits_until_rank_0_has_planned_the_new_end(tmp_path, monkeypatch):
    home = folder.RunFolder(tmp_path)
    home.config.write_text("trainer: {max_epochs: 3}\n")
    home.update(done=["fit"])
    monkeypatch.setattr(resume, "typed", lambda: ["trainer.max_epochs=30"])
    cfg = OmegaConf.create({"trainer": {"max_epochs": 30}})
    with pytest.raises(ConfigError, match="has not taken this end"):
        resume.read(cfg, home, seconds=0)

    def planned():
        home.update(done=[])
        folder.write(home.config, "trainer: {max_epochs: 30}\n")

    rank_0 = threading.Timer(0.5, planned)
    rank_0.start()
    assert resume.read(cfg, home) == {"trainer": {"max_epochs": 30}} and home.state()["done"] == []
    rank_0.join()


@pytest.mark.parametrize("writes", [True, False])
def test_a_rank_waits_as_long_as_rank_0_works_in_the_folder_and_no_longer(tmp_path, writes):
    home, cfg = folder.RunFolder(tmp_path), OmegaConf.create({"stages": []})
    if (child := os.fork()) == 0:
        with home.lock():
            time.sleep(0.5)
            if writes:
                home.config.write_text("stages: [fit]\n")
        os._exit(0)
    while not home.held():
        time.sleep(0.01)
    try:
        if writes:
            assert resume.read(cfg, home, seconds=0) == {"stages": ["fit"]}
        else:
            with pytest.raises(ConfigError, match="never wrote it"):
                resume.read(cfg, home, seconds=0)
    finally:
        os.waitpid(child, 0)
    assert not home.held()


@pytest.mark.parametrize(
    ("env", "rank", "launched"),
    [
        ({}, 0, False),
        ({"RANK": "3", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "x"}, 3, False),
        ({"LOCAL_RANK": "1"}, 1, True),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8"}, 5, False),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "LOCAL_RANK": "1"}, 5, False),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, 0, False),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "LOCAL_RANK": "1"}, 1, True),  # from a shell of srun
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, 1, True),  # from a batch script
    ],
)
def test_a_process_knows_its_rank_by_whoever_started_it(monkeypatch, env, rank, launched):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert (world.rank(), world.launched()) == (rank, launched)


@pytest.mark.parametrize(
    "env, devices, nodes, match",
    [
        ({}, 1, 2, "nothing says where the other machines are"),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "3"}, 2, 1, "are 2 processes, and torchrun has started 3"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, 1, 1, "are 1 processes, and srun has started 4"),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4"}, 2, 2, ""),
        ({"SLURM_STEP_NUM_TASKS": "1"}, 2, 1, ""),  # Lightning starts the other one
    ],
)
def test_the_ranks_that_are_asked_for_are_those_that_were_started(monkeypatch, env, devices, nodes, match):
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS", "MASTER_ADDR", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    cfg = {"trainer": {"devices": devices, "num_nodes": nodes, "accelerator": "cpu"}}
    if not match:
        return hardware.refuse_other_ranks(cfg)
    with pytest.raises(ConfigError, match=match) as told:
        hardware.refuse_other_ranks(cfg)
    assert len(str(told.value).splitlines()) == 2
