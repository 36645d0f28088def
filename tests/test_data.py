"""What the data room promises: any image is read rightly or refused with a reason; classes and splits never shift."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import pickle
import random
import shutil
import unicodedata
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src import buffers, columns, rng
from src.columns import column, joined, take, texts
from src.contracts import ConfigError, DataError, InputSpec, Source, Split
from src.data import audit
from src.data.folder import folder
from src.data.images import probe, read
from src.data.scan import fingerprint, scan
from src.data.split import NAMES, stratified
from src.data.strata import assigned
from src.data.suspects import without_suspects
from src.data.table import split_table, table
from src.mixed_labels import Mixed


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def picture(path: Path, colour=(200, 30, 40), size=(8, 6), mode="RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def tree(root: Path, *paths: str) -> Path:
    """Small images, no two of which are equal; a path such as train/cat*3 stands for train/cat/0.png to 2.png."""
    for path in paths:
        name, _, count = path.partition("*")
        for file in [f"{name}/{i}.png" for i in range(int(count))] if count else [path]:
            colour = hashlib.sha256(os.fsencode(file)).digest()
            picture(root / file, tuple(colour[:3]), size=(2, 2))
    return root


def splits(source: Source) -> dict[str, int]:
    return {name: len(split) for name, split in source.splits.items()}


def parts_of(source: Source) -> dict[str, str]:
    """path -> split"""
    return {path: name for name, split in source.splits.items() for path in split.paths}


def labels(source: Source) -> dict[str, str]:
    """path -> class name, over all splits."""
    pairs = [pair for split in source.splits.values() for pair in zip(split.paths, split.targets, strict=True)]
    return {path: source.classes[target] for path, target in pairs}


def reason(path: Path, channels: int = 3) -> str:
    """What `read` and `probe` both refuse the file with."""
    said = []
    for function in (read, probe):
        with pytest.raises(DataError) as caught:
            function(path, channels)
        said.append(str(caught.value))
    assert said[0] == said[1] and said[0].startswith(f"{path}: ")
    return said[0].removeprefix(f"{path}: ")


# images


def test_an_image_is_uint8_chw_in_channels_last_memory(tmp_path):
    image = read(picture(tmp_path / "a.png"), 3)
    assert image.dtype == torch.uint8 and image.shape == (3, 6, 8) and image.stride() == (1, 24, 3)
    assert image[:, 0, 0].tolist() == [200, 30, 40]
    image += 1  # the memory is ours


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.zeros((4, 6), np.uint8)
    upright[0, :3] = 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.png", "a.tif", "a.webp"):
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / name, exif=exif, lossless=True)
        assert read(tmp_path / name, 1)[0].numpy().tolist() == upright.tolist(), name


def test_cmyk_becomes_rgb(tmp_path):
    path = picture(tmp_path / "a.jpg", (0, 255, 255, 0), mode="CMYK", quality=100)
    assert np.allclose(read(path, 3)[:, 0, 0], [255, 0, 0], atol=3)
    assert read(path, 4).shape == (4, 6, 8) and read(path, 1).shape == (1, 6, 8)


def test_what_is_transparent_is_white_in_every_mode(tmp_path):
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "byte.png", transparency=0)
    palette.save(tmp_path / "bytes.png", transparency=b"\x00\xff")
    palette.save(tmp_path / "a.gif", transparency=0)
    rgba = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    rgba.putpixel((1, 0), (200, 0, 0, 255))
    rgba.save(tmp_path / "rgba.png")
    Image.fromarray(np.array([[[10, 20, 30], [200, 0, 0]]], np.uint8)).save(
        tmp_path / "rgb.png", transparency=(10, 20, 30)
    )
    for name in ("byte.png", "bytes.png", "a.gif", "rgba.png", "rgb.png"):
        image = read(tmp_path / name, 3)
        assert image[:, 0, 0].tolist() == [255, 255, 255], name
        assert image[:, 0, 1].tolist() == [200, 0, 0], name
        assert read(tmp_path / name, 1)[0, 0].tolist() == [255, 60], name
    half = picture(tmp_path / "half.png", (0, 128), mode="LA")
    assert read(half, 1)[0, 0, 0] == read(half, 3)[2, 0, 0] == 127


def test_two_and_four_channels_keep_the_alpha(tmp_path):
    assert read(picture(tmp_path / "a.png", (9, 8, 7, 6), mode="RGBA"), 4)[:, 0, 0].tolist() == [9, 8, 7, 6]
    assert read(picture(tmp_path / "b.png", (9, 6), mode="LA"), 2)[:, 0, 0].tolist() == [9, 6]
    assert read(picture(tmp_path / "c.png", 9, mode="L"), 4)[:, 0, 0].tolist() == [9, 9, 9, 255]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bit_grey_is_scaled_and_not_clipped_to_white(tmp_path, name):
    Image.fromarray(np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)).save(tmp_path / name)
    for channels in (1, 3):
        assert read(tmp_path / name, channels)[-1, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_32_bit_and_float_grey_are_scaled_or_refused_with_their_range(tmp_path):
    Image.fromarray(np.array([[0, 257, 65535]], np.int32)).save(tmp_path / "i.tif")
    assert read(tmp_path / "i.tif", 1)[0, 0].tolist() == [0, 1, 255]
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(tmp_path / "f.tif")
    assert read(tmp_path / "f.tif", 3)[0, 0].tolist() == [0, 128, 255]
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(tmp_path / "i.tif")
    assert "from 0 to 70000" in reason(tmp_path / "i.tif")
    Image.fromarray(np.array([[0, np.nan]], np.float32)).save(tmp_path / "f.tif")
    assert "must be in 0..1" in reason(tmp_path / "f.tif")


def test_one_bit_grey_and_first_gif_frame_are_read(tmp_path):
    assert read(picture(tmp_path / "a.png", 1, mode="1"), 3)[:, 0, 0].tolist() == [255, 255, 255]
    assert read(tmp_path / "a.png", 2)[:, 0, 0].tolist() == [255, 255]
    frames = [Image.new("L", (3, 3), value) for value in (50, 100)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read(tmp_path / "a.gif", 1)[0, 0, 0] == 50


def test_npy_arrays_may_have_any_number_of_channels(tmp_path):
    path = tmp_path / "a.npy"
    for array, expected in [
        (np.full((4, 5, 7), 9, np.uint8), 9),
        (np.full((4, 5, 7), 65535, ">u2"), 255),
        (np.full((4, 5, 7), 0.5), 128),
        (np.asfortranarray(np.full((4, 5, 7), 9, np.uint8)), 9),
    ]:
        np.save(path, array)
        assert read(path, 7).shape == (7, 4, 5) and (read(path, 7) == expected).all()
    np.save(path, np.zeros((4, 5), np.uint8))
    assert read(path, 1).shape == (1, 4, 5)


@pytest.mark.parametrize(
    "array, words",
    [
        (np.zeros((4, 5, 2), np.uint8), "has 2 channels"),
        (np.zeros((4, 5, 3), np.int64), "is of int64"),
        (np.full((4, 5, 3), 255.0), "must be in 0..1"),
        (np.full((4, 5, 3), np.nan), "must be in 0..1"),
        (np.zeros(4, np.uint8), "shape (4,)"),
        (np.zeros((0, 5, 3), np.uint8), ""),
        (np.array([[{}]]), "Python objects"),
    ],
)
def test_an_unfit_npy_array_is_refused_with_what_it_is(tmp_path, array, words):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    assert words in reason(tmp_path / "a.npy")


def test_a_pickle_named_npy_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    (tmp_path / "a.npy").write_bytes(pickle.dumps(Trap()))
    assert "pickled" in reason(tmp_path / "a.npy") and not (tmp_path / "sprung").exists()


def test_a_picture_cannot_give_five_channels(tmp_path):
    assert ".npy" in reason(picture(tmp_path / "a.png"), 5)


@pytest.mark.parametrize("name", ["a.jpg", "p.jpg", "a.png", "a.bmp", "a.gif", "a.webp", "a.tif", "a.ppm", "a.npy"])
def test_a_truncated_file_of_any_format_is_refused_by_read_and_probe(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    if name == "a.npy":
        np.save(tmp_path / name, noise)
    else:
        Image.fromarray(noise).save(tmp_path / name, progressive=name == "p.jpg")
    data = (tmp_path / name).read_bytes()
    probe(tmp_path / name, 3)
    for part in (0.3, 0.6, 0.95):
        (tmp_path / name).write_bytes(data[: int(len(data) * part)])
        assert "truncated" in reason(tmp_path / name)


def test_what_is_no_image_is_refused_with_a_readable_reason(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"<!DOCTYPE html><p>404")
    assert reason(path) == "not an image (it starts with '<!DOCTYPE html><')"
    path.write_bytes(b"")
    assert reason(path) == "empty file (0 bytes)"
    path.write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1")
    assert "HEIC" in reason(path)
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    assert "not an image" in reason(path)
    assert reason(tmp_path / "none.jpg") == "no such file"
    assert "folder" in reason(tmp_path)


def test_a_wrong_extension_does_not_matter_but_a_decompression_bomb_does(tmp_path, monkeypatch):
    picture(tmp_path / "a.png", size=(20, 20)).rename(tmp_path / "a.jpg")
    assert read(tmp_path / "a.jpg", 3).shape == (3, 20, 20)
    np.save(tmp_path / "a.npy", np.zeros((20, 20, 3), np.uint8))
    for limit in (300, 100):  # Pillow warns in the first case, raises in the second
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for action in ("error", "ignore"):
            with warnings.catch_warnings():
                warnings.simplefilter(action)
                assert "scale it down" in reason(tmp_path / "a.jpg") and "scale it down" in reason(tmp_path / "a.npy")


# splits


def test_a_stratified_split_gives_each_class_its_part():
    targets = ["a"] * 100 + ["b"] * 20 + ["c"] * 3 + ["d"] * 2 + ["e"]
    given = stratified(targets, {"val": 0.15, "test": 0.1}, seed=0)
    count = Counter(zip(targets, [("train", "val", "test")[i] for i in given], strict=True))
    assert [count["a", name] for name in ("train", "val", "test")] == [75, 15, 10]
    assert [count["b", name] for name in ("train", "val", "test")] == [15, 3, 2]
    assert [count["c", name] for name in ("train", "val", "test")] == [1, 1, 1]
    assert [count["d", name] for name in ("train", "val", "test")] == [1, 1, 0]
    assert [count["e", name] for name in ("train", "val", "test")] == [1, 0, 0]
    assert sorted(stratified("aaa", {"val": 0.6, "test": 0.3}, seed=0)) == [0, 1, 2]


def test_a_split_is_a_function_of_its_seed_and_leaves_global_randomness_alone():
    targets = [0, 1] * 30
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    one, same, other = (stratified(targets, {"val": 0.2}, seed=seed).tolist() for seed in (1, 1, 2))
    assert one == same != other
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@pytest.fixture(params=["memory", "files"])
def held(request, monkeypatch):
    """Where columns are; what is in files goes through as many pieces as that of large tables does."""
    if request.param == "files":
        for where, name, value in (buffers, "LARGE", 1), (buffers, "CHUNK", 7), (columns, "CHUNK", 2):
            monkeypatch.setattr(where, name, value)
        monkeypatch.setattr(columns, "SORTED", 100)


def test_a_split_and_an_order_are_the_same_in_all_versions_and_where_they_are_in_files(held):
    told = stratified([None] * 20, {"val": 0.2, "test": 0.2}, seed=0)
    assert "".join("rae"[i] for i in told) == "rreaererrrrararrarre"
    assert rng.permutation(10, 0, "order", 3).tolist() == [9, 1, 5, 8, 0, 7, 6, 4, 3, 2]


@pytest.mark.parametrize("folds", range(2, 12))
@pytest.mark.parametrize(("classes", "each"), [(1, 40), (3, 20), (25, 4), (10, 7)])
def test_folds_are_as_large_as_each_other(folds, classes, each):
    strata = [(c,) for c in range(classes) for _ in range(each)]
    found = assigned(strata, {f"{i}": 1 / folds for i in range(1, folds)}, seed=0)
    sizes = [found.count(name) for name in ("train", *map(str, range(1, folds)))]
    assert max(sizes) - min(sizes) <= 1


def test_there_may_be_more_folds_than_a_byte_counts(tmp_path):
    root = tree(tmp_path, "a*70", "b*70")
    assert len(folder(root, fold=3, folds=140).splits["val"])


def test_equal_files_are_never_cut_apart_and_other_images_are_divided_as_without_them(tmp_path, monkeypatch):
    root, copies = tree(tmp_path, "a*12", "b*12"), [f"{name}/{i}.png" for name in "ab" for i in (20, 21, 22)]
    plain, names = folder(root), stratified([0] * 12 + [1] * 12, {"val": 0.15, "test": 0.15}, seed=0)
    names = [("train", "val", "test")[i] for i in names]
    paths = sorted(f"{c}/{i}.png" for c in "ab" for i in range(12))
    assert parts_of(plain) == dict(zip(paths, names, strict=True))
    assert not any("copies" in note for note in plain.notes)
    for path in copies:
        shutil.copy(root / "a/0.png", root / path)  # three of them under another label
    for how in [{"split_seed": i} for i in range(4)] + [{"fold": i, "folds": 3} for i in range(3)]:
        source = folder(root, **how)
        where = parts_of(source)
        if how == {"split_seed": 0}:
            assert {path: where[path] for path in paths} == parts_of(plain)
        assert len(where) == 30 and {where[path] for path in copies} == {where["a/0.png"]}, how
        assert any("6 of them are copies of others" in note for note in source.notes)
        assert not source.splits["train"].groups, "what is held out of train is dealt out by class, as before"
        assert not audit.leaks(audit.audit(source))
    monkeypatch.setattr("src.data.split.COMPARED", 29)
    told = folder(root).notes
    assert any("Of more than 29 images equal files are not looked for" in note for note in told)
    for path in tree(tmp_path / "same", "a*4", "b*4").glob("*/*"):
        path.write_bytes((root / "a/0.png").read_bytes())
    with pytest.raises(DataError, match="7 of them are copies of others"):
        folder(tmp_path / "same")


def test_split_folders_have_other_names_too_and_folders_of_classes_may_be_called_alike(tmp_path):
    source = folder(tree(tmp_path / "1", "Training/a*4", "Training/b*4", "Validate/a*2", "Testing/b*2"))
    assert splits(source) == {"train": 8, "val": 2, "test": 2}
    source = folder(tree(tmp_path / "2", "cat/indoors*9", "cat/outdoors*9", "dog/indoors*9", "dog/outdoors*9"))
    assert source.classes == ("cat", "dog")


@pytest.mark.parametrize("fractions", [{"val": 0.5, "test": 0.5}, {"val": -0.1}, {"val": 2}])
def test_fractions_that_leave_nothing_for_train_are_refused(fractions):
    with pytest.raises(ConfigError, match="val_size"):
        stratified([0, 1], fractions, 0)


# folders


def test_class_folders_are_divided_into_three_splits_with_one_class_list(tmp_path):
    source = folder(tree(tmp_path, "dog*20", "cat*20", "cat/deep/er/x.png"), split_seed=3)
    assert source.classes == ("cat", "dog") and splits(source) == {"train": 29, "val": 6, "test": 6}
    assert all(label == path.split("/")[0] for path, label in labels(source).items()) and len(labels(source)) == 41
    assert "cat/deep/er/x.png" in labels(source)
    assert all(list(split.paths) == sorted(split.paths) for split in source.splits.values())
    assert source == folder(tmp_path, split_seed=3) != folder(tmp_path, split_seed=4)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "dev", "Val"])
def test_the_users_own_splits_are_taken(tmp_path, val):
    source = folder(tree(tmp_path, "train/b*3", "train/a*3", f"{val}/a*2", f"{val}/b*1", "test/b*1"))
    assert splits(source) == {"train": 6, "val": 3, "test": 1} and source.classes == ("a", "b")
    assert source.splits["val"].targets == (0, 0, 1) and source.splits["test"].targets == (1,)
    assert any("test has no image of 1 class(es): 'a'" in note for note in source.notes)


def test_val_is_cut_out_of_train_and_a_missing_test_is_said(tmp_path):
    source = folder(tree(tmp_path / "1", "train/a*10", "train/b*10", "test/a*2", "test/b*2"), val_size=0.2)
    assert splits(source) == {"train": 16, "val": 4, "test": 4}
    assert all(path.startswith("train/") for path in source.splits["val"].paths)
    source = folder(tree(tmp_path / "2", "train/a*3", "train/b*3", "val/a*2", "val/b*2"))
    assert splits(source) == {"train": 6, "val": 4} and any("no test split" in note for note in source.notes)


def test_hidden_files_and_tool_folders_are_no_classes(tmp_path):
    tree(tmp_path, "train/a*2", "train/b*2", "val/a*1", "val/b*1", ".git/x.png", "train/.ipynb_checkpoints/x.png")
    tree(tmp_path, "__MACOSX/a/x.png", "train/__MACOSX/x.png", "train/a/.ipynb_checkpoints/x.png", "train/a/._0.png")
    (tmp_path / "train/a/Thumbs.db").touch()
    (tmp_path / "train/.DS_Store").touch()
    source = folder(tmp_path)
    assert source.classes == ("a", "b") and splits(source) == {"train": 4, "val": 2}
    assert [note for note in source.notes if "Left out" in note] == []


def test_what_is_left_out_is_said(tmp_path):
    tree(tmp_path, "train/a*2", "train/b*2", "val/a*1", "train/lost.png", "extra/x.png")
    for name in ("1.txt", "2.TXT", "3.heic"):
        (tmp_path / "train/a" / name).touch()
    (tmp_path / "train/nothing").mkdir()
    notes = "\n".join(folder(tmp_path).notes)
    assert "3 file(s)" in notes and "'.txt' (2)" in notes and "'.heic' (1)" in notes
    assert "1 class(es) without any image: 'nothing'" in notes
    assert "'train/lost.png'" in notes and "'extra'" in notes


def test_an_empty_class_folder_does_not_shift_the_classes(tmp_path):
    tree(tmp_path, "train/a*2", "train/c*2", "val/a*1", "val/c*1")
    (tmp_path / "train/b").mkdir()
    (tmp_path / "val/b").mkdir()
    source = folder(tmp_path)
    assert source.classes == ("a", "c") and source.splits["val"].targets == (0, 1)


@pytest.mark.parametrize(
    "paths, words",
    [
        (["train/a*2", "train/b*2", "val/a*1", "test/c*3"], ["test has 1 class", "'c' (3 images)", "'a', 'b'"]),
        (["train/a*2", "val/a*1"], ["one class only, 'a'"]),
        (["a*5"], ["one class only, 'a'"]),
        (["x.png", "y.png"], ["2 images, but not in class folders", "ROOT/CLASS"]),
        (["train/x.png", "test/x.png"], ["no class folders", "'train'"]),
        (["train/a*2", "train/b*2", "val/a*1", "dev/a*1"], ["'dev' and 'val' both mean val"]),
        (["cat*3", "Cat*3"], ["'Cat'", "'cat'", "upper and lower case"]),
        (["1*3", "1.0*3"], ["'1'", "'1.0'", "how a number is written"]),
        (["caf\N{LATIN SMALL LETTER E WITH ACUTE}*2", "cafe\N{COMBINING ACUTE ACCENT}*2"], ["xe9", "u0301", "accent"]),
        ([], ["no images", "ROOT/CLASS"]),
        (["a*1", "b*1"], ["val_size=0.15", "2 images"]),
        (["images/a*4", "images/b*4"], ["one class folder, 'images'", "'a', 'b'", "data.root=", "/images"]),
        (
            ["seg_train/a*4", "seg_train/b*4", "seg_test/a*2", "seg_test/b*2"],
            ["'seg_test', 'seg_train'", "to be splits"],
        ),
        (["a*4", "b*4", "b/caf\udce9.png"], ["'caf\\udce9.png'", "not UTF-8", "Rename"]),
    ],
)
def test_a_folder_that_cannot_be_learnt_from_is_refused(tmp_path, paths, words):
    with pytest.raises(DataError) as caught:
        folder(tree(tmp_path, *paths))
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_class_whose_train_folder_is_empty_is_refused(tmp_path):
    tree(tmp_path, "train/a*2", "train/b*2", "val/c*2")
    (tmp_path / "train/c").mkdir()
    with pytest.raises(DataError, match=r"train has no image: 'c' \(2 images\)"):
        folder(tmp_path)
    tree(tmp_path / "2", "val/a*1", "val/b*1")
    for name in ("a", "b"):
        (tmp_path / "2/train" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="no images to train on"):
        folder(tmp_path / "2")


def test_a_missing_root_is_answered_with_the_nearest_one(tmp_path):
    tree(tmp_path, "Flowers/a*1")
    with pytest.raises(DataError, match="Did you mean .*Flowers"):
        folder(tmp_path / "flower")
    with pytest.raises(DataError, match=f"nearest folder that exists is {tmp_path}"):
        folder(tmp_path / "zebra/x/y")
    with pytest.raises(DataError, match="is a file"):
        folder(tmp_path / "Flowers/a/0.png")


def test_a_class_may_be_called_train(tmp_path):
    assert folder(tree(tmp_path, "train*4", "bus*4")).classes == ("bus", "train")


def test_symlink_loops_end_and_other_links_are_followed(tmp_path):
    tree(tmp_path / "real", "a*4", "b*4")
    tree(tmp_path / "elsewhere", "deep/x.png")
    os.symlink(tmp_path / "real", tmp_path / "real/loop")
    os.symlink(tmp_path / "real", tmp_path / "real/a/up")
    os.symlink(tmp_path / "real/a", tmp_path / "real/a/self")
    os.symlink(tmp_path / "elsewhere", tmp_path / "real/c")
    os.symlink(tmp_path / "elsewhere", tmp_path / "real/d")
    found = labels(folder(tmp_path / "real"))
    assert len(found) == 10 and found["c/deep/x.png"] == "c" and found["d/deep/x.png"] == "d"


@pytest.mark.parametrize("name", ["two words", "ünï", "🦊", "a'b\"c", "line\nbreak", "x" * 200, "-1", "None", "=cmd"])
def test_odd_class_names_are_kept_as_they_are(tmp_path, name):
    name = unicodedata.normalize("NFC", name)
    source = folder(tree(tmp_path, f"{name}/1.png", f"{name}/2.png", "zz*2"))
    assert name in source.classes and labels(source)[f"{name}/1.png"] == name


# tables


def write_table(root: Path, rows: list[list], header=("path", "target"), delimiter=",", encoding="utf-8") -> str:
    with open(root / "t.csv", "w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return "t.csv"


def test_the_centre_of_a_sliver_is_seen_without_enlarging_all_of_it(monkeypatch):
    import torchvision.transforms.v2.functional as F

    from src.data.transforms import evaluation

    spec, seen, resize = InputSpec((32, 32), 1, (0.5,), (0.5,), "bilinear", 1.0), [], F.resize
    monkeypatch.setattr(F, "resize", lambda image, size, *a, **k: seen.append(size) or resize(image, size, *a, **k))
    for shape in ((1, 2000), (2000, 1)):
        ramp = torch.linspace(0, 255, 2000).round().to(torch.uint8).reshape(1, *shape)
        view = evaluation(spec, "crop")(ramp)
        assert view.shape == (1, 32, 32) and max(seen[-1]) <= 8 * 32 and abs(float(view.float().mean()) - 127.5) < 1
    whole = torch.randint(0, 256, (1, 40, 200), dtype=torch.uint8)
    expected = F.center_crop(resize(whole, [32, 160], antialias=True), [32, 32])
    assert torch.equal(evaluation(spec, "crop")(whole), expected)


@pytest.mark.parametrize("delimiter, encoding", [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8-sig")])
def test_a_table_is_read_with_any_separator_and_a_byte_order_mark(tmp_path, delimiter, encoding):
    tree(tmp_path, "img/ü, 1.png", *(f"img/{i}.png" for i in range(9)))
    rows = [["img/ü, 1.png", "a; b"], *([f"img/{i}.png", ("a; b", "c")[i % 2]] for i in range(9))]
    source = table(tmp_path, write_table(tmp_path, rows, delimiter=delimiter, encoding=encoding))
    assert source.classes == ("a; b", "c") and labels(source)["img/ü, 1.png"] == "a; b" and len(labels(source)) == 10
    assert set(source.splits) == {"train", "val", "test"} and "Left out" not in "".join(source.notes)
    assert table(tmp_path, tmp_path / "t.csv") == source


def test_the_tables_own_splits_and_columns_are_taken(tmp_path):
    tree(tmp_path, *(f"{i}.png" for i in range(8)))
    words = ["train", "Train", "train", "train", "valid", "dev", "test", "test"]
    rows = [[word, "ab"[i % 2], f"{i}.png", "x"] for i, word in enumerate(words)]
    name = write_table(tmp_path, rows, header=("part", "kind", "file", "more"))
    source = table(tmp_path, name, path_column="file", target_column="kind", split_column="part")
    assert splits(source) == {"train": 4, "val": 2, "test": 2} and source.splits["val"].paths == ("4.png", "5.png")
    rows = [[word.replace("valid", "train").replace("dev", "train"), *row] for word, *row in rows]
    name = write_table(tmp_path, rows, header=("split", "target", "path", "more"))
    assert splits(table(tmp_path, name, val_size=0.3)) == {"train": 4, "val": 2, "test": 2}


def refusal(root: Path, name: str, **options) -> str:
    with pytest.raises(DataError) as caught:
        table(root, name, **options)
    return str(caught.value)


def test_a_test_split_has_labels_for_all_its_images_or_for_none(tmp_path):
    tree(tmp_path, *(f"{name}.png" for name in "abcdef"))
    rows = [["a.png", "x", "train"], ["b.png", "y", "train"], ["c.png", "x", "val"], ["d.png", "y", "val"]]
    header = ("path", "target", "split")
    source = table(tmp_path, write_table(tmp_path, [*rows, ["e.png", "", "test"], ["f.png", "nan", "test"]], header))
    assert not source.splits["test"].labelled and source.splits["val"].labelled
    assert "".join(split_table(source)).splitlines()[-1].startswith("f.png,test,,")
    said = refusal(tmp_path, write_table(tmp_path, [*rows, ["e.png", "", "test"], ["f.png", "x", "test"]], header))
    assert "row 6" in said and "others of test have one" in said and "row 7" not in said
    assert "no target: row 5" in refusal(tmp_path, write_table(tmp_path, [*rows[:3], ["d.png", "", "val"]], header))


def test_all_faults_of_a_table_are_listed_with_their_rows(tmp_path):
    tree(tmp_path, "root/a.png", "root/b.png", "root/c.png", "out/x.png")
    root = tmp_path / "root"
    os.symlink(tmp_path / "out/x.png", root / "link.png")
    os.symlink(tmp_path / "out", root / "linked")
    os.symlink(root / "a.png", root / "fine.png")
    rows = [
        ["a.png", "cat", "train"],
        ["b.png", "", "train"],
        ["c.png", "NaN", "train"],
        ["none.png", "cat", "train"],
        [str(root / "c.png"), "cat", "train"],
        ["../out/x.png", "cat", "train"],
        ["link.png", "cat", "train"],
        ["linked/x.png", "cat", "train"],
        ["./a.png", "dog", "train"],
        ["a.png", "cat", "val"],
        ["c.png", "cat", "holdout"],
        ["", "cat", "train"],
        ["c.png", "cat"],
        ["fine.png", "cat", "train"],
    ]
    said = refusal(root, write_table(root, rows, header=("path", "target", "split")))
    lines = dict(line.strip().split(": ", 1) for line in said.split("\n") if line.startswith("  "))
    assert "11 row(s)" in said and "row 15" not in said
    assert "row 3" in lines["no target"] and "row 4" in lines["no target"]
    assert lines["no such file in data.root"] == "row 5 ('none.png')"
    assert [f"row {row} " in lines["absolute or with '..'; paths are relative to data.root"] for row in (6, 7)] == [
        True
    ] * 2
    assert [f"row {row} " in lines["a link that leads out of data.root; copy the file into it"] for row in (8, 9)] == [
        True
    ] * 2
    assert lines["one image with two targets"] == "rows 2 and 10 ('a.png': cat, dog)"
    assert lines[f"split is none of {', '.join(NAMES)}"] == "row 12 ('holdout')"
    assert "row 13" in lines["no path"] and lines["not 3 cells, as in the header"] == "row 14 (2)"


def test_what_divides_nothing_is_said(tmp_path):
    given = folder(tree(tmp_path / "given", "train/a*3", "train/b*3", "val/a*1", "val/b*1"), val_size=0.3, split_seed=4)
    assert any("data.val_size=0.3 data.split_seed=4: divides nothing" in note for note in given.notes)
    whole = folder(tree(tmp_path / "whole", "a*9", "b*9"), val_size=0.3, split_seed=4)
    assert not any("divides nothing" in note for note in whole.notes)


def test_an_image_in_two_splits_is_a_leak(tmp_path):
    for i in range(6):
        Image.fromarray(np.full((2, 2, 3), 40 * i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    rows = [*([f"{i}.png", "ab"[i % 2], "train"] for i in range(6)), ["0.png", "a", "test"], ["1.png", "b", "val"]]
    source = table(tmp_path, write_table(tmp_path, rows, header=("path", "target", "split")))
    pairs = audit.leaks(audit.audit(source))
    assert sorted(pairs) == [(("train", 0), ("test", 0)), (("train", 1), ("val", 0))]
    assert splits(audit.without_leaks(source, pairs, "drop")) == {"train": 4, "val": 1, "test": 1}


def test_only_ten_rows_of_a_fault_are_listed_but_all_are_counted(tmp_path):
    said = refusal(tmp_path, write_table(tmp_path, [[f"{i}.png", "a"] for i in range(30)]))
    assert "row 11 " in said and "row 12 " not in said and "(30 in all)" in said


def test_a_missing_column_or_table_is_answered_with_the_nearest(tmp_path):
    tree(tmp_path, "a.png")
    name = write_table(tmp_path, [["a.png", "x"]], header=("Path", "label"))
    said = refusal(tmp_path, name)
    assert "no column 'path'" in said and "Path, label" in said and "data.columns.path=Path" in said
    assert "no column 'part'" in refusal(tmp_path, name, path_column="Path", target_column="label", split_column="part")
    assert "Did you mean t.csv?" in refusal(tmp_path, "tt.csv")
    (tmp_path / "t.csv").write_text("")
    assert "the file is empty" in refusal(tmp_path, name)
    (tmp_path / "t.csv").write_bytes("path,target\nü.png,a".encode("latin-1"))
    assert "UTF-8" in refusal(tmp_path, name)


def test_a_repeated_row_is_kept_once_and_said(tmp_path):
    tree(tmp_path, *(f"{i}.png" for i in range(8)))
    rows = [[f"{i}.png", "ab"[i % 2]] for i in range(8)]
    source = table(tmp_path, write_table(tmp_path, [*rows, [], rows[0]]))
    assert len(labels(source)) == 8 and any("row 11" in note for note in source.notes)


def test_a_table_obeys_the_same_class_rules_as_folders(tmp_path):
    tree(tmp_path, *(f"{i}.png" for i in range(4)))
    rows = [["0.png", "a", "train"], ["1.png", "b", "train"], ["2.png", "a", "val"], ["3.png", "c", "test"]]
    assert "'c' (1 images)" in refusal(tmp_path, write_table(tmp_path, rows, header=("path", "target", "split")))
    assert "one class only" in refusal(tmp_path, write_table(tmp_path, [[f"{i}.png", "a"] for i in range(4)]))


# scan


def cut(path: Path) -> Path:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(data, "JPEG")
    path.write_bytes(data.getvalue()[:700])
    return path


@pytest.fixture
def source(tmp_path) -> Source:
    return folder(tree(tmp_path / "data", "train/a*3", "train/b*3", "val/a*2", "val/b*2"))


def test_a_truncated_jpeg_is_listed_with_its_reason(source, tmp_path):
    cut(source.root / "train/a/1.png")
    (source.root / "val/b/0.png").write_bytes(b"")
    (source.root / "val/b/1.png").unlink()
    with pytest.raises(DataError) as caught:
        scan(source, 3, "error", tmp_path / "cache")
    said = str(caught.value)
    assert "3 of 10 images" in said and "train/a/1.png: truncated" in said and "val/b/1.png: no such file" in said
    assert "val/b/0.png: empty file (0 bytes)" in said and "data.bad_images=skip" in said


def test_only_twenty_bad_files_are_listed_but_all_are_counted(tmp_path):
    source = folder(tree(tmp_path, "train/a*30", "train/b*2", "val/a*1"))
    for path in source.splits["train"].paths[:25]:
        (tmp_path / path).write_bytes(b"x")
    with pytest.raises(DataError, match="25 of 33 images") as caught:
        scan(source, 3, "error", tmp_path / "cache")
    assert str(caught.value).count("not an image") == 20 and "and 5 more" in str(caught.value)


def test_skip_leaves_bad_images_out_and_says_so(source, tmp_path):
    cut(source.root / "train/a/1.png")
    for _ in range(2):  # the second time from the cache
        left = scan(source, 3, "skip", tmp_path / "cache")
        assert splits(left) == {"train": 5, "val": 4} and left.splits["train"].targets == (0, 0, 1, 1, 1)
        assert "train/a/1.png" not in labels(left) and labels(left).items() <= labels(source).items()
        assert "1 image(s)" in left.notes[-1] and "train/a/1.png: truncated" in left.notes[-1]
    with pytest.raises(DataError):
        scan(source, 3, "error", tmp_path / "cache")


def test_an_error_is_never_taken_from_the_cache(source, tmp_path, monkeypatch):
    def away(path, channels):
        raise DataError(f"{path}: the network is away")

    with monkeypatch.context() as patch:
        patch.setattr("src.data.scan.probe", lambda path, _: away(path, _) if path.name == "2.png" else None)
        with pytest.raises(DataError, match="the network is away"):
            scan(source, 3, "error", tmp_path / "cache")
        assert not (tmp_path / "cache").exists()
        assert splits(scan(source, 3, "skip", tmp_path / "cache")) == {"train": 4, "val": 4}
    assert scan(source, 3, "error", tmp_path / "cache") == source
    assert scan(source, 3, "skip", tmp_path / "cache") == source


def test_skip_refuses_to_empty_a_class_or_a_split(source, tmp_path):
    for i in range(3):
        cut(source.root / f"train/a/{i}.png")
    with pytest.raises(DataError, match="no training image of 'a'"):
        scan(source, 3, "skip", tmp_path / "cache")
    for path in source.splits["val"].paths:
        cut(source.root / path)
    with pytest.raises(DataError, match="none of the 4 images of val"):
        scan(source, 3, "skip", tmp_path / "cache")


def test_a_good_scan_is_remembered_until_a_file_or_the_channels_change(source, tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr("src.data.scan.probe", lambda path, channels: looked.append(path))
    for expected in (10, 10):
        assert scan(source, 3, "error", tmp_path / "cache") == source and len(looked) == expected
    assert len(list((tmp_path / "cache").iterdir())) == 1
    scan(source, 1, "error", tmp_path / "cache")
    assert len(looked) == 20
    os.utime(source.root / "train/a/0.png", ns=(1, 1))
    scan(source, 3, "error", tmp_path / "cache")
    assert len(looked) == 30


@pytest.mark.parametrize("content", ["", "{", "[]", '{"bad": 3}', "{}"])
def test_a_damaged_cache_is_not_believed(source, tmp_path, content):
    scan(source, 3, "error", tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_text(content)
    assert scan(source, 3, "error", tmp_path / "cache") == source
    assert json.loads(file.read_text()) == {"bad": {}}


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(source, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert scan(source, 3, "error", tmp_path / "file" / "cache") == source

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert scan(source, 3, "error", tmp_path / "cache") == source and list((tmp_path / "cache").iterdir()) == []


def test_above_the_limit_a_sample_is_checked_and_said(source, tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr("src.data.scan.probe", lambda path, channels: looked.append(path))
    assert "4 of 10 images" in scan(source, 3, "error", tmp_path / "cache", limit=4).notes[-1]
    assert len(set(looked)) == 4


def test_a_word_other_than_error_and_skip_is_refused(source, tmp_path):
    with pytest.raises(ConfigError, match="data.bad_images=ignore"):
        scan(source, 3, "ignore", tmp_path)


def test_the_fingerprint_changes_with_anything_that_matters_and_nothing_else(source):
    one = fingerprint(source)
    os.utime(source.root / "train/a/0.png", ns=(1, 1))
    assert one == fingerprint(replace(source, notes=("x",)))
    train, val = source.splits["train"], source.splits["val"]
    others = [
        replace(source, classes=("a", "c")),
        replace(source, splits={"train": train, "validation": val}),
        replace(source, splits={"train": replace(train, targets=train.targets[::-1]), "val": val}),
        replace(source, splits={"train": replace(train, paths=train.paths[::-1]), "val": val}),
    ]
    prints = {one, *map(fingerprint, others)}
    cut(source.root / "train/a/0.png")
    prints.add(fingerprint(source))
    (source.root / "train/a/0.png").unlink()
    assert len({*prints, fingerprint(source)}) == 7


@pytest.fixture
def copied(tmp_path):
    """12 images of two classes in each split; a/0.png of train is also in test, b/0.png of val is in test under a."""
    draw = np.random.default_rng(0)
    for split, n in (("train", 4), ("val", 4), ("test", 4)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(draw.integers(0, 255, (10, 20, 3), dtype=np.uint8)).save(
                    tmp_path / split / name / f"{i}.png"
                )
    shutil.copy(tmp_path / "train" / "a" / "0.png", tmp_path / "test" / "a" / "copy.png")
    shutil.copy(tmp_path / "val" / "b" / "0.png", tmp_path / "test" / "a" / "other.png")
    return folder(tmp_path)


def test_the_audit_counts_what_there_is(copied):
    found = audit.audit(copied)
    assert found.images == {"train": 8, "val": 8, "test": 10} and found.counts == (4, 4)
    assert found.short == (10, 10, 10) and found.aspect == (2, 2, 2)
    assert len(found.copies) == 2 and audit.contradictions(copied, found) == 1
    assert "2 classes of 4 to 4 training images" in audit.card(copied, found)[0]


def test_copies_of_which_the_same_is_unknown_do_not_contradict_each_other(tmp_path):
    tree(tmp_path, "x*9")
    shutil.copy(tmp_path / "x" / "0.png", tmp_path / "x" / "9.png")
    rows = [f"x/{i}.png,{'' if i in (0, 9) else i},{i % 2}" for i in range(10)]
    (tmp_path / "t.csv").write_text("\n".join(["path,a,b", *rows]))
    kinds = Mixed(heads={"a": "regression", "b": "multiclass"})
    source = table(tmp_path, "t.csv", kinds)
    found = audit.audit(source)
    assert len(found.copies) == 1 and audit.contradictions(source, found) == 1, "b differs"
    rows[9] = "x/9.png,,0"
    (tmp_path / "t.csv").write_text("\n".join(["path,a,b", *rows]))
    source = table(tmp_path, "t.csv", kinds)
    assert audit.contradictions(source, audit.audit(source)) == 0


def test_an_image_that_was_learnt_before_it_is_tested_is_told_refused_or_dropped(copied):
    pairs = audit.leaks(audit.audit(copied))
    paths = {(copied.splits[s].paths[i], copied.splits[t].paths[j]) for (s, i), (t, j) in pairs}
    assert paths == {("train/a/0.png", "test/a/copy.png"), ("val/b/0.png", "test/a/other.png")}
    warned = audit.without_leaks(copied, pairs, "warn")
    assert warned.splits == copied.splits and "LEAK" in warned.notes[-1] and "train/a/0.png" in warned.notes[-1]
    with pytest.raises(DataError, match=r"data\.leak=drop"):
        audit.without_leaks(copied, pairs, "error")
    dropped = audit.without_leaks(copied, pairs, "drop")
    assert {n: len(s) for n, s in dropped.splits.items()} == {"train": 7, "val": 7, "test": 10}
    assert not audit.leaks(audit.audit(dropped))
    assert audit.table(copied, pairs).count("\n") == 3
    assert audit.without_leaks(copied, [], "error") is copied


def test_dropping_copies_never_empties_a_class(copied):
    every = [(("train", i), ("test", 0)) for i, target in enumerate(copied.splits["train"].targets) if target == 0]
    with pytest.raises(DataError, match="no image of 'a'"):
        audit.without_leaks(copied, every, "drop")


# columns


def test_what_is_left_out_for_its_label_is_told_and_so_is_that_nothing_is(source, tmp_path):
    assert without_suspects(source, tmp_path, "keep") == source
    assert "no training image is left out" in without_suspects(source, tmp_path, "drop").notes[-1]
    (tmp_path / "suspects.csv").write_text("path,label,left out\ntrain/a/0.png,a,yes\ntrain/a/1.png,a,no\n")
    found = without_suspects(source, tmp_path, "drop")
    assert splits(found) == {"train": 5, "val": 4} and "1 training images are left out" in found.notes[-1]
    (tmp_path / "suspects.csv").write_text("path,label\ntrain/a/0.png,a\n")  # doubtful, but not so that it is wrong
    found = without_suspects(source, tmp_path, "drop")
    assert splits(found)["train"] == 6 and "no training image is left out" in found.notes[-1]


def test_a_row_costs_its_path_and_a_few_bytes_and_is_what_it_was():
    import tracemalloc

    n = 100_000
    tracemalloc.start()
    try:
        split = Split((f"{i // 1000:03d}/{i:07d}.jpg" for i in range(n)), ((i * 7) % 1000 for i in range(n)))
        held, _ = tracemalloc.get_traced_memory()
        rest = split.only(np.arange(0, n, 2))
        assert rest.paths[-1] == split.paths[-2] and list(rest.targets) == list(split.targets)[::2]
        both, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 30 * n and both < 45 * n  # of which 15 are the path
    assert len(pickle.dumps(split)) < 25 * n


@pytest.mark.parametrize(
    "rows",
    [
        ("b", "", "ü", "x" * 300, "\udc80"),  # the last: a name that is not UTF-8
        (3, -1, 300, 2**40),
        (2**63, -1),  # which NumPy would round
        ((2**63 + 1, -1), (0, 5)),
        (2**64 - 1, 3),
        ((0.1, math.nan), (1.0, 2.0)),
        ((0.0, 1.0), (-1.0, 1.0)),
        (("a", "b"), ("c",)),  # what is neither text nor numbers stays as it is
    ],
)
def test_a_column_is_like_the_tuple_of_its_rows(rows, held):
    found = column(rows)
    assert len(found) == len(rows) and found == column(list(rows)) and repr(tuple(found)) == repr(rows)
    assert repr(tuple(found[::-1])) == repr(rows[::-1]) and repr(found[-1]) == repr(rows[-1])
    assert repr(tuple(take(found, [1, 1, 0]))) == repr((rows[1], rows[1], rows[0]))
    assert repr(tuple(joined(found, found))) == repr(rows + rows) and found != column(rows[:-1])
    assert [type(row) for row in found] == [type(row) for row in rows] and hash(found) == hash(column(list(rows)))
    with pytest.raises(IndexError):
        found[len(rows)]


def test_texts_are_put_in_order_where_one_is_long_too(held):
    for longest in (9, 3000):
        rows = [f"{(i * 7919) % 500}" for i in range(1000)] + ["z" * longest]
        found = texts(rows)
        ordered = found.take(order := found.order())
        assert list(ordered) == sorted(rows) and ordered.in_order() and not found.in_order()
        assert (np.diff(order[:-1].reshape(500, 2)) > 0).all()  # equal ones stay as they are
        assert ordered.repeats() == list(range(1, 1000, 2))


def test_large_columns_lie_in_the_cache_without_a_name_or_where_it_has_no_room_in_memory(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    rows, cache = [f"{i:07d}" for i in range(150_000)], tmp_path / "cache"
    monkeypatch.setattr(buffers, "folder", cache)
    found = texts(rows)
    assert str(cache) in Path("/proc/self/maps").read_text() and not list(cache.iterdir())
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.warns(UserWarning, match="No space left on device. The table is held in memory"):
        assert texts(rows) == found == column(rows)
