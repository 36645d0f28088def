"""The same images from a folder, a table, shards, Arrow and torchvision are the same data set."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from src.contracts import DataError, Source
from src.data.folder import folder
from src.data.images import read
from src.data.table import table
from src.labels import ManyClasses, Numbers

Known = dict[str, list[tuple[bytes, str]]]


def known(source: Source) -> Known:
    """split -> (pixels, label) of its images, sorted: what a source says, whatever it calls them."""

    def items(split: str) -> Iterator[tuple[bytes, str]]:
        images = source.splits[split]
        for path, target in zip(images.paths, images.targets, strict=True):
            label = "; ".join(source.labels.text(target, source.classes))
            yield read(source.root / path, 3).contiguous().numpy().tobytes(), label

    return {split: sorted(items(split)) for split in source.splits}


def listed(shapes: Path) -> Iterator[tuple[str, str, Path]]:
    """(split, class, file) of the images of `shapes`."""
    for file in sorted(shapes.rglob("*.png")):
        yield file.parts[-3], file.parts[-2], file


@pytest.fixture(scope="module")
def truth(shapes) -> Known:
    return known(folder(shapes))


def refused(make, *words, **options) -> str:
    with pytest.raises(DataError) as caught:
        make(*words, **options)
    return str(caught.value)


# tables


def write(file: Path, rows: list[dict]) -> str:
    with file.open("w", newline="") as stream:
        out = csv.DictWriter(stream, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    return file.name


@pytest.fixture
def kaggle(shapes, tmp_path) -> Path:
    """train.csv with ids and diagnoses, test.csv with ids alone, and the images in two folders."""
    rows = {"train": [], "test": []}
    for name in rows:
        (tmp_path / f"{name}_images").mkdir()
    for i, (split, label, file) in enumerate(listed(shapes)):
        where = "test" if split == "test" else "train"
        (tmp_path / f"{where}_images" / f"{i:04x}.png").write_bytes(file.read_bytes())
        rows[where].append({"id_code": f"{i:04x}"} | ({"diagnosis": label} if where == "train" else {}))
    for name, lines in rows.items():
        write(tmp_path / f"{name}.csv", lines)
    return tmp_path


KAGGLE = {"path_column": "id_code", "target_column": "diagnosis", "folder": "train_images", "suffix": ".png"}


def test_ids_without_extension_in_a_table_of_train_and_one_of_test(kaggle, truth):
    found = table(kaggle, "train.csv", test_table="test.csv", test_folder="test_images", **KAGGLE)
    assert not found.splits["test"].labelled and found.splits["test"].paths[0].startswith("test_images/")
    said = known(found)
    assert [pixels for pixels, _ in said["test"]] == [pixels for pixels, _ in truth["test"]]
    assert sorted(said["train"] + said["val"]) == sorted(truth["train"] + truth["val"])
    assert set(table(kaggle, "train.csv", **KAGGLE).splits) == {"train", "val", "test"}  # else test is cut out of train


def test_a_table_of_test_may_have_labels_and_all_faults_of_both_tables_are_told(kaggle):
    lines = [{"id_code": path, "diagnosis": "left"} for path in ("0018", "0019")]
    name = write(kaggle / "labelled.csv", lines)
    assert table(kaggle, "train.csv", test_table=name, **KAGGLE).splits["test"].labelled
    write(kaggle / "bad.csv", [{"id_code": "ffff"}, {"id_code": "0018"}])
    train = [{"id_code": "0018", "diagnosis": ""}, {"id_code": "0019", "diagnosis": "left"}]
    said = refused(table, kaggle, write(kaggle / "none.csv", train), test_table="bad.csv", **KAGGLE)
    assert "none.csv: 1 row(s)" in said and "no target: row 2" in said
    assert "bad.csv: 1 row(s)" in said and "row 2 ('train_images/ffff.png')" in said
    split = [{**row, "diagnosis": "left", "split": "test"} for row in train]
    said = refused(table, kaggle, write(kaggle / "split.csv", split), test_table="labelled.csv", **KAGGLE)
    assert "has rows of test, too (2)" in said
    assert "data.test_table=tset.csv" in (said := refused(table, kaggle, "train.csv", test_table="tset.csv", **KAGGLE))
    assert "Did you mean test.csv?" in said


def test_a_missing_extension_is_told(kaggle):
    said = refused(table, kaggle, "train.csv", **{**KAGGLE, "suffix": None})
    assert "no such file in data.root, but with .png there is (set data.suffix=.png): row 2" in said


def test_a_parquet_table_is_read_as_a_csv_one(shapes, tmp_path):
    lines = [(str(file.relative_to(shapes)), split, label) for split, label, file in listed(shapes)]
    columns = dict(zip(("path", "split", "target"), map(list, zip(*lines, strict=True)), strict=True))
    parquet.write_table(pyarrow.table({**columns, "thumb": [b""] * len(lines)}), tmp_path / "t.parquet")
    assert known(table(shapes, tmp_path / "t.parquet")) == known(folder(shapes))
    kinds = {
        "path": columns["path"],
        "split": columns["split"],
        "target": [None if i == 30 else float(i) for i in range(len(lines))],
        "labels": [["a", "b"] if i % 2 else [] for i in range(len(lines))],
    }
    parquet.write_table(pyarrow.table(kinds), tmp_path / "kinds.parquet")
    many = table(shapes, tmp_path / "kinds.parquet", ManyClasses())
    assert many.classes == ("a", "b") and set(many.splits["train"].targets) == {(0.0, 0.0), (1.0, 1.0)}
    said = refused(table, shapes, tmp_path / "kinds.parquet", Numbers())
    assert "no target: row 32" in said and "1 row(s)" in said
    (tmp_path / "broken.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:200])
    assert "not a Parquet file, or damaged" in refused(table, shapes, tmp_path / "broken.parquet")
