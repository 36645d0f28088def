"""What is wrong with a table or its masks is told before the first batch: all of it, with rows or paths."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.contracts import DataError
from src.data import masks
from src.data.table import table
from src.labels import Labels, Levels, ManyClasses, Masks, Numbers, OneClass
from tests import made

THREE = Masks(values={"ground": 0, "block": 100, "line": 200})


def listing(root: Path, text: str | bytes) -> Path:
    """-> the folder, with the table and an (empty) file for each image that it names."""
    raw = text if isinstance(text, bytes) else text.encode()
    root.mkdir(exist_ok=True)
    for line in raw.decode("latin-1").splitlines()[1:]:
        name = line.replace(";", ",").replace("\t", ",").split(",")[0].strip('"')
        if name and "/" not in name and "\\" not in name and not name.startswith("missing"):
            (root / name).touch()
    (root / "t.csv").write_bytes(raw)
    return root


def several(*lines: str, header: str = "path,target") -> str:
    return "\n".join([header, *lines])


GOOD = [f"{i}.png,{i}" for i in range(10, 20)]
WORDS = [f"{i}.png,{'ab'[i % 2]}" for i in range(10, 20)]
TABLES: dict[str, tuple[Labels, str | bytes, list[str]]] = {  # labels, the table, what must be told
    "no numbers": (Numbers(), several(*GOOD, "a.png,many", "b.png,1.2.3"), ["row 12", "'many'", "row 13", "'1.2.3'"]),
    "infinite": (Numbers(), several("a.png,inf", *GOOD, "b.png,-inf", "c.png,1e39"), ["row 2", "row 13", "row 14"]),
    "nothing": (
        Numbers(),
        several("a.png,nan", *GOOD, "b.png,NaN", "c.png,"),
        ["no target: row 2", "row 13", "row 14"],
    ),
    "decimal commas": (
        Numbers(),
        several('a.png;"1,5"', "b.png;2,5", header="path;target"),
        ["row 2", "row 3", "2 row"],
    ),
    "constant": (
        Numbers(("u", "v", "w")),
        several(*(f"{i}.png,1,{i},7.5" for i in range(9)), header="path,u,v,w"),
        ["'u' is always 1", "'w' is always 7.5", "nothing to learn"],
    ),
    "two answers": (OneClass(), several(*WORDS, "10.png,b", "./11.png,a"), ["rows 2 and 12", "rows 3 and 13", "a, b"]),
    "two numbers": (Numbers(), several(*GOOD, "10.png,11", "11.png,9"), ["rows 2 and 12", "rows 3 and 13"]),
    "places": (
        OneClass(),
        several(*WORDS, "/etc/x.png,a", "../x.png,b", "a/../../x.png,a", "C:\\x.png,b", "missing.png,a"),
        ["row 12", "row 13", "row 14", "row 15", "absolute or with '..'", "no such file in data.root: row 16"],
    ),
    "backslashes": (OneClass(), several(*WORDS, "a\\x.png,a"), ["no such file in data.root", "write / ", "row 12"]),
    "splits": (
        OneClass(),
        several(*(f"{line},train" for line in WORDS), "a.png,a,trian", "b.png,b,", header="path,target,split"),
        ["split is none of train, training, val", "row 12 ('trian')", "row 13 ('')"],
    ),
    "unknown classes": (
        OneClass(),
        several(*(f"{line},train" for line in WORDS), "u.png,c,val", "v.png,d,test", header="path,target,split"),
        ["val has 1", "'c' (1 images)", "test has 1", "'d' (1 images)"],
    ),
    "unknown labels": (
        ManyClasses(),
        several(*(f"{line},train" for line in WORDS), "u.png,a|c,val", "v.png,d,test", header="path,labels,split"),
        ["val has 1", "'c' (1 images)", "test has 1", "'d' (1 images)"],
    ),
    "a level too many": (
        Levels(order=["a", "b"]),
        several(*WORDS, "x.png,c", "y.png,A"),
        ["no level of task.labels.order=['a', 'b']", "row 12 ('x.png': 'c')", "row 13 ('y.png': 'A')"],
    ),
    "cells": (OneClass(), several(*WORDS, "x.png", "y.png,a,b,c"), ["row 12 (1)", "row 13 (4)", "not 2 cells"]),
    "not UTF-8": (
        OneClass(),
        several(*WORDS, "ü.png,a", "b.png,a", "é.png,b").encode("latin-1"),
        ["is not UTF-8", "row 12 ('ü.png,a'", "row 14 ('é.png,b'", "Save it as 'CSV UTF-8'"],
    ),
    "nobody to learn from": (Numbers(), several("a.png,1,val", header="path,target,split"), ["no images to train on"]),
    "no masks to learn from": (THREE, several("a.png,,test", header="path,mask,split"), ["no images to train on"]),
    "no row": (THREE, "path,mask\n", ["no images to train on (no images at all)"]),
}


@pytest.mark.parametrize("case", TABLES)
def test_all_that_is_wrong_with_a_table_is_told_at_once_with_its_rows(tmp_path, case):
    labels, text, told = TABLES[case]
    with pytest.raises(DataError) as caught:
        table(listing(tmp_path / "x", text), "t.csv", labels)
    assert [part for part in told if part not in str(caught.value)] == [], str(caught.value)
    assert len(str(caught.value).splitlines()) < 12


def test_many_wrong_cells_are_one_line(tmp_path):
    lines = [f"{i}.png,word{i}" for i in range(300)]
    with pytest.raises(DataError) as caught:
        table(listing(tmp_path / "x", several(*lines)), "t.csv", Numbers())
    assert "300 row(s)" in str(caught.value) and "(300 in all)" in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_words_that_often_stand_for_nothing_are_told(tmp_path):
    text = several(*WORDS, "a.png,NA", "b.png,NA", "c.png,")
    with pytest.raises(DataError, match="row 14"):  # an empty cell is none
        table(listing(tmp_path / "a", text), "t.csv")
    found = table(listing(tmp_path / "b", text.replace("c.png,", "c.png,None")), "t.csv", val_size=0.3, test_size=0.3)
    assert found.classes == ("NA", "None", "a", "b")
    assert [note for note in found.notes if "'NA', 'None'" in note and "empty" in note]


def test_a_cell_may_be_of_any_length(tmp_path):
    text = several(*(f"{line},{'x' * 200_000}" for line in WORDS), header="path,target,more")
    assert table(listing(tmp_path, text), "t.csv", val_size=0.2, test_size=0.2).classes == ("a", "b")


@pytest.mark.parametrize("head", ["path,target", "\ufeffpath,target", "path;target", "\ufeffpath\ttarget"])
def test_a_mark_and_another_separator_change_nothing(tmp_path, head):
    separator = head.removeprefix("\ufeff")[4]
    text = "\n".join([head, *(line.replace(",", separator) for line in GOOD)])
    source = table(listing(tmp_path / "x", text), "t.csv", Numbers())
    assert [len(split) for split in source.splits.values()] == [6, 2, 2], "few numbers are divided, too"


def test_classes_without_an_image_in_a_split_are_named(tmp_path):
    lines = [f"{i}.png,{'a|b' if i % 2 else 'c'},{'train' if i < 16 else 'val'}" for i in range(20)]
    lines += ["x.png,a,test", "y.png,c,test"]
    source = table(listing(tmp_path / "x", several(*lines, header="path,labels,split")), "t.csv", ManyClasses())
    assert any("test has no image of 1 class(es): 'b'" in note for note in source.notes)


def fit_for_masks(root: Path, labels: Masks = THREE):
    return masks.check(table(root, "table.csv", labels), 1000)


def test_masks_of_which_nothing_counts_are_named_and_a_class_that_is_nowhere(tmp_path):
    root = made.shapes(tmp_path / "shapes", n=20)
    for name in ("002.png", "014.png"):
        Image.new("L", (56, 40), 255).save(root / "masks" / name)
    notes = fit_for_masks(root, Masks(values={**THREE.values, "sky": 50}, ignore=255)).notes
    assert any("2 masks have no pixel that counts: 'masks/002.png', 'masks/014.png'" in note for note in notes)
    for split in ("train", "val", "test"):
        assert any(f"{split} has no pixel of 1 class(es): 'sky'" in note for note in notes)


@pytest.mark.parametrize(("split", "value", "told"), [("val", 255, "show 0 of"), ("train", 100, "show 1 of")])
def test_masks_that_teach_nothing_are_refused(tmp_path, split, value, told):
    root = made.shapes(tmp_path / "shapes", n=20)
    for i in {"train": range(12), "val": range(12, 15)}[split]:
        Image.new("L", (56, 40), value).save(root / "masks" / f"{i:03d}.png")
    with pytest.raises(DataError, match=f"the masks of {split} {told} the classes 'ground', 'block', 'line'"):
        fit_for_masks(root, Masks(values=THREE.values, ignore=255))


VALUES = {
    "the same twice": {"values": {"a": 1, "b": 1}},
    "numbers and colours": {"values": {"a": 1, "b": [1, 2, 3]}},
    "words": {"values": {"a": "sky", "b": 1}},
    "two parts of a colour": {"values": {"a": [1, 2], "b": [2, 3]}},
    "below 0": {"values": {"a": -1, "b": 1}},
    "ignored, too": {"values": {"a": 0, "b": 255}, "ignore": 255},
    "a dot": {"values": {"St. Bernard": 1, "sky": 0}},
    "more classes than a byte tells": {"values": {str(i): i for i in range(256)}},
    "a colour ignored, too": {"values": {"a": [0, 0, 0], "b": [9, 9, 9]}, "ignore": 9},
}


@pytest.mark.parametrize("case", VALUES)
def test_values_that_cannot_stand_for_classes_are_refused(tmp_path, case):
    root = made.shapes(tmp_path / "shapes", n=8)
    with pytest.raises(DataError, match=r"task\.labels\.(values|ignore)"):
        fit_for_masks(root, Masks(**VALUES[case]))


def test_a_colour_is_ignored_only_if_all_of_it_is(tmp_path):
    array = np.array([[[255, 0, 0], [255, 255, 255], [0, 0, 0]]], dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "m.png")
    labels = Masks(values={"a": [0, 0, 0], "b": [1, 1, 1]}, ignore=255)
    with pytest.raises(DataError, match=r"1 pixel\(s\).*\[255, 0, 0\]"):
        masks.reader(tmp_path, labels, ("a", "b"))("m.png")
