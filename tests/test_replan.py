"""A fit made longer or shorter goes on where it is: its rate never jumps, and ends at the end of its schedule."""

from __future__ import annotations

import csv
import json
import random
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from src.callbacks.deadline import Deadline
from src.factory import make
from src.replan import Plan, read
from tests.conftest import words
from tests.test_resume import same, saved, updates
from tests.yamls import names, node


@pytest.mark.parametrize("name", names("scheduler"))
def test_a_schedule_planned_anew_goes_on_falling_and_comes_to_its_end(name):
    draw = random.Random(0)
    for _ in range(20):
        total = draw.randint(20, 200)
        factor, plan = make(node("scheduler", name))(total=total), Plan(total, total)
        step, rates = max(factor.warm, 1), []
        for _ in range(3):
            to = step + draw.randint(1, plan.ends - step) if plan.ends > step else step
            rates += [factor(plan(s)) for s in range(step, to)]
            step = to
            plan = read(json.loads(json.dumps(plan.to(step + draw.randint(1, 300), step, plan(step)).plain())))
        rates += [factor(plan(s)) for s in range(step, plan.ends + 1)]
        assert rates == sorted(rates, reverse=True)
        assert rates[-1] == pytest.approx(factor(total)) and plan(plan.ends) == total


def test_a_deadline_that_is_moved_goes_on_from_where_it_is():
    first = Deadline(100.0)
    first.spent, first.progress = 40.0, 0.4
    for seconds, half in ((200.0, 120.0), (60.0, 50.0), (None, 0.0)):
        again = Deadline(seconds)
        again.load_state_dict(json.loads(json.dumps(first.state_dict())))
        module = SimpleNamespace(pace=Plan(100, 100).to(100, 20, 40.0), plan=Plan(100, 100))
        again.on_train_start(SimpleNamespace(), module)
        assert module.pace(20) == pytest.approx(40, abs=0.1)
        if seconds:
            again.began -= half - 40
            again.on_train_batch_start(SimpleNamespace(), module, None, 0)
            assert module.pace(20) == pytest.approx(70, abs=0.1)  # half of what was left


def rates(run: Path) -> list[tuple[int, float]]:
    with (run / "metrics.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row.get("lr-AdamW/pg1")]
    return [(int(row["step"]), float(row["lr-AdamW/pg1"])) for row in rows]


@pytest.fixture(scope="module")
def killed(zygote, shapes, tmp_path_factory) -> Path:
    """A run of three epochs of six updates that was killed in the second one. Not to be written to."""
    folder = tmp_path_factory.mktemp("killed")
    fault = {"at": "step", "n": 10, "number": int(signal.SIGKILL)}
    assert zygote.run(*words(shapes, folder), f"run_dir={folder / 'run'}", fault=fault) == -9, zygote.screen
    return folder / "run"


@pytest.mark.parametrize(("epochs", "total"), [(5, 30), (2, 12)])
def test_a_run_that_is_killed_after_it_was_planned_anew_resumes_to_the_same_bit(
    zygote, killed, tmp_path, epochs, total
):
    begun, word = updates(killed), f"trainer.max_epochs={epochs}"
    runs = [Path(shutil.copytree(killed, tmp_path / name)) for name in ("whole", "again")]
    assert zygote.run(f"resume={runs[0]}", word) == 0, zygote.screen
    assert zygote.screen.count("a training step") == total - begun and "replan   at update" in zygote.screen
    fault = {"at": "step", "n": 1 if epochs == 2 else 14, "number": int(signal.SIGKILL)}
    assert zygote.run(f"resume={runs[1]}", word, fault=fault) == -9, zygote.screen
    assert zygote.run(f"resume={runs[1]}", seed=5) == 0, zygote.screen
    same(*runs)
    assert updates(runs[0]) == total
    for step, rate in rates(runs[0])[begun:]:
        before = dict(rates(runs[0]))[step - 1]
        assert rate <= before, step
    assert rates(runs[0])[-1][1] < 0.3 * max(rate for _, rate in rates(runs[0]))
    said = json.loads((runs[0] / "run.json").read_text())
    assert said["replanned"] == [{"update": begun, "was": {"trainer.max_epochs": 3}, "asked": {
        "trainer.max_epochs": epochs}}] and said["state"] == "finished"  # fmt: skip
    assert f"trainer.max_epochs=3 -> trainer.max_epochs={epochs}" in (runs[0] / "recipe.md").read_text()
    assert zygote.run(f"resume={runs[0]}", word) == 0 and "are done" in zygote.screen


def test_a_finished_run_goes_on_where_its_rate_has_not_ended(zygote, shapes, tmp_path):
    run = tmp_path / "run"
    assert zygote.run(*words(shapes, tmp_path), f"run_dir={run}", "scheduler=constant", "trainer.max_epochs=1") == 0
    before = (run / "predictions.csv").read_bytes()
    assert zygote.run(f"resume={run}", "trainer.max_epochs=2") == 0, zygote.screen
    assert zygote.screen.count("a training step") == 6 and saved(run)["global_step"] == 12
    assert (run / "predictions.csv").read_bytes() != before  # select and test were done again
    done = json.loads((run / "run.json").read_text())["done"]
    assert done.index("select") < done.index("calibrate") < done.index("robustness") < done.index("report")


def test_an_end_that_cannot_be_had_is_refused_with_the_reason(zygote, shapes, killed, whole, tmp_path):
    early = tmp_path / "early"
    fault = {"at": "step", "n": 5, "number": int(signal.SIGKILL)}
    assert zygote.run(*words(shapes, tmp_path), f"run_dir={early}", "scheduler.warmup=0.5", fault=fault) == -9
    for run, word, why in (
        (whole, "trainer.max_epochs=9", "its learning rate has come to its end"),
        (killed, "trainer.max_epochs=1", "done already"),
        (killed, "trainer.max_steps=5", "done already"),
        (early, "trainer.max_epochs=9", "still rising"),
    ):
        before = (run / "config.yaml").read_bytes()
        assert zygote.run(f"resume={run}", word) == 2, zygote.screen
        assert why in zygote.screen and word in zygote.screen and "a training step" not in zygote.screen
        assert before == (run / "config.yaml").read_bytes() and "replanned" not in (run / "run.json").read_text()
