"""What the probe says of single images: near-duplicates across splits, found where they are, told with their labels,
and not taken for equal files; and which labels are wrong, of all images, however few the heads are solved on."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from src.contracts import UNLABELLED, Source, Split
from src.stages import doubts, twins
from src.tasks.multiclass import multiclass


def faked(monkeypatch, tmp_path, features, copies=()):
    """A run of 40 training images whose other splits have these features."""
    monkeypatch.setattr(twins, "embed", lambda run, network, device, split, only: features[split][only])
    targets = {"train": [i % 2 for i in range(40)]}
    targets |= {name: [0 if name == "val" else UNLABELLED] * len(x) for name, x in features.items()}
    splits = {n: Split(tuple(f"{n}/{i}.jpg" for i in range(len(t))), tuple(t)) for n, t in targets.items()}
    return SimpleNamespace(
        source=Source(Path("."), ("cat", "dog"), splits),
        audit=SimpleNamespace(copies=copies),
        home=SimpleNamespace(path=tmp_path),
        cfg={"seed": 0},
    )


def rows_of(tmp_path):
    file = tmp_path / "near_duplicates.csv"
    return list(csv.DictReader(file.read_text().splitlines())) if file.is_file() else []


def listed(tmp_path, monkeypatch, copies=(), most=100):
    draw = torch.Generator().manual_seed(0)
    train = torch.rand(40, 20, generator=draw)
    near = lambda x: x + 0.02 * torch.randn(x.shape, generator=draw)  # noqa: E731
    other = torch.rand(12, 20, generator=draw)
    val = torch.cat([near(train[7:8]), other[:5]])
    test = torch.cat([other[6:9], near(train[3:4]), near(val[2:3]), train[11:12]])
    run = faked(monkeypatch, tmp_path, {"val": val, "test": test}, copies)
    return twins.twins(run, SimpleNamespace(features=20), "cpu", train, list(range(40)), most), rows_of(tmp_path)


def test_what_is_nearly_an_image_of_an_earlier_split_is_listed(tmp_path, monkeypatch):
    said, rows = listed(tmp_path, monkeypatch)
    pairs = {(row["path"], row["like path"]) for row in rows}
    assert pairs == {
        ("val/0.jpg", "train/7.jpg"),
        ("test/3.jpg", "train/3.jpg"),
        ("test/4.jpg", "val/2.jpg"),
        ("test/5.jpg", "train/11.jpg"),
    }
    assert "1 of val, 3 of test" in said
    by = {row["path"]: row for row in rows}
    assert (by["val/0.jpg"]["label"], by["val/0.jpg"]["like label"]) == ("cat", "dog")
    assert by["test/3.jpg"]["label"] == "" and float(by["test/5.jpg"]["cosine"]) == 1.0


def test_equal_files_are_left_to_the_audit(tmp_path, monkeypatch):
    _, rows = listed(tmp_path, monkeypatch, copies=((("test", 5), ("train", 11)),))
    assert "test/5.jpg" not in {row["path"] for row in rows} and len(rows) == 3


def test_of_many_images_some_are_compared(tmp_path, monkeypatch):
    said, rows = listed(tmp_path, monkeypatch, most=0)
    assert said == "" and rows == []


@pytest.mark.parametrize("noise", [0.3, 0.02])
def test_where_all_images_are_alike_a_pair_must_stand_out(tmp_path, monkeypatch, noise):
    """Every image of val and test is near train; with noise 0.02 every fifth is nearer than what is usual."""
    draw = torch.Generator().manual_seed(0)
    train = torch.randn(40, 20, generator=draw)
    other = train + 0.3 * torch.randn(train.shape, generator=draw)
    other[::5] = train[::5] + noise * torch.randn(8, 20, generator=draw)
    run = faked(monkeypatch, tmp_path, {"test": other})
    said = twins.twins(run, SimpleNamespace(features=20), "cpu", train, list(range(40)), 100)
    found = {row["path"] for row in rows_of(tmp_path)}
    assert found == (set() if noise == 0.3 else {f"test/{i}.jpg" for i in range(0, 40, 5)})
    assert said.startswith("NEAR-DUPLICATES") == bool(found)


@pytest.mark.parametrize("most", [1e9, 800])
def test_labels_are_judged_of_more_images_than_the_heads_are_solved_on(tmp_path, monkeypatch, most):
    """600 images of two classes, 30 % of them labelled wrongly; the heads have seen every third one."""
    monkeypatch.setattr(doubts, "LOGITS", most)
    draw = torch.Generator().manual_seed(0)
    true = torch.arange(600) % 2
    x = torch.randn(600, 6, generator=draw) + 2 * true[:, None]
    label = torch.where(torch.rand(600, generator=draw) < 0.3, 1 - true, true)
    task, train = multiclass(("a", "b"), "val/acc", "max"), Split([f"{i}.jpg" for i in range(600)], label.tolist())
    run = SimpleNamespace(
        task=task,
        cfg={"seed": 0},
        source=Source(Path("."), ("a", "b"), {"train": train}),
        loaders=SimpleNamespace(loader=lambda split, only: [{"image": part} for part in x[only].split(50)]),
        home=SimpleNamespace(path=tmp_path),
    )
    network, some = torch.nn.Module(), list(range(0, 600, 3))
    network.embed = lambda image: image
    found = task.noise(task.solve(x[some], label[some], {"last": slice(None)}, 0), label[some])
    judged = doubts.further(run, network, "cpu", doubts.Judged(found.head, some, label[some], found))
    assert len(set(judged.images)) == min(most / 2, 600) and torch.equal(judged.target, label[judged.images])
    wrong = (label != true)[judged.images]
    assert wrong[judged.noise.wrong].float().mean() > 0.9 and judged.noise.wrong[wrong].float().mean() > 0.9
    said = doubts.told(run, judged)
    assert "about 3" in said and ("400 of 600 images" in said) == (most == 800)
    rows = list(csv.DictReader((tmp_path / "suspects.csv").read_text().splitlines()))
    assert {row["path"] for row in rows if row["left out"] == "yes"} == {
        f"{image}.jpg" for image, gone in zip(judged.images, judged.noise.wrong, strict=True) if gone
    }
