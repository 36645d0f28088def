"""A finished run is tested again: the same numbers on its own images, other images by the names of their classes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from src.contracts import ConfigError, DataError
from src.evaluate import evaluate, main
from src.folder import RunFolder
from tests import made
from tests.conftest import words
from tests.test_combined import tried

quiet = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.fixture(scope="module")
def run(whole, tmp_path_factory) -> Path:
    return Path(shutil.copytree(whole, tmp_path_factory.mktemp("evaluate") / "run"))


LEFT = ("robustness.json", ".lock")  # which an evaluation may write, beside its own folder


def files(run: Path) -> dict[str, bytes]:
    found = (p for p in run.rglob("*") if p.is_file() and "evaluations" not in p.parts and p.name not in LEFT)
    return {str(p.relative_to(run)): p.read_bytes() for p in found}


@quiet
def test_the_own_test_split_gives_the_numbers_of_the_run_and_leaves_it_alone(run, capsys):
    before = files(run)
    found = evaluate(str(run), ["robustness=shifts", "robustness.pixels=[1]", "robustness.images=10"])
    was = {k: v for k, v in json.loads((run / "metrics.json").read_text()).items() if k.startswith("test/")}
    assert found == pytest.approx(was, abs=1e-6)
    assert (run / "evaluations/test/predictions.csv").read_bytes() == (run / "predictions.csv").read_bytes()
    assert files(run) == before
    said = json.loads((run / "robustness.json").read_text())
    assert said["images"] == 10 and set(said["shifts"]) == {
        "clean", "mirrored", "upside_down", "shift_1", "turn_5", "turn_10",
    }  # fmt: skip
    assert said["shifts"]["mirrored"]["error"] > 0.5  # left is right there
    assert f"in the run {was['test/acc']:.4f}" in capsys.readouterr().out
    with RunFolder(run).lock():
        if (child := os.fork()) == 0:  # robustness.json is the run's, too
            try:
                evaluate(str(run), ["robustness=shifts", "robustness.images=10"])
            except ConfigError as error:
                os._exit(0 if f"{run} is in use" in str(error) else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0


@quiet
def test_other_images_are_tested_by_the_names_of_their_classes(run, shapes, tmp_path, capsys, monkeypatch):
    was = json.loads((run / "metrics.json").read_text())
    root = shutil.copytree(shapes / "test", tmp_path / "night")
    found = evaluate(str(run), [f"data.root={root}"])  # all of them, since they are not divided
    assert found == pytest.approx({k: v for k, v in was.items() if k.startswith("test/")}, abs=1e-6)
    assert "LEAK" not in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["evaluate", str(run), f"data.root={shapes / 'val'}"])
    assert main() == 0
    assert f"LEAK: RUN_DIR={run} has learnt 16 of 16 test images, such as left/00.png" in capsys.readouterr().out
    images = sorted(root.rglob("*.png"))
    rows = [f"{image.relative_to(root)},{image.parent.name}" for image in images[:4] + images[-3:]]
    (root / "seven.csv").write_text("\n".join(["path,target", *rows]))
    some = evaluate(str(run), ["data=csv", f"data.root={root}", "data.table=seven.csv"])
    assert some["test/images"] == 7 and (run / "evaluations/night-seven/predictions.csv").is_file()
    with pytest.raises(ConfigError, match="name=night"):  # which has other images
        evaluate(str(run), ["data=csv", f"data.root={root}", "data.table=seven.csv", "name=night"])
    (root / "left").rename(root / "above")
    with pytest.raises(DataError) as caught:
        evaluate(str(run), [f"data.root={root}", "name=other"])
    assert "does not know 1 class(es): above" in str(caught.value) and "no image of 1 class(es): left" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("data.rot=x", "data.root"),
        ("optimizer.lr=1", "decided by the training"),
        ("loss=focal", "decided by the training"),
        ("data.flip=0.2", "decided by the training"),
        ("robustness=corruption", "robustness has: all, attacks, corruptions"),
        ("robustness=attacks robustness.eps=[-1]", "fractions"),
        ("robustness.steps=3", "robustness=attacks"),
        ("robustness=corruptions robustness.kinds=[rain]", "gaussian_noise"),
        ("data=csv", "data.root has no value"),
        ("data.root=/nowhere/at/all", "no such folder"),
        ("data.batch_size=8,16", "one at a time"),
        ("robustness", "KEY=VALUE"),
    ],
)
def test_words_that_cannot_be_obeyed_are_refused_and_nothing_is_written(run, said, why):
    before = {p for p in run.rglob("*.json") if p.name == "metrics.json"}
    with pytest.raises((ConfigError, DataError)) as caught:
        evaluate(str(run), said.split())
    assert why in str(caught.value)
    assert {p for p in run.rglob("*.json") if p.name == "metrics.json"} == before


def test_a_run_without_a_model_is_refused_with_what_to_do(run, tmp_path):
    with pytest.raises(ConfigError, match="no run folder"):
        evaluate(str(tmp_path), [])
    half = shutil.copytree(run, tmp_path / "half", ignore=shutil.ignore_patterns("evaluations"))
    rows = (half / "split.csv").read_text().splitlines()
    for number, spoilt, why in (
        (3, "train/left/0.png", "as many cells"),
        (2, rows[1].replace("left", "lft"), "no label"),
        (4, rows[3].replace("train", "tarin"), "no split"),
        (1, "path,split", "no column target"),
    ):
        (half / "split.csv").write_text("\n".join([*rows[: number - 1], spoilt, *rows[number:]]))
        with pytest.raises(DataError, match=rf"split\.csv, line {number}: .*{why}.*\n.*train again"):
            evaluate(str(half), [])
    (half / "split.csv").write_text("\n".join(row for row in rows if ",val," not in row))
    with pytest.raises(DataError, match=r"split\.csv, .*it ends without an image of val"):
        evaluate(str(half), [])
    shutil.rmtree(half / "model")
    with pytest.raises(ConfigError, match=r"train\.py resume="):
        evaluate(str(half), [])


def test_attacks_are_refused_before_training_where_there_is_no_class(shapes, tmp_path):
    root = made.bars(tmp_path / "bars", 24)
    said = f"robustness=attacks task=regression data=csv data.root={root} data.table=table.csv"
    assert "they are numbers" in tried(said.split(), tmp_path, shapes)


@pytest.mark.slow
def test_adversarial_training_withstands_attacks_that_undo_a_plain_model(zygote, tmp_path):
    accuracy = {}
    for name, more in (("plain", []), ("pgd", ["adversary=pgd", "adversary.eps=16/255", "adversary.steps=3"])):
        words = [
            "recipe=off", "trainer.max_epochs=3", "select=last", "logger=[]", f"run_dir={tmp_path / name}",
            f"paths.cache={tmp_path / 'cache'}", "trainer.accelerator=cpu", "robustness=attacks", *more,
            "robustness.eps=[16/255]", "robustness.images=100", "robustness.iterations=5", "robustness.queries=5",
        ]  # fmt: skip
        assert zygote.run(*words) == 0, zygote.screen
        accuracy[name] = json.loads((tmp_path / name / "robustness.json").read_text())["attacks"]["eps"]["16/255"]
    assert accuracy["pgd"]["pgd"] > accuracy["plain"]["pgd"] + 0.15, accuracy
    assert accuracy["pgd"]["worst"] > accuracy["plain"]["worst"] + 0.1, accuracy


DOTS = "dots: {kind: ordinal, order: [one, two, three, four]}"
HEADS = f"task.heads={{shape: multiclass, width: regression, tags: multilabel, {DOTS}}}"
TASKS = {  # what is drawn, and the words that train on it
    "segmentation": (made.shapes, 60, ["task.labels.values={ground: 0, block: 100, line: 200}"]),
    "multihead": (made.cards, 100, [HEADS]),
    "regression": (made.bars, 60, ["data.columns.target=[target,sine]"]),
    "multilabel": (made.signs, 80, []),
    "retrieval": (made.scribbles, 10, []),
}


@quiet
@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_tested_again_to_the_same_numbers_from_other_folders_too(zygote, tmp_path, task):
    draw, n, more = TASKS[task]
    root, run = draw(tmp_path / "images", n), tmp_path / "run"
    words = [
        "data=csv", f"data.root={root}", "data.table=table.csv", f"task={task}", "recipe=off", "select=last",
        "model.name=test_byobnet.glyphs", "trainer.max_epochs=1", "logger=[]", f"paths.cache={tmp_path / 'cache'}",
        f"run_dir={run}", "trainer.accelerator=cpu", "data.flip=0", *more,
    ]  # fmt: skip
    assert zygote.run(*words) == 0, zygote.screen
    was = {k: v for k, v in json.loads((run / "metrics.json").read_text()).items() if k.startswith("test/")}
    assert evaluate(str(run), []) == pytest.approx(was, abs=1e-6)
    other = shutil.copytree(root, tmp_path / "elsewhere")
    shutil.rmtree(root)
    found = evaluate(str(run), [f"data.root={other}"])
    assert found == pytest.approx(was, abs=1e-6)
    if task == "segmentation":
        with pytest.raises(ConfigError, match="masks are not measured"):
            evaluate(str(run), [f"data.root={other}", "robustness=corruptions"])


@quiet
@pytest.mark.slow
def test_what_a_run_was_trained_by_is_not_needed_to_test_it(zygote, whole, shapes, tmp_path):
    teacher, run = shutil.copytree(whole, tmp_path / "teacher"), tmp_path / "run"
    said = [f"distill.teacher.folder={teacher}", "distill=run", "finetune=lora", "loss=elr", "trainer.max_epochs=1"]
    assert zygote.run(*words(shapes, tmp_path), *said, f"run_dir={run}") == 0, zygote.screen
    shutil.rmtree(teacher)
    was = {k: v for k, v in json.loads((run / "metrics.json").read_text()).items() if k.startswith("test/")}
    assert evaluate(str(run), []) == pytest.approx(was, abs=1e-6)
