"""The decode-once cache: the images are those of no cache, whoever fills it, wherever it is killed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.contracts import InputSpec, Source, Split
from src.data import cache
from src.data.cache import OVERSIZE, Copies, copies
from src.data.images import read
from src.data.loader import Loaders
from src.data.transforms import Augment, evaluation, no_augment

SPEC = InputSpec((16, 16), 3, (0.5,) * 3, (0.2,) * 3, "bicubic", 0.9)
SMALL, LARGE = (14, 19), (40, 30)  # (W, H): below and above the size of training copies, 20


def photograph(path: Path, size=LARGE, seed=0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def source(tmp_path) -> Source:
    exif = Image.Exif()
    exif[0x0112] = 6
    root, names = tmp_path / "data", [f"{i}.jpg" for i in range(12)]
    for i, name in enumerate(names):
        photograph(root / name, [SMALL, LARGE][i % 2], seed=i, exif=exif if i % 4 > 1 else b"")
    splits = {name: Split(tuple(names), tuple(i % 2 for i in range(12))) for name in ("train", "val")}
    return Source(root, ("a", "b"), splits)


def opened(source: Source, folder: Path | None, resize: str | None = None, limit: float = 1, **changes):
    return copies(source.root, "train", source.splits["train"], replace(SPEC, **changes), resize, folder, limit)


def pixels(images: Copies) -> list[torch.Tensor]:
    return [images(i) for i in range(len(images))]


def same(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return len(one) == len(two) and all(map(torch.equal, one, two))


def decoded(monkeypatch) -> list[str]:
    """The names of the images that are decoded from here on."""
    names = []
    monkeypatch.setattr(cache, "read", lambda path, channels: names.append(path.name) or read(path, channels))
    return names


def epoch(source: Source, augment: Callable, split="train", **options) -> list[torch.Tensor]:
    loaders = Loaders(source, SPEC, 0, augment, batch_size=5, resize="pad", **options)
    return [batch["image"] for batch in loaders.loader(split, train=split == "train")]


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_an_evaluation_view_is_the_same_to_the_bit_without_cold_and_warm(source, tmp_path, monkeypatch, resize):
    plain = [evaluation(SPEC, resize)(read(source.root / path, 3)) for path in source.splits["val"].paths]
    assert same(plain, pixels(opened(source, None, resize)[0]))
    assert same(plain, pixels(opened(source, tmp_path, resize)[0]))
    names = decoded(monkeypatch)
    assert same(plain, pixels(opened(source, tmp_path, resize)[0])) and names == []


def test_training_copies_are_the_image_or_smaller_and_the_same_cold_and_warm(source, tmp_path, monkeypatch):
    cold, whole = pixels(opened(source, tmp_path)[0]), pixels(opened(source, None)[0])
    for i, (copy, image) in enumerate(zip(cold, whole, strict=True)):
        if i % 2:
            assert min(copy.shape[1:]) == round(OVERSIZE * 16) and copy.shape[1] / copy.shape[2] in (20 / 27, 27 / 20)
        else:
            assert torch.equal(copy, image)
        assert copy.stride() == (1, 3 * copy.shape[2], 3)  # as `read` gives it
    names = decoded(monkeypatch)
    warm = pixels(opened(source, tmp_path)[0])
    assert same(cold, warm) and names == [] and [a.stride() for a in cold] == [a.stride() for a in warm]
    warm[0] += 1  # the memory is ours
    assert same(cold, pixels(opened(source, tmp_path)[0]))


def test_training_batches_are_the_same_with_and_without_cache_where_nothing_is_shrunk(source, tmp_path):
    small = replace(source, splits={"train": Split(source.splits["train"].paths[::2], (0,) * 6)})
    plain = epoch(small, Augment)
    for _ in range(2):
        assert same(plain, epoch(small, Augment, cache=tmp_path, cache_gb=1))


def test_batches_of_a_split_and_of_unaugmented_training_are_the_same_with_and_without_cache(source, tmp_path):
    for augment, split in ((no_augment, "train"), (Augment, "val")):
        plain = epoch(source, augment, split)
        for _ in range(2):
            assert same(plain, epoch(source, augment, split, cache=tmp_path, cache_gb=1))


def test_a_loader_may_ask_for_another_view_than_the_runs(source, tmp_path):
    loaders = Loaders(source, SPEC, 0, Augment, batch_size=5, resize="pad", cache=tmp_path, cache_gb=1)
    for resize, expected in ((None, "pad"), ("crop", "crop"), ("squash", "squash"), (None, "pad")):
        batches = list(loaders.loader("val", only=[1, 7], resize=resize))
        assert [batch["index"].tolist() for batch in batches] == [[1, 7]]
        plain = [evaluation(SPEC, expected)(read(source.root / f"{i}.jpg", 3)) for i in (1, 7)]
        assert same(plain, list(batches[0]["image"]))


def test_an_image_that_exif_turns_fits_where_the_input_is_not_square(source, tmp_path, monkeypatch):
    for size in ((24, 16), (16, 24)):
        cold = pixels(opened(source, tmp_path, size=size)[0])
        with monkeypatch.context() as patch:
            names = decoded(patch)
            assert same(cold, pixels(opened(source, tmp_path, size=size)[0])) and names == []


def test_a_folder_that_was_emptied_is_filled_again(source, tmp_path, monkeypatch):
    opened(source, tmp_path)
    shutil.rmtree(tmp_path / "images")
    right = pixels(opened(source, tmp_path)[0])
    names = decoded(monkeypatch)
    assert same(right, pixels(opened(source, tmp_path)[0])) and names == []


def test_an_epoch_resumed_with_a_cold_a_half_filled_or_no_cache_has_the_same_images(source, tmp_path, monkeypatch):
    first = epoch(source, Augment, cache=tmp_path / "a", cache_gb=1)
    images = opened(source, tmp_path / "b")[0]
    for i in range(0, 12, 3):
        images(i)
    assert same(first, epoch(source, Augment, cache=tmp_path / "b", cache_gb=1))
    (tmp_path / "file").touch()
    assert same(first, epoch(source, Augment, cache=tmp_path / "file", cache_gb=1))


def fill(source: Source, folder: Path, gate, kill_at: int | None = None) -> None:
    images, _ = opened(source, folder)
    gate.wait(30)
    for i in range(12):
        if i == kill_at:  # with the pixels half written, and the row already there
            with open(images.file, "r+b") as out:
                row = list(cache._row(images.file, i))
                out.seek(row[0])
                out.write(b"\xff" * 99)
                out.seek(i * cache.ROW.itemsize)
                out.write(np.array([(*row[:2], 20, 20, 7)], cache.ROW).data)
            os.kill(os.getpid(), signal.SIGKILL)
        images(i)


def started(*jobs: partial) -> list[int | None]:
    fork = multiprocessing.get_context("fork")
    gate = fork.Barrier(len(jobs))
    processes = [fork.Process(target=job, args=(gate,)) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_processes_that_fill_at_once_fill_one_file_rightly(source, tmp_path, monkeypatch):
    right = pixels(opened(source, tmp_path / "a")[0])
    job = partial(fill, source, tmp_path / "b")
    assert started(job, job, job) == [0, 0, 0] and len(list((tmp_path / "b/images").iterdir())) == 1
    names = decoded(monkeypatch)
    assert same(right, pixels(opened(source, tmp_path / "b")[0])) and names == []


def test_the_one_who_comes_second_does_not_replace_what_the_first_has_filled(source, tmp_path, monkeypatch):
    right = pixels(opened(source, tmp_path)[0])
    (file,) = (tmp_path / "images").iterdir()
    monkeypatch.setattr(np, "fromfile", lambda *_: np.zeros(0, cache.ROW))  # looked before the first had made it
    names = decoded(monkeypatch)
    assert same(right, pixels(opened(source, tmp_path)[0])) and names == []
    assert list((tmp_path / "images").iterdir()) == [file]


def test_what_a_killed_process_left_half_written_is_made_again(source, tmp_path, monkeypatch):
    right = pixels(opened(source, tmp_path / "a")[0])
    assert started(partial(fill, source, tmp_path / "b", kill_at=7)) == [-signal.SIGKILL]
    names = decoded(monkeypatch)
    for _ in range(2):
        assert same(right, pixels(opened(source, tmp_path / "b")[0]))
        assert names == [f"{i}.jpg" for i in range(7, 12)]


@pytest.mark.parametrize("kept", [0, 30, 400, 5000])
def test_a_file_that_was_cut_short_costs_time_only(source, tmp_path, kept):
    right = pixels(opened(source, tmp_path)[0])
    (file,) = (tmp_path / "images").iterdir()
    file.write_bytes(file.read_bytes()[:kept])
    cache._mapped.cache_clear()
    assert same(right, pixels(opened(source, tmp_path)[0]))


def test_a_changed_image_is_seen(source, tmp_path):
    before = pixels(opened(source, tmp_path)[0])
    status = os.stat(photograph(source.root / "3.jpg", seed=99))
    os.utime(source.root / "3.jpg", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    after = pixels(opened(source, tmp_path)[0])
    assert same(after, pixels(opened(source, tmp_path / "new")[0]))
    assert [i for i in range(12) if not torch.equal(before[i], after[i])] == [3]


def test_each_kind_of_copy_has_a_file_of_its_own(source, tmp_path):
    others = [
        {"resize": "crop"}, {"resize": "pad"}, {"size": (24, 16)}, {"interpolation": "bilinear"}, {"channels": 1},
        {"resize": "crop", "crop": 0.8}, {"resize": "pad", "mean": (0.1, 0.2, 0.3)},
    ]  # fmt: skip
    kinds = [{}, *others]
    for _ in range(2):
        for kind in kinds:
            cached, plain = opened(source, tmp_path, **kind)[0], opened(source, None, **kind)[0]
            assert all(torch.equal(cached(i), plain(i)) for i in (0, 4))  # these are not shrunk
    assert len(list((tmp_path / "images").iterdir())) == len(kinds)


def test_the_note_says_what_was_chosen_and_why(source, tmp_path, monkeypatch):
    size = 6 * (14 * 19 + 20 * 27) * 3 / 1e9
    assert opened(source, None)[1] == ""
    assert opened(source, tmp_path)[1] == "cache: 12 training images at up to 20 px, 0.00 GB (paths.cache)"
    assert "12 training images at 16x16 px" in opened(source, tmp_path, "crop")[1]
    said = Loaders(source, SPEC, 0, Augment, resize="crop", cache=tmp_path, cache_gb=1).notes
    assert ["12 training images at up to" in said[0], "12 val images at 16x16" in said[1], len(said)] == [1, 1, 2]
    assert Loaders(source, SPEC, 0, Augment).notes == ()
    for limit, chosen in ((size * 1.1, "cache"), (size * 0.99, "streaming")):
        images, note = opened(source, tmp_path, limit=limit)
        assert note.startswith(chosen) and ("more than data.cache_gb" in note) == (chosen == "streaming")
        assert same(pixels(images), pixels(opened(source, None)[0])) == (chosen == "streaming")


def test_zero_switches_it_off_and_leaves_the_disk_alone(source, tmp_path):
    loaders = Loaders(source, SPEC, 0, Augment, batch_size=5, cache=tmp_path / "cache", cache_gb=0)
    assert loaders.notes == ("streaming: images are decoded in every epoch (data.cache_gb=0)",)
    assert same([batch["image"] for batch in loaders.loader("train", train=True)], epoch(source, Augment))
    assert not (tmp_path / "cache").exists()


def test_headers_are_read_once_even_where_the_copies_are_too_many(source, tmp_path, monkeypatch):
    looked = []
    header = cache.size_of
    monkeypatch.setattr(cache, "size_of", lambda path: looked.append(path) or header(path))
    for _ in range(2):
        assert "more than" in opened(source, tmp_path, limit=1e-9)[1]
    assert len(looked) == 12 and sum(file.stat().st_size for file in (tmp_path / "images").iterdir()) < 1000
    assert opened(source, tmp_path)[1].startswith("cache") and len(looked) == 12


def test_a_disk_with_little_room_is_left_alone_unless_it_is_filled_already(source, tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10_000}))
    images, note = opened(source, tmp_path)
    assert note.startswith("streaming") and "half of the free" in note and images.file is None
    monkeypatch.undo()
    right = pixels(opened(source, tmp_path)[0])
    assert same(right, pixels(images))
    with open(next((tmp_path / "images").iterdir()), "rb") as file:
        os.fsync(file.fileno())  # some file systems count blocks only once they are written
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10_000}))
    assert opened(source, tmp_path)[1].startswith("cache")


def test_a_folder_that_cannot_be_written_costs_time_not_the_run(source, tmp_path, monkeypatch):
    right = pixels(opened(source, tmp_path / "a")[0])
    (tmp_path / "file").touch()
    for resize in (None, "crop"):
        images, note = opened(source, tmp_path / "file" / "cache", resize)
        assert note.startswith("streaming") and "paths.cache (" in note and images.file is None
        assert len(pixels(images)) == 12
    assert same(right, pixels(opened(source, tmp_path / "file")[0]))

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "link", refused)
    assert "Permission denied" in opened(source, tmp_path / "b")[1] and list((tmp_path / "b/images").iterdir()) == []


def test_a_disk_that_fills_up_costs_time_not_the_run_and_is_said_once(source, tmp_path, monkeypatch):
    right = pixels(opened(source, tmp_path / "a")[0])
    images, _ = opened(source, tmp_path / "b")
    images(0)
    monkeypatch.setattr(images, "file", Path("/dev/full"))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_row", lambda *_: (0, 10**6, 0, 0, 0))
        with pytest.warns(UserWarning, match=r"No space left.*every epoch") as said:
            assert same(right, pixels(images))
    assert len(said) == 1


def test_a_file_that_is_removed_while_it_is_used_costs_time_not_the_run(source, tmp_path):
    right, (images, _) = pixels(opened(source, tmp_path / "a")[0]), opened(source, tmp_path / "b")
    images(0)
    images.file.unlink()
    with pytest.warns(UserWarning, match="No such file"):
        assert same(right, pixels(images))


def test_an_unreadable_header_is_no_reason_to_keep_or_to_stop(source, tmp_path, monkeypatch):
    (source.root / "5.jpg").write_bytes(b"x")
    images, note = opened(source, tmp_path)
    assert note.startswith("cache")
    with pytest.raises(ValueError, match=r"5\.jpg: not an image"):
        images(5)
    photograph(source.root / "5.jpg")
    assert torch.equal(images(5), images(5))
    np.save(source.root / "a.npy", np.zeros((30, 40, 3), np.uint8))
    odd = replace(source, splits={"train": Split(("a.npy",), (0,))})
    assert opened(odd, tmp_path)[0](0).shape == (3, 20, 27)
    names = decoded(monkeypatch)
    assert opened(odd, tmp_path)[0](0).shape == (3, 20, 27) and names == []


def test_files_that_no_run_opened_for_a_month_are_removed(source, tmp_path):
    opened(source, tmp_path)
    opened(source, tmp_path, "pad")
    used, old = sorted((tmp_path / "images").iterdir(), key=lambda file: file.stat().st_size, reverse=True)
    for file in (used, old):
        os.utime(file, times=(time.time() - 31 * 24 * 3600,) * 2)
    opened(source, tmp_path)
    opened(source, tmp_path, "crop")
    left = set((tmp_path / "images").iterdir())
    assert used in left and old not in left and len(left) == 2


def test_that_many_images_are_too_large_is_told_by_some_of_them(source, tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(cache, "size_of", lambda path: looked.append(path) or (30, 40))
    monkeypatch.setattr(cache, "MANY", 5)
    monkeypatch.setattr(cache, "SAMPLE", 3)
    loaders = Loaders(source, SPEC, 0, Augment, resize="pad", cache=tmp_path / "kept", cache_gb=1e-6)
    assert "about 0.00 GB, are more than data.cache_gb=1e-06" in loaders.notes[0] and len(looked) == 3
    assert not (tmp_path / "kept").exists()
