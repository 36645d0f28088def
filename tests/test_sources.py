"""The same images from a folder, a table, shards, Arrow and torchvision are the same data set."""

import csv
import gzip
import io
import json
import os
import pickle
import shutil
import signal
import struct
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from src.contracts import ConfigError, DataError, Source
from src.data import audit, masks, tar
from src.data.folder import folder
from src.data.huggingface import huggingface
from src.data.images import read, size_of
from src.data.scan import fingerprint, scan
from src.data.table import table
from src.data.tar import Part, Shards
from src.data.torchvision import torchvision
from src.data.webdataset import webdataset
from src.labels import ManyClasses, Masks, Numbers

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


# shards


def pack(file: Path, members: dict[str, bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file


def sharded(shapes: Path, root: Path, label, per_shard: int = 10) -> Path:
    """The images of `shapes` in shards of each split, with the members that `label` gives for a class."""
    for split in ("train", "val", "test"):
        members: dict[str, bytes] = {}
        files = [(name, file) for where, name, file in listed(shapes) if where == split]
        for i, (name, file) in enumerate(files):
            members[f"{i:04d}.png"] = file.read_bytes()
            members |= {f"{i:04d}.{end}": data for end, data in label(name).items()}
            if i % per_shard == per_shard - 1 or i == len(files) - 1:
                pack(root / f"{split}-{i // per_shard:03d}.tar", members)
                members = {}
    return root


@pytest.fixture
def shards(shapes, tmp_path) -> Path:
    return sharded(shapes, tmp_path / "shards", lambda name: {"cls": name.encode()})


def test_shards_are_the_same_images_as_a_folder(shards, truth, tmp_path):
    found = webdataset(shards, tmp_path)
    assert known(found) == truth and found.splits["train"].paths[0] == "train-000.tar/0000.png"
    patterns = {"train": "train-{000..003}.tar", "val": None, "test": None}
    some = webdataset(shards, tmp_path, shards=patterns)
    assert set(some.splits) == {"train", "val"} and sum(map(len, some.splits.values())) == 40
    assert known(pickle.loads(pickle.dumps(found))) == truth  # as it goes to a worker that is spawned


def test_labels_of_shards_are_read_as_the_task_wants_them(shapes, truth, tmp_path):
    number = {"left": "1", "right": "0"}
    named = sharded(shapes, tmp_path / "cls", lambda name: {"cls": number[name].encode()})
    assert known(webdataset(named, tmp_path, classes=["right", "left"])) == truth
    record = {"tags": ["a", "left"], "left": {"x": 1}}
    both = sharded(
        shapes, tmp_path / "json", lambda name: {"json": json.dumps({**record, "tags": ["a", name]}).encode()}
    )
    many = webdataset(both, tmp_path, ManyClasses(), fields="tags")
    assert many.classes == ("a", "left", "right") and {sum(t) for t in many.splits["train"].targets} == {2.0}
    points = sharded(shapes, tmp_path / "txt", lambda name: {"txt": f"{number[name]}.5 {len(name)}".encode()})
    two = webdataset(points, tmp_path, Numbers(), fields=["x", "y"])
    assert two.classes == ("x", "y") and set(two.splits["val"].targets) == {(1.5, 4.0), (0.5, 5.0)}
    blank = sharded(shapes, tmp_path / "blank", lambda name: {"cls": name.encode()})
    pack(blank / "test-000.tar", {"x.png": next(shapes.rglob("*.png")).read_bytes()})
    for other in blank.glob("test-00[12].tar"):
        other.unlink()
    assert not webdataset(blank, tmp_path).splits["test"].labelled


def test_masks_are_members_beside_their_images(shapes, tmp_path):
    mask = io.BytesIO()
    Image.fromarray(np.eye(20, dtype=np.uint8)).save(mask, "PNG")
    root = sharded(shapes, tmp_path / "masks", lambda name: {"mask.png": mask.getvalue()})
    labels = Masks(values={"ground": 0, "line": 1})
    source = masks.check(webdataset(root, tmp_path, labels, target_member="mask.png"), 100)
    assert len(source.splits["train"]) == 48 and "line 5.0 %" in source.notes[-1]
    assert "data.columns.target=mask.png" in refused(webdataset, root, tmp_path, labels)


def test_all_that_is_wrong_with_shards_is_told_at_once(shards, tmp_path):
    png = next(iter(webdataset(shards, tmp_path).splits["train"].paths))
    whole = (shards / "train-000.tar").read_bytes()
    (shards / "train-001.tar").write_bytes(whole[: len(whole) // 2 + 300])
    (shards / "train-002.tar").write_bytes(gzip.compress(whole))
    (shards / "train-003.tar").write_bytes(b"no tar" * 200)
    bad = {"1.png": b"", "2.png": b"", "2.cls": b"up", "3.cls": b"left", "4.png": b"", "4.jpg": b"", "4.cls": b"left"}
    pack(shards / "train-004.tar", bad)
    with tarfile.open(shards / "val-000.tar") as archive:  # cut behind a member, where tarfile itself sees nothing
        end = archive.getmembers()[-1].offset
    (shards / "val-000.tar").write_bytes((shards / "val-000.tar").read_bytes()[:end])
    patterns = {"train": "train-{000..006}.tar", "val": "val-*.tar", "test": "nothing-*.tar"}
    said = refused(webdataset, shards, tmp_path, shards=patterns, classes=["left", "right"])
    lines = dict(line.strip().split(": ", 1) for line in said.split("\n") if line.startswith("  "))
    assert lines["shards that are truncated"] == "train-001.tar, val-000.tar"
    assert [lines[k] for k in lines if "compressed by gzip" in k] == ["train-002.tar"]
    assert [lines[k] for k in lines if "not a tar archive" in k] == ["train-003.tar"]
    assert lines["no such shard (data.shards.train)"] == "train-005.tar, train-006.tar"
    assert lines["no such shard (data.shards.test)"] == "nothing-*.tar"
    assert lines["samples without a label (cls, txt, json)"] == "train-004.tar/1"
    assert lines["samples with no image"] == "train-004.tar/3.cls"
    assert lines["samples with several images (set data.columns.image)"] == "train-004.tar/4.png,jpg,cls"
    assert lines["label 'up', which data.classes, 0 to 1, does not name"] == "train-004.tar/2"
    assert png.startswith("train-000.tar/") and said.count("train-000.tar") == 0
    pack(shards / "unknown.tar", {})
    assert "of no split, or of several, by their names (set data.shards.train): unknown.tar" in refused(
        webdataset, shards, tmp_path
    )


def test_the_index_is_kept_until_the_shard_changes(shards, tmp_path, monkeypatch):
    before = webdataset(shards, tmp_path / "cache")
    monkeypatch.setattr(tar, "_entries", lambda file: pytest.fail(f"{file} was read again"))
    assert webdataset(shards, tmp_path / "cache").splits == before.splits
    os.utime(shards / "val-000.tar", (0, 0))
    with pytest.raises(pytest.fail.Exception, match="val-000.tar was read again"):
        webdataset(shards, tmp_path / "cache")


def test_pieces_are_scanned_audited_and_told_apart_as_files_are(shards, shapes, tmp_path):
    """The same audit; a damaged member is named; a copy in another split is found; what changes is another data set."""
    plain, packed = folder(shapes), webdataset(shards, tmp_path)
    one, two = audit.audit(plain), audit.audit(packed)
    assert (one.short, one.aspect, one.looked, one.copies) == (
        two.short,
        two.aspect,
        two.looked,
        two.copies,
    ) and two.short
    assert fingerprint(packed) == fingerprint(webdataset(shards, tmp_path)) != fingerprint(plain)
    image = next(iter((shapes / "test").rglob("*.png"))).read_bytes()
    pack(shards / "train-005.tar", {"copy.png": image, "copy.cls": b"left", "cut.png": image[:400], "cut.cls": b"left"})
    more = webdataset(shards, tmp_path)
    assert fingerprint(more) != fingerprint(packed)
    with pytest.raises(DataError, match=r"1 of 90 images cannot be decoded:\n  train-005.tar/cut.png: truncated"):
        scan(more, 3, "error", tmp_path)
    left = scan(more, 3, "skip", tmp_path)
    (leak,) = audit.leaks(audit.audit(left))
    assert left.splits["train"].paths[leak[0][1]] == "train-005.tar/copy.png"
    (shards / "train-005.tar").unlink()
    with pytest.raises(DataError, match="train-005.tar/copy.png: no such file"):
        read(left.root / "train-005.tar/copy.png", 3)


def test_an_array_in_a_shard_is_read_as_one_in_a_file(tmp_path):
    data = io.BytesIO()
    np.save(data, np.arange(60, dtype=np.uint8).reshape(4, 3, 5))
    (tmp_path / "a.npy").write_bytes(data.getvalue())
    pack(
        tmp_path / "train.tar", {"a.npy": data.getvalue(), "a.cls": b"x", "b.npy": data.getvalue()[:-9], "b.cls": b"y"}
    )
    names = {name: Part("train.tar", start, size) for name, start, size in tar.index(tmp_path / "train.tar", tmp_path)}
    root = Shards(tmp_path, {"train.tar": 1}, names)
    assert read(root / "a.npy", 5).equal(read(tmp_path / "a.npy", 5)) and size_of(root / "a.npy") == (3, 4)
    with pytest.raises(DataError, match="b.npy: truncated"):
        read(root / "b.npy", 5)


# Arrow


def arrow(file: Path, rows: dict[str, list], names: list[str] | None = None, **kinds) -> Path:
    """As `datasets` writes it: a stream whose metadata tell the names of the classes."""
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    fields = {"image": image, **kinds}
    said = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}} if names else {}}}
    table = pyarrow.table({k: pyarrow.array(v, fields.get(k)) for k, v in rows.items()})
    table = table.replace_schema_metadata({"huggingface": json.dumps(said)})
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        parquet.write_table(table, file)
    else:
        with pyarrow.OSFile(str(file), "wb") as out, pyarrow.ipc.new_stream(out, table.schema) as stream:
            stream.write_table(table, max_chunksize=7)
    return file


NAMES = ["right", "left"]  # not in the order of the alphabet


def tables(shapes: Path, root: Path, ending: str, inside: bool = True) -> Path:
    for split in ("train", "val", "test"):
        files = [(name, file) for where, name, file in listed(shapes) if where == split]
        for part in (0, 1):
            half = len(files) // 2
            some = files[half:] if part else files[:half]
            cells = [{"bytes": f.read_bytes() if inside else None, "path": None if inside else str(f)} for _, f in some]
            rows = {"image": cells, "label": [NAMES.index(name) for name, _ in some]}
            arrow(root / f"{split}-{part:05d}-of-00002.{ending}", rows, NAMES)
    return root


@pytest.mark.parametrize("ending, inside", [("arrow", True), ("parquet", True), ("arrow", False)])
def test_the_images_of_tables_are_those_of_a_folder(shapes, truth, tmp_path, ending, inside):
    found = huggingface(tables(shapes, tmp_path / "root", ending, inside), tmp_path / "cache")
    assert known(found) == truth and found.splits["train"].paths[0] == "train/000000.image"
    assert known(pickle.loads(pickle.dumps(found))) == truth
    assert (tmp_path / "cache" / "arrow").exists() == (ending == "parquet")
    one, two = audit.audit(folder(shapes)), audit.audit(found)
    assert (one.short, one.looked, one.copies) == (two.short, two.looked, two.copies)


def test_what_datasets_saved_is_read():
    """Written by datasets 5.2.0: train (the 8 rows in reverse order), validation, test and extra of 2 rows each."""
    saved = Path(__file__).parent / "saved_by_datasets"
    found = huggingface(saved / "saved", "unused")
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 8, "val": 2, "test": 2}
    assert found.classes == ("alpha", "zero") and found.splits["train"].targets == (0, 1) * 4
    assert all(read(found.root / p, 1)[0, 0, 5] > 150 for p in found.splits["train"].paths[::2])  # bright: alpha
    assert any("'extra'" in note for note in found.notes)
    many = huggingface(saved / "saved", "unused", ManyClasses(), target_column="tags")
    assert many.classes == ("p", "q") and many.splits["train"].targets == ((1.0, 1.0), (1.0, 0.0)) * 4
    one = huggingface(saved / "saved" / "train", "unused", val_size=0.25, test_size=0.25)
    assert {name: len(split) for name, split in one.splits.items()} == {"train": 4, "val": 2, "test": 2}


def test_all_rows_that_cannot_be_used_are_told_and_what_is_no_data_set(shapes, tmp_path):
    png = {"bytes": next(shapes.rglob("*.png")).read_bytes(), "path": None}
    rows = {"image": [png, None, {"bytes": None, "path": None}, png, png, png], "label": [0, 0, 0, None, 7, 1]}
    arrow(tmp_path / "bad" / "data.arrow", rows, NAMES)
    said = refused(huggingface, tmp_path / "bad", tmp_path)
    assert "rows without an image: undivided/000001, undivided/000002" in said and "4 thing(s)" in said
    assert "no target: undivided/000003.image" in said
    assert "label 7, which is none of the 2 names of its ClassLabel: undivided/000004" in said
    said = refused(huggingface, tmp_path / "bad", tmp_path, target_column="kind")
    assert "no column 'kind'. Its columns: image, label" in said
    assert "holds no data set" in (said := refused(huggingface, shapes, tmp_path)) and "save_to_disk" in said
    for name in ("Train", "dev", "validation"):  # of which two mean val
        (tmp_path / "three" / name).mkdir(parents=True)
        state = {"_data_files": [{"filename": "data.arrow"}]}
        (tmp_path / "three" / name / "state.json").write_text(json.dumps(state))
        arrow(tmp_path / "three" / name / "data.arrow", rows, NAMES)
    told = tmp_path / "three" / "dataset_dict.json"
    told.write_text(json.dumps({"splits": ["Train", "dev", "validation"]}))
    assert "'validation' and another split both mean val" in refused(huggingface, tmp_path / "three", tmp_path)
    told.write_text(json.dumps({"splits": ["dev2"]}))
    (tmp_path / "three" / "dev").rename(tmp_path / "three" / "dev2")
    assert "no split is called train, val or test" in refused(huggingface, tmp_path / "three", tmp_path)
    two = {"image": [png], "other": [png], "label": [0]}
    arrow(tmp_path / "two" / "data.arrow", two, NAMES)
    assert "several columns have images: 'image', 'other'" in refused(huggingface, tmp_path / "two", tmp_path)
    (tmp_path / "cut" / "x").mkdir(parents=True)
    (tmp_path / "cut" / "a.parquet").write_bytes(b"PAR1")
    assert "a.parquet: cannot be read" in refused(huggingface, tmp_path / "cut", tmp_path)
    saved = shutil.copytree(Path(__file__).parent / "saved_by_datasets" / "saved", tmp_path / "saved")
    next((saved / "test").glob("*.arrow")).unlink()
    assert "'data-00000-of-00001.arrow' of its files are missing" in refused(huggingface, saved, tmp_path)


def test_without_pyarrow_the_command_is_named(shapes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        huggingface(shapes, tmp_path)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        table(shapes, tmp_path / "t.parquet")


def test_masks_are_a_column_beside_the_images(shapes, tmp_path):
    mask = io.BytesIO()
    Image.fromarray(np.eye(20, dtype=np.uint8)).save(mask, "PNG")
    images = [{"bytes": file.read_bytes(), "path": None} for file in sorted(shapes.rglob("*.png"))[:9]]
    rows = {"image": images, "annotation": [mask.getvalue()] * 9}
    arrow(tmp_path / "masks" / "data.arrow", rows)
    source = huggingface(tmp_path / "masks", tmp_path, Masks(values={"ground": 0, "line": 1}))
    assert "line 5.0 %" in masks.check(source, 100).notes[-1]


@pytest.mark.parametrize("kind", ["png", "npy"])
def test_images_of_16_bits_that_use_few_are_told(tmp_path, kind):
    root = tmp_path / "root"
    for top in (4095, 60_000):
        for i in range(12):
            (folder_of := root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
            array = np.linspace(0, top - i, 64).reshape(8, 8).astype(np.uint16)
            if kind == "npy":
                np.save(folder_of / f"{i}.npy", array[:, :, None])
            else:
                Image.fromarray(array).save(folder_of / f"{i}.png")
        notes = scan(folder(root), 1, "error", tmp_path / "cache").notes
        assert any("4095" in note and "65535" in note for note in notes) == (top == 4095)


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["tif", "png", "jpg"])
def test_the_size_of_a_turned_image_is_that_of_its_pixels(tmp_path, turn, kind):
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.new("RGB", (20, 10)).save(tmp_path / f"a.{kind}", exif=exif)
    height, width = read(tmp_path / f"a.{kind}", 3).shape[1:]
    assert size_of(tmp_path / f"a.{kind}") == (width, height)


# torchvision


def described(shapes: Path, root: Path) -> Path:
    """`shapes` as DTD is laid out: files and lists of them."""
    home = root / "dtd" / "dtd"
    for part in ("images", "labels", "imdb"):
        (home / part).mkdir(parents=True)
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for i, (split, name, file) in enumerate(listed(shapes)):
        (home / "images" / name).mkdir(exist_ok=True)
        shutil.copy(file, home / "images" / name / f"{i:03d}.png")
        lists[split].append(f"{name}/{i:03d}.png")
    for split, files in lists.items():
        (home / "labels" / f"{split}1.txt").write_text("\n".join(files) + "\n")
    return root


def handwritten(root: Path) -> Path:
    """20 images of MNIST's kind for training, 10 for testing: all pixels of the i-th are i, and its digit is i % 2."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, n in (("train", 20), ("t10k", 10)):
        pixels = np.arange(n, dtype=np.uint8).repeat(28 * 28).tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, n, 28, 28) + pixels)
        digits = bytes(i % 2 for i in range(n))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, n) + digits)
    return root


def test_data_sets_of_torchvision_are_read_from_the_disk(shapes, truth, tmp_path):
    found = torchvision(described(shapes, tmp_path / "root"), tmp_path / "cache", "DTD")
    assert known(found) == truth and not (tmp_path / "cache").exists()
    found = torchvision(handwritten(tmp_path / "root"), tmp_path / "cache", "MNIST", val_size=0.2)
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 16, "val": 4, "test": 10}
    assert found.classes == ("0 - zero", "1 - one")
    for path, target in zip(found.splits["test"].paths, found.splits["test"].targets, strict=True):
        pixels = read(found.root / path, 1)
        assert pixels.unique().tolist() == [int(Path(path).stem)] and target == int(Path(path).stem) % 2
    again = torchvision(tmp_path / "root", tmp_path / "cache", "MNIST", val_size=0.2)
    assert again == found
    raw = tmp_path / "root" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    raw.write_bytes(struct.pack(">2i", 2049, 10) + bytes([1] * 10))
    changed = torchvision(tmp_path / "root", tmp_path / "cache", "MNIST", val_size=0.2)
    assert set(changed.splits["test"].targets) == {1}


def test_two_classes_of_one_name_stay_two(tmp_path):
    from src.data.torchvision import _names

    class Named:
        classes = [("crane", "bird"), "crane", "cat", "crane"]

    assert _names(Named) == ["crane bird", "crane 1", "cat", "crane 3"]


def test_what_torchvision_cannot_give_is_said(shapes, tmp_path):
    def said(error: type, name: str, **options) -> str:
        with pytest.raises(error) as caught:
            torchvision(tmp_path, tmp_path / "cache", name, options)
        return str(caught.value)

    assert "Did you mean CIFAR10" in said(ConfigError, "cifar-10")
    assert "torchvision does not find it there (Dataset not found" in (told := said(DataError, "CIFAR10"))
    assert "download=True" in told
    assert "does not take them" in said(ConfigError, "CIFAR10", colour=3)
    described(shapes, tmp_path)
    assert "it has no split train" in said(DataError, "EMNIST")
    with pytest.raises(DataError, match="not a number"):
        torchvision(tmp_path, tmp_path / "cache", "DTD", labels=Numbers())


# whole runs


RUN = ["model.name=test_resnet", "model.pretrained=false", "model.image_size=32", "trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def roots(shapes, tmp_path_factory) -> dict[str, list[str]]:
    """The words of each source that has the images of `shapes`."""
    home = tmp_path_factory.mktemp("roots")
    shards = sharded(shapes, home / "shards", lambda name: {"cls": name.encode()})
    lines = [
        {"path": file.relative_to(shapes).with_suffix("").as_posix(), "split": split, "target": name}
        for split, name, file in listed(shapes)
    ]
    write(home / "t.csv", lines)
    return {
        "folder": ["data=folder", f"data.root={shapes}"],
        "csv": ["data=csv", f"data.root={shapes}", f"data.table={home / 't.csv'}", "data.suffix=.png"],
        "webdataset": ["data=webdataset", f"data.root={shards}"],
        "huggingface": ["data=huggingface", f"data.root={tables(shapes, home / 'arrow', 'arrow')}"],
        "torchvision": ["data=torchvision", f"data.root={described(shapes, home / 'tv')}", "data.dataset=DTD"],
    }


def train(zygote, home: Path, roots: list[str], *more: str, **how) -> Path:
    run = home / "run"
    always = ["data.batch_size=8", "data.flip=0", "trainer.max_epochs=2", f"paths.cache={home / 'cache'}"]
    told = ["logger=[csv]", "recipe=off", "callbacks.last.every_n_train_steps=2", f"run_dir={run}"]
    code = zygote.run(*roots, *RUN, *always, *told, *more, **how)
    assert code == (-9 if how else 0), zygote.screen
    return run


def predictions(run: Path) -> list[tuple]:
    """Those of test, without what the images are called, sorted."""
    with (run / "predictions.csv").open() as stream:
        return sorted(tuple(row.items())[1:] for row in csv.DictReader(stream))


@pytest.fixture(scope="module")
def expected(zygote, roots, tmp_path_factory) -> Path:
    """The folder of a run on the images in files."""
    return train(zygote, tmp_path_factory.mktemp("expected"), roots["folder"])


@pytest.mark.slow
def test_a_run_on_any_source_is_the_run_on_the_folder(zygote, roots, expected, tmp_path):
    """All sources sort these images alike, so the fits are equal to the last bit, with worker processes and without."""
    for name in ("csv", "webdataset", "huggingface", "torchvision"):
        workers = f"data.num_workers={2 * (name in ('webdataset', 'huggingface'))}"
        run = train(zygote, tmp_path / name, roots[name], workers)
        assert predictions(run) == predictions(expected), name
        assert (run / "split.csv").read_text().count("\n") == 89


@pytest.mark.slow
@pytest.mark.parametrize("name, workers", [("webdataset", 2), ("huggingface", 0)])
def test_a_killed_run_on_pieces_resumes_to_the_same_bit(zygote, roots, expected, tmp_path, name, workers):
    words = [*roots[name], "data.cache_gb=0", f"data.num_workers={workers}"]
    fault = {"at": "step", "n": 9, "number": int(signal.SIGKILL)}
    run = train(zygote, tmp_path, words, fault=fault)
    assert zygote.run(f"resume={run}", seed=99) == 0, zygote.screen
    assert 0 < zygote.screen.count("a training step") < 12
    for file in ("metrics.csv", "metrics.json", "model/weights.safetensors"):
        assert (run / file).read_bytes() == (expected / file).read_bytes(), file
    assert predictions(run) == predictions(expected)


@pytest.mark.slow
def test_the_probe_and_what_it_keeps_take_pieces(zygote, roots, tmp_path):
    """recipe=probe reads features, their cache and near-duplicates; without wanting the weights of the hub."""
    small = ["model.name=test_byobnet.glyphs", "model.pretrained=true", "model.image_size=null"]
    for name in ("folder", "webdataset"):
        home = tmp_path / name
        words = [*roots[name], *RUN, *small, "recipe=probe", f"paths.cache={home / 'cache'}", f"run_dir={home / 'run'}"]
        assert zygote.run(*words) == 0, zygote.screen
        assert len(list((home / "cache" / "features").iterdir())) > 0
    assert predictions(tmp_path / "webdataset" / "run") == predictions(tmp_path / "folder" / "run")


@pytest.mark.slow
def test_a_broken_shard_ends_with_3_before_anything_is_kept(zygote, roots, shapes, tmp_path):
    shards = sharded(shapes, tmp_path / "shards", lambda name: {"cls": name.encode()})
    (shards / "val-001.tar").write_bytes((shards / "val-001.tar").read_bytes()[:3000])
    words = ["data=webdataset", f"data.root={shards}", *RUN, f"paths.logs={tmp_path}", f"paths.cache={tmp_path}"]
    assert zygote.run(*words) == 3 and "truncated: val-001.tar" in zygote.screen
    assert zygote.run("data=torchvision", f"data.root={shards}", "data.dataset=CIFAR12", *words[2:]) == 2
    assert "Did you mean CIFAR10" in zygote.screen
