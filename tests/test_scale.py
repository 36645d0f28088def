"""The batch script of SLURM, with stand-ins for its commands: it queues a run that was told to stop, and only that."""

import os
import subprocess

import pytest

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
