"""What a run begins with, or learns from, has not seen the images that it is judged by; or that is said, or refused."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from src import folder
from src.contracts import DataError, Source
from src.data.folder import folder as images
from src.data.learnt import elders, learnt, without_learnt
from src.data.table import split_table, table
from tests.test_combined import built


def swapped(shapes: Path, place: Path, n: int = 3, **other: str) -> list[str]:
    """The same images, with n of train in test and as many of test in train; other: the split of more files."""
    files = sorted(file.relative_to(shapes).as_posix() for file in shapes.glob("*/*/*.png"))
    where = {file: file.partition("/")[0] for file in files}
    for split, new in (("train", "test"), ("test", "train")):
        where |= dict.fromkeys([f for f in files if f.startswith(split)][:n], new)
    rows = [(file, split, file.split("/")[1]) for file, split in {**where, **other}.items()]
    with (place / "swapped.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "split", "target"), *rows])
    return ["data=csv", f"data.root={shapes}", f"data.table={place / 'swapped.csv'}"]


@pytest.mark.parametrize("word", ["init_from=RUN", "distill=run distill.teacher.folder=RUN"])
def test_a_run_that_has_learnt_test_images_is_told_and_refused_and_with_its_own_split_is_not(
    whole, shapes, tmp_path, word
):
    word = word.replace("RUN", str(whole)).split()
    assert not [note for note in built(word, tmp_path, shapes).source.notes if str(whole) in note]
    said = [*word, *swapped(shapes, tmp_path)]
    (tmp_path / "run" / "run.json").unlink()
    (told,) = [note for note in built(said, tmp_path, shapes).source.notes if "LEAK" in note]
    assert f"{word[-1]} has learnt 3 of 24 test images, such as train/left/00.png (there train" in told
    for policy in ("error", "drop"):
        with pytest.raises(DataError, match=f"data.leak={policy}: .* 3 of 24 test images.*\n.*data.leak=warn"):
            built([*said, f"data.leak={policy}"], tmp_path, shapes)


@pytest.fixture
def run(shapes, tmp_path) -> Path:
    """The folder of a run on `shapes`, as far as its division is concerned."""
    return left_by(images(shapes), shapes, tmp_path / "run")


def left_by(source: Source, root: Path, run: Path, more: str = "") -> Path:
    run.mkdir()
    folder.write(run / "split.csv", split_table(source))
    folder.write(run / "config.yaml", f"data: {{root: {root}}}\n{more}")
    return run


def test_images_are_known_by_their_bytes_wherever_they_lie_and_by_path_and_size_where_they_are_gone(
    run, shapes, tmp_path
):
    own = shutil.copytree(shapes, tmp_path / "own")
    (own / "train/left/05.png").rename(own / "val/left/other name.png")
    shutil.copy(own / "train/right/07.png", own / "test/right/99.png")
    (own / "train/right/07.png").unlink()
    places, what = learnt(source := images(own), run, "init_from=RUN")
    assert {source.splits[split].paths[i] for split, i in places} == {"val/left/other name.png", "test/right/99.png"}
    assert "init_from=RUN has learnt 1 of 17 val and 1 of 25 test images, such as val/left/other name.png" in what
    folder.write(run / "config.yaml", "data: {root: /gone}\n")
    said = swapped(own, tmp_path, 2)
    moved = table(own, said[-1].partition("=")[2])
    places, what = learnt(moved, run, "init_from=RUN")
    assert len(places) == 2 and what.endswith("by paths and sizes alone")
    (run / "split.csv").write_text(
        "\n".join(",".join(line.split(",")[:-1]) for line in "".join(split_table(moved)).split())
    )
    assert learnt(moved, run, "init_from=RUN")[1].startswith("init_from=RUN: it does not say")  # as old runs do


def test_what_was_learnt_leaves_val_but_never_test(run, shapes, tmp_path):
    said = swapped(shapes, tmp_path, 0, **{"train/left/00.png": "val", "train/right/00.png": "val"})
    source = table(shapes, said[-1].partition("=")[2])
    cfg = {"data": {"leak": "drop"}, "init_from": str(run)}
    found = without_learnt(source, cfg)
    assert [len(found.splits[name]) for name in ("train", "val", "test")] == [46, 16, 24]
    assert "Dropped, by data.leak=drop: init_from" in found.notes[-1] and "2 of 18 val images" in found.notes[-1]
    with pytest.raises(DataError, match="test nothing is dropped"):
        without_learnt(table(shapes, swapped(shapes, tmp_path)[-1].partition("=")[2]), cfg)


def test_a_division_that_was_changed_by_hand_is_no_fault_of_ours(run, shapes):
    division = run / "split.csv"
    division.write_text(division.read_text().replace(",val,", ",dev,"))
    places, what = learnt(images(shapes), run, "init_from=RUN")
    assert not places and what.startswith("init_from=RUN: it does not say")


def test_those_that_a_run_has_learnt_from_count_as_well(run, shapes, tmp_path):
    child = left_by(images(shapes), shapes, tmp_path / "child", f"init_from: {run}\n")
    grandchild = left_by(
        images(shapes), shapes, tmp_path / "grandchild", f"distill: {{teacher: {{folder: {child}}}}}\ninit_from: null\n"
    )
    weights = grandchild / "model" / "weights.safetensors"
    found = elders({"model": {"weights": str(weights)}, "init_from": None})
    assert list(found) == [grandchild, child, run] and set(found.values()) == {f"model.weights={grandchild}"}
