"""Runs side by side: what differs is named, the same images are compared in pairs, and what cannot be is refused."""

import csv
import json
import shutil
import sys

import pytest

from src import compare
from src.contracts import ConfigError, DataError
from src.finished import runs
from src.pages.blocks import Section, Table
from tests.conftest import words


@pytest.fixture(scope="module")
def pair(zygote, whole, shapes, tmp_path_factory):
    """Two runs that differ by their seed and a learning rate, in one folder."""
    folder = tmp_path_factory.mktemp("pair")
    shutil.copytree(whole, folder / "first")
    more = [*words(shapes, folder), f"run_dir={folder / 'second'}", "seed=1", "optimizer.lr=0.02"]
    assert zygote.run(*more) == 0, zygote.screen
    return folder


def changed(folder, tmp_path, **said):
    """A copy of the second run, whose run.json says something else."""
    copy = tmp_path / "copy"
    shutil.copytree(folder / "second", copy)
    state = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(state | said))
    return copy


def table(file, change):
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows = change(rows)
    with file.open("w", newline="") as stream:
        out = csv.DictWriter(stream, list(rows[0]))
        out.writeheader()
        out.writerows(rows)


@pytest.mark.slow
def test_a_folder_of_runs_is_a_table_of_what_differs(pair, capsys, monkeypatch, tmp_path):
    page = tmp_path / "runs.html"
    monkeypatch.setattr(sys, "argv", ["compare", str(pair), "--html", str(page)])
    monkeypatch.setenv("COLUMNS", "200")
    assert compare.main() == 0
    said = capsys.readouterr().out
    assert "first" in said and "second" in said and "optimizer.lr=0.02" in said
    assert "run_dir" not in said and "paths" not in said
    assert "recipe=off" not in said.partition("All were typed with")[0] and "recipe=off" in said  # both were
    assert said.count("optimizer.lr=0.02") == 1  # not what follows from it once more
    monkeypatch.setenv("COLUMNS", "50")  # names and what differs are folded, not cut off
    compare.show([Section("", [Table(["run", "what differs"], [["x" * 30, "y" * 60]])])])
    folded = capsys.readouterr().out
    assert "x" * 30 in folded and folded.count("y") == 60 and "…" not in folded
    assert "optimizer.lr=0.02" in page.read_text() and "<script src" not in page.read_text()


@pytest.mark.slow
def test_runs_that_differ_by_their_seed_alone_are_put_together(pair, tmp_path):
    first, second = runs([str(pair)])
    alike = changed(pair, tmp_path, overrides=[*first.state["overrides"], "seed=1"])
    rows = list(compare._grouped(runs([str(pair / "first"), str(alike)])))
    middle = (first.value + second.value) / 2
    assert len(rows) == 1 and rows[0][1:3] == [2, "0, 1"] and rows[0][3].startswith(f"{middle:.4f} ± ")
    assert list(compare._grouped([first, second])) == []
    again = shutil.copytree(pair / "first", tmp_path / "again")
    assert list(compare._grouped(runs([str(pair / "first"), str(again)]))) == [], "the same seed once more"
    rows = list(compare._grouped(runs([str(pair / "first"), str(again), str(alike)])))
    assert [row[1:3] for row in rows] == [[2, "0, 1"]]


@pytest.mark.slow
def test_a_pair_is_compared_image_by_image(pair, tmp_path):
    first, _ = runs([str(pair)])
    assert compare.paired(first, first) == (0, 0, 0)
    worse = tmp_path / "worse"
    shutil.copytree(pair / "first", worse)

    def wrong(rows):
        for row in rows:
            row["prob/left"], row["prob/right"] = (0.1, 0.9) if row["target"] == "left" else (0.9, 0.1)
        return rows

    def right(rows):
        return [
            row | {"prob/left": float(row["target"] == "left"), "prob/right": float(row["target"] != "left")}
            for row in rows
        ]

    better = tmp_path / "better"
    shutil.copytree(pair / "first", better)
    table(worse / "predictions.csv", lambda rows: right(rows)[:12] + wrong(rows)[12:])
    table(better / "predictions.csv", right)
    gain, low, high = compare.paired(*runs([str(worse), str(better)]))
    assert gain == pytest.approx(0.5) and 0.25 < low < gain < high < 0.75
    assert compare.paired(*runs([str(better), str(worse)]))[0] == pytest.approx(-0.5)


@pytest.mark.slow
def test_what_cannot_be_compared_is_refused(pair, tmp_path):
    first = str(pair / "first")
    with pytest.raises(
        ConfigError, match="is not finished: it is preempted; done: fit\\.?\nFinish it first: python train.py resume="
    ):
        runs([first, str(changed(pair, tmp_path, state="preempted", done=["fit"]))])
    with pytest.raises(ConfigError, match="1 finished run"):
        runs([first])
    with pytest.raises(ConfigError, match="there is no such folder"):
        runs([first, str(tmp_path / "nowhere")])
    other = tmp_path / "other"
    shutil.copytree(pair / "second", other)
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("src.tasks.multiclass.multiclass", "src.tasks.ordinal.ordinal"))
    with pytest.raises(ConfigError, match="another task than .*: ordinal instead of multiclass"):
        runs([first, str(other)])
    (other / "config.yaml").write_text(config)
    model = json.loads((other / "model" / "model.json").read_text())
    (other / "model" / "model.json").write_text(json.dumps(model | {"classes": model["classes"][::-1]}))
    with pytest.raises(ConfigError, match="another list of classes than"):
        runs([first, str(other)])
    (other / "model" / "model.json").write_text(json.dumps(model))
    table(other / "predictions.csv", lambda rows: [row | {"target": "left"} for row in rows])
    with pytest.raises(DataError, match="has another target in"):
        compare.paired(*runs([first, str(other)]))
    table(other / "predictions.csv", lambda rows: rows[1:])
    with pytest.raises(DataError, match="was tested on other images than"):
        compare.paired(*runs([first, str(other)]))
