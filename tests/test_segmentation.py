"""Masks go the whole road: they move with their images, are measured over the split, and are written in its size."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import f1_score, jaccard_score
from torchvision.transforms import v2

from src import check, folder
from src.contracts import ConfigError, DataError, InputSpec, Split
from src.data import masks
from src.data.cache import copies
from src.data.table import table
from src.data.transforms import Augment
from src.factory import make
from src.finetune.llrd import LLRD
from src.finetune.policy import groups
from src.labels import Masks
from src.models.dense import DenseNetwork
from src.models.timm_backbone import timm_backbone
from src.predict import _masks
from src.stats import confusions
from src.tasks import segmentation
from tests import made
from tests.browser import readable
from tests.yamls import node

VALUES = {"ground": 0, "block": 100, "line": 200}
NET = ("model.name=test_byobnet.glyphs", "trainer.accelerator=cpu", "logger=[csv]", "data.batch_size=8")


def words(root: Path, folder: Path) -> list[str]:
    values = ",".join(f"{name}: {value}" for name, value in VALUES.items())
    return [
        "data=csv", f"data.root={root}", "data.table=table.csv", "task=segmentation", *NET,
        f"task.labels.values={{{values}}}", f"paths.cache={folder / 'cache'}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return made.shapes(tmp_path_factory.mktemp("masks") / "shapes")


@pytest.fixture(scope="module")
def ran(zygote, root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    code = zygote.run(*words(root, folder), f"run_dir={folder / 'run'}", "trainer.max_epochs=12", "model.image_size=64")
    assert code == 0, zygote.screen
    return folder / "run"


def truth(root: Path, name: str) -> np.ndarray:
    return np.array(Image.open(root / "masks" / name))


@pytest.mark.slow
def test_masks_are_learnt_and_written_in_the_size_of_their_images(ran, root):
    said = json.loads((ran / "metrics.json").read_text())
    assert said["test/miou"] > 0.75 and said["test/iou/block"] > 0.85 and said["test/iou/line"] > 0.5
    assert said["test/miou/constant"] < 0.35 and said["test/miou/low"] < said["test/miou"] < said["test/miou/high"]
    with (ran / "predictions.csv").open() as stream:
        tested = list(csv.DictReader(stream))
    assert [row["target"] for row in tested] == [f"masks/{row['path']}" for row in tested]
    assert all(1 / 3 < float(row["sure"]) <= 1 for row in tested)
    report = (ran / "report" / "index.html").read_text(encoding="utf-8")
    assert report.count(">image, truth, answer, what is wrong: IoU ") == 20 and report.count(", sure 0.") == 2 * 8
    found = [np.array(Image.open(ran / "masks" / row["path"])) for row in tested]
    true = [truth(root, row["path"]) for row in tested]
    assert {mask.shape for mask in (*found, *true)} == {(40, 56)} and set(np.unique(found)) <= {0, 100, 200}
    # over the split, by another's hand: neither transposed, nor at another size, nor the mean of batches
    whole = jaccard_score(np.concatenate(true).ravel(), np.concatenate(found).ravel(), average="macro")
    assert said["test/miou"] == pytest.approx(whole, abs=1e-6)


@pytest.mark.slow
def test_all_of_the_report_can_be_read(ran, tmp_path):
    readable([ran / "report" / "index.html"], tmp_path)


@pytest.mark.slow
def test_predict_writes_the_masks_that_the_test_wrote(ran, root, tmp_path, capsys):
    from src.predict import predict

    some = tmp_path / "images"
    (some / "deep").mkdir(parents=True)
    for name in ("080.png", "deep/085.png"):
        (some / name).write_bytes((root / Path(name).name).read_bytes())
    (some / "bad.jpg").write_text("<html>")
    assert predict(str(ran), str(some), str(tmp_path / "out")) == 3
    assert "2 masks in" in capsys.readouterr().out
    for name in ("080.png", "deep/085.png"):
        again = np.array(Image.open(tmp_path / "out" / name))
        assert (again == np.array(Image.open(ran / "masks" / Path(name).name))).all()


@pytest.mark.slow
def test_a_run_of_masks_resumes_to_the_same_bits(zygote, root, tmp_path):
    common = [*words(root, tmp_path), "recipe=off", "trainer.max_epochs=2", "stages=[fit]"]
    assert zygote.run(*common, f"run_dir={tmp_path / 'whole'}") == 0, zygote.screen
    assert zygote.run(*common, f"run_dir={tmp_path / 'part'}", fault={"at": "step", "n": 9, "number": 9}) == -9
    assert zygote.run(f"resume={tmp_path / 'part'}") == 0, zygote.screen
    one, two = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "part")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.slow
def test_a_test_of_a_few_batches_draws_no_other_masks(zygote, root, tmp_path):
    more = ("debug=fast", "recipe=off", "trainer.limit_test_batches=1", "data.batch_size=4")
    assert zygote.run(*words(root, tmp_path), *more, f"run_dir={tmp_path / 'run'}") == 0, zygote.screen
    drawn = sorted(file.stem for file in (tmp_path / "run" / "masks").iterdir())
    with (tmp_path / "run" / "predictions.csv").open() as stream:
        assert drawn == [Path(row["path"]).stem for row in csv.DictReader(stream)] and len(drawn) == 4


def test_no_mask_is_written_over_an_image_or_where_images_are_looked_for(tmp_path):
    paths = [Path("a.jpg"), Path("a.png"), Path("b/c.tif"), Path("/d/e.jpg"), Path("../f.jpg")]
    wanted = ["m/a.jpg.png", "m/a.png.png", "m/b/c.png", "m/d/e.png", "m/f.png"]
    assert list(map(str, folder.pictures(Path("m"), paths))) == wanted
    images = [tmp_path / "photos" / "a.png", tmp_path / "photos" / "b.jpg"]
    images[0].parent.mkdir()
    for where, out in {"photos": "photos", "photos/": "photos/masks", "photos/a.png": "photos"}.items():
        with pytest.raises(ConfigError, match="the masks would go into"):
            _masks(images, tmp_path / where, tmp_path / out)
    assert _masks(images, tmp_path / "photos", tmp_path / "out")[1] == tmp_path / "out" / "b.png"
    assert _masks(images[1:], tmp_path / "photos" / "b.jpg", tmp_path / "photos" / "masks")


def source(root: Path, **options):
    return table(root, "table.csv", Masks(values=VALUES, **options))


def test_a_mask_moves_with_its_image(root):
    """The image of the truth itself: after any crop, mirror and resize both still say the same."""
    spec = timm_backbone("test_byobnet.glyphs").spec
    spec = type(spec)((48, 48), 1, (0.5,), (0.5,), "nearest-exact", 1.0)
    mask = torch.from_numpy(truth(root, "007.png"))[None]
    for scale in ((0.3, 1.0), None):
        augment = Augment(spec, scale=scale, flip=0.5)
        seen = set()
        for seed in range(8):
            torch.manual_seed(seed)
            both = augment(mask, mask // 100)
            assert both.shape == (2, 48, 48) and (both[0] // 100 == both[1]).all()
            seen.add(both.numpy().tobytes())
        assert len(seen) > 1


def test_training_makes_masks_smaller_about_the_same_centres_as_their_images():
    """A ramp is its own mask: what is taken of it is, on average, what is seen. The images are torchvision's."""
    spec = InputSpec((64, 64), 1, (0.5,), (0.5,), "bilinear", 1.0)
    ramp = torch.arange(256, dtype=torch.uint8).repeat(1, 256, 1)
    for scale, by in (((0.5, 1.0), v2.RandomResizedCrop(64, (0.5, 1.0))), (None, v2.Resize((64, 64)))):
        for seed in range(4):
            torch.manual_seed(seed)
            image, mask = Augment(spec, scale=scale, flip=0)(ramp, ramp)
            torch.manual_seed(seed)
            assert torch.equal(image, by(ramp)[0])
            step = (float(image[32, 48]) - float(image[32, 16])) / 32
            assert abs(float((mask.float() - image.float())[:, 4:-4].mean())) / step < 0.2


def test_the_cache_keeps_masks_beside_their_images(root, tmp_path):
    found = source(root)
    spec = type(timm_backbone("test_byobnet.glyphs").spec)((32, 64), 1, (0.5,), (0.5,), "bilinear", 1.0)
    read = masks.reader(found.root, found.labels, found.classes)
    for _ in range(2):  # made, then read back
        image, _ = copies(root, "val", found.splits["val"], spec, "squash", tmp_path, 1.0, read)
        both = image(0)
        assert both.shape == (2, 32, 64) and set(both[1].unique().tolist()) <= {0, 1, 2}
    plain, _ = copies(root, "val", found.splits["val"], spec, "squash", tmp_path, 1.0)
    assert torch.equal(plain(0)[0], both[0])


def test_what_the_values_of_a_mask_mean_is_not_read_from_a_cache_of_another_meaning(root, tmp_path):
    found = source(root)
    spec = type(timm_backbone("test_byobnet.glyphs").spec)((32, 64), 1, (0.5,), (0.5,), "bilinear", 1.0)
    seen = []
    for values in (found.labels.values, dict(zip(found.classes, reversed(found.labels.values.values()), strict=True))):
        read = masks.reader(found.root, replace(found.labels, values=values), found.classes)
        seen.append(copies(root, "val", found.splits["val"], spec, "squash", tmp_path, 1.0, read)[0](0)[1])
    assert torch.equal(seen[0], 2 - seen[1]) and not torch.equal(*seen)


def test_masks_are_made_smaller_about_the_same_centres_as_their_images(tmp_path):
    """The edge of every step lies, on average, where that of the image does."""
    spec = type(timm_backbone("test_byobnet.glyphs").spec)((16, 16), 1, (0.5,), (0.5,), "bilinear", 1.0)
    shifts = []
    for edge in range(20, 44):
        array = (np.arange(64) >= edge)[None].repeat(64, 0)
        Image.fromarray((255 * array).astype(np.uint8)).save(tmp_path / f"{edge}.png")
        split = Split((f"{edge}.png",), (f"{edge}.png",))
        read = masks.reader(tmp_path, Masks(values={"a": 0, "b": 255}), ("a", "b"))
        image, mask = copies(tmp_path, "val", split, spec, "squash", None, 0, read)[0](0)
        shifts.append(float(mask[0].sum()) - float(image[0].sum()) / 255)
    assert abs(np.mean(shifts)) < 0.15


def test_values_become_classes_and_back(tmp_path):
    colours = {"sky": [0, 0, 255], "tree": [0, 255, 0]}
    array = np.zeros((4, 6, 3), dtype=np.uint8)
    array[:2, :, 2], array[2:, :, 1] = 255, 255
    Image.fromarray(array).save(tmp_path / "m.png")
    found = masks.reader(tmp_path, Masks(values=colours), ("sky", "tree"))("m.png")
    assert found.shape == (1, 4, 6) and found[0, :2].eq(0).all() and found[0, 2:].eq(1).all()
    assert (np.array(masks.painted(found[0], list(colours.values()))) == array).all()


def test_stray_values_are_refused_taken_for_the_nearest_or_ignored(tmp_path):
    Image.fromarray(np.array([[0, 7, 100, 255]], dtype=np.uint8)).save(tmp_path / "m.png")
    read = {
        stray: masks.reader(tmp_path, Masks(values={"a": 0, "b": 100}, ignore=255, stray=stray), ("a", "b"))
        for stray in ("error", "nearest", "ignore")
    }
    with pytest.raises(DataError, match="1 pixel.*such as 7"):
        read["error"]("m.png")
    assert read["ignore"]("m.png").tolist() == [[[0, masks.IGNORE, 1, masks.IGNORE]]]
    assert read["nearest"]("m.png").tolist() == [[[0, 0, 1, masks.IGNORE]]]


def test_the_nearest_value_is_found_pixel_by_pixel(tmp_path):
    draw = np.random.default_rng(0)
    array, colours = draw.integers(0, 256, (9, 7, 3), dtype=np.uint8), draw.integers(0, 256, (5, 3)).tolist()
    Image.fromarray(array).save(tmp_path / "m.png")
    labels = Masks(values=dict(zip("abcde", colours, strict=True)), stray="nearest")
    found = masks.reader(tmp_path, labels, tuple("abcde"))("m.png")[0].numpy()
    assert (found == np.abs(array[:, :, None].astype(int) - colours).sum(3).argmin(2)).all()


def test_masks_of_16_bits_in_any_order_of_bytes_are_read_as_they_are_and_parts_of_numbers_refused(tmp_path):
    array = np.array([[0, 255, 300]])
    labels = masks.reader(tmp_path, Masks(values={"a": 0, "b": 255, "c": 300}), ("a", "b", "c"))
    for kind in ("<u2", ">u2", "<i4", "<f4"):
        Image.fromarray(array.astype(kind)).save(tmp_path / "m.tif")
        assert labels("m.tif").tolist() == [[[0, 1, 2]]], kind
    Image.fromarray((array / 2).astype("<f4")).save(tmp_path / "m.tif")
    with pytest.raises(DataError, match="no whole numbers"):
        labels("m.tif")


def test_numbers_are_not_read_from_colours(tmp_path):
    read = masks.reader(tmp_path, Masks(values={"a": 0, "b": 1}), ("a", "b"))
    grey = np.array([[0, 1]], np.uint8)[:, :, None].repeat(3, 2)
    Image.fromarray(grey).save(tmp_path / "m.png")
    assert read("m.png").tolist() == [[[0, 1]]]
    grey[:, :, 1:] = 0  # the class in the red channel
    for mode in ("RGB", "RGBA"):
        Image.fromarray(grey).convert(mode).save(tmp_path / "m.png")
        with pytest.raises(DataError, match=r"\[1, 0, 0\].*one channel"):
            read("m.png")


def test_a_palette_is_read_by_its_numbers(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "L").convert("P")
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 90])
    image.save(tmp_path / "m.png")
    found = masks.reader(tmp_path, Masks(values={"a": 0, "b": 1, "c": 2}), ("a", "b", "c"))("m.png")
    assert found.tolist() == [[[0, 1, 2]]]


def test_all_masks_that_cannot_be_used_are_listed_before_the_first_batch(zygote, tmp_path):
    root = made.shapes(tmp_path / "shapes", n=20)
    Image.new("L", (40, 56)).save(root / "masks" / "003.png")
    Image.new("L", (56, 40), 77).save(root / "masks" / "005.png")
    (root / "masks" / "009.png").write_bytes(b"no picture")
    assert zygote.run(*words(root, tmp_path), "recipe=off", f"run_dir={tmp_path / 'run'}") == 3
    said = zygote.screen
    assert "3 of 20 masks cannot be used" in said and "task.labels.stray=nearest" in said
    assert "masks/003.png: 40x56 pixels, but 003.png has 56x40" in said
    assert "masks/005.png: 2240 pixel(s) with values that stand for no class, such as 77" in said
    assert "009.png: the mask cannot be read" in said


REFUSED = {
    "no values": (["task.labels.values=null"], 3, "Set task.labels.values"),
    "moved": (["augment=trivial"], 2, "would leave the mask where it is"),
    "cropped": (["data.resize=crop"], 2, "Set data.resize=squash"),
    "another loss": (["loss=focal"], 2, "cannot take the targets of task=segmentation"),
    "no closing head": (["select=ema+closing"], 2, "has no closing head"),
    "no second backbone": (["recipe=auto", "select=ema+frozen"], 2, "for one class an image"),
    "no probe": (["recipe=probe", "model.pretrained=false"], 2, "or its weights are random"),
    "no loss": (["loss.ce=0", "loss.dice=0"], 2, "nothing is learnt"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_suits_no_mask_is_refused(zygote, root, tmp_path, case):
    more, code, told = REFUSED[case]
    more = more if any("recipe=" in word for word in more) else ["recipe=off", *more]
    assert zygote.run(*words(root, tmp_path), f"run_dir={tmp_path / 'run'}", *more) == code, zygote.screen
    assert told in zygote.screen, zygote.screen


def test_overlaps_are_scikit_learns_of_all_pixels_and_ignore_what_does_not_count():
    draw = torch.Generator().manual_seed(0)
    found, true = (torch.randint(0, 3, (5, 9, 7), generator=draw) for _ in range(2))
    true[0, :3] = masks.IGNORE
    counts = confusions(found, true, 4)
    known = true != masks.IGNORE
    flat = true[known].numpy(), found[known].numpy()
    assert float(segmentation.miou(counts)) == pytest.approx(jaccard_score(*flat, average="macro"))
    assert float(segmentation.dice(counts)) == pytest.approx(f1_score(*flat, average="macro"))
    task = make(node("task", "segmentation"))(classes=("a", "b", "c", "d"))
    measured = task.metrics()
    for part in (counts[:2], counts[2:]):
        measured.update(part, torch.zeros(len(part)))
    assert float(measured.compute()["miou"]) == pytest.approx(float(segmentation.miou(counts)))
    assert float(measured.compute()["iou/a"]) == pytest.approx(jaccard_score(*flat, labels=[0], average="macro"))


def loss(**weights):
    return make(node("loss", "mask", **{"ce": 0.0, "dice": 0.0, "focal": 0.0, "lovasz": 0.0} | weights))


def test_each_loss_of_masks_is_its_formula():
    draw = torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 3, 4, 5, generator=draw), torch.randint(0, 3, (2, 4, 5), generator=draw)
    target[0, 0] = masks.IGNORE
    known = target != masks.IGNORE
    p, true = logits.movedim(1, -1)[known].softmax(1), target[known]
    own = p.gather(1, true[:, None])[:, 0]
    batch = {"target": target}
    assert float(loss(ce=1.0)(logits, batch)) == pytest.approx(float(-own.log().mean()), rel=1e-5)
    assert float(loss(focal=1.0)(logits, batch)) == pytest.approx(float(-((1 - own) ** 2 * own.log()).mean()), rel=1e-5)
    hot = torch.nn.functional.one_hot(true, 3).float()
    dice = 1 - (2 * (p * hot).sum(0) / (p.sum(0) + hot.sum(0))).mean()
    assert float(loss(dice=2.0)(logits, batch)) == pytest.approx(2 * float(dice), rel=1e-5)
    both = float(loss(ce=1.0, dice=1.0)(logits, batch))
    assert both == pytest.approx(float(loss(ce=1.0)(logits, batch) + loss(dice=1.0)(logits, batch)), rel=1e-5)


def test_lovasz_is_one_minus_iou_where_answers_are_certain():
    """Berman et al. 2018: on the corners of the cube the surrogate is the loss that it stands for."""
    draw = torch.Generator().manual_seed(0)
    found, true = (torch.randint(0, 3, (1, 6, 6), generator=draw) for _ in range(2))
    logits = torch.nn.functional.one_hot(found, 3).movedim(-1, 1).float() * 100
    expected = 1 - float(segmentation.miou(confusions(found, true, 3)))
    assert float(loss(lovasz=1.0)(logits, {"target": true})) == pytest.approx(expected, abs=1e-5)
    moving = torch.randn(1, 3, 6, 6, generator=draw).requires_grad_()
    loss(lovasz=1.0)(moving, {"target": true}).backward()
    assert moving.grad.isfinite().all() and moving.grad.abs().sum() > 0


def test_a_batch_in_which_nothing_counts_has_no_loss():
    logits = torch.randn(1, 3, 4, 4).requires_grad_()
    value = loss(ce=1.0, dice=1.0)(logits, {"target": torch.full((1, 4, 4), masks.IGNORE)})
    value.backward()
    assert value.item() == 0 and logits.grad.abs().sum() == 0


NETS = ("resnet18", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv2_100", "swin_tiny_patch4_window7_224")


@pytest.mark.parametrize("name", NETS)
def test_any_backbone_answers_in_the_size_of_its_input_and_trains_all_that_it_reads(name):
    network = DenseNetwork(timm_backbone(name, pretrained=False, image_size=64 if "224" not in name else 224), 3)
    size = network.spec.size[0]
    image = torch.randint(0, 255, (2, 3, size, size), dtype=torch.uint8)
    found = groups(LLRD(), network, network.layers, network.no_decay, 1e-3, 0.1)
    network.train()
    out = network(image)
    assert out.shape == (2, 3, size, size)
    out.square().mean().backward()
    missing = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == [] and sum(len(g["params"]) for g in found) == sum(p.requires_grad for p in network.parameters())


def test_a_mirrored_answer_is_mirrored_back():
    network = DenseNetwork(timm_backbone("test_resnet", pretrained=False, image_size=64), 2).eval()
    image = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        plain, other = network(image), network(image.flip(3)).flip(3)
        network.mirror = True
        torch.testing.assert_close(network(image), (plain + other) / 2)
    assert (plain - other).abs().max() > 1e-4


def test_a_backbone_without_maps_is_refused():
    backbone = timm_backbone("test_resnet", pretrained=False, image_size=64)
    with pytest.raises(ConfigError, match="shows no maps"):
        DenseNetwork(type(backbone)(**{**vars(backbone), "maps": None}), 2)


def test_a_class_may_be_named_by_a_number():
    assert not check.mistakes(["task=segmentation", "task.labels.values={0: 0, 7: 255}"])
    assert Masks(values={0: 0, 7: 255}).classes("a table", {}) == ("0", "7")
