"""What is exported says what the network says, in another runtime; what a format cannot hold is refused."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml

from src import export as door
from src.contracts import ConfigError
from src.export import export
from src.predictor import Predictor
from tests.nets import model
from tests.test_predictor import HOSTILE, pictures
from tests.test_sources import sharded


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A finished run whose head reads all stages, of the image and its mirror image."""
    folder = Path(shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "model")))
    model(folder / "model", classes=("left", "right"), stages=True, mirror=True)
    return folder


def views(predictor: Predictor, folder: Path, n: int) -> torch.Tensor:
    return torch.stack([predictor.see(file).view for file in pictures(folder, n)])


@pytest.mark.slow
def test_onnx_gives_the_probabilities_of_the_object_for_any_batch_and_int8_is_measured_beside_it(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    said = export(str(run), "onnx", preprocess=True, int8="static")
    assert said == json.loads((run / "export" / "onnx" / "parity.json").read_text())
    assert said["of"] == "16 images of val" and said["fp32"]["largest_difference"] < 1e-5
    assert 1e-6 < said["int8"]["largest_difference"] < 0.2 and said["int8"]["megabytes"] < said["fp32"]["megabytes"]
    assert all("ms_per_image_batch_1" in said[name] and "skill" in said[name] for name in ("pytorch", "fp32", "int8"))
    predictor = Predictor.load(run, device="cpu")
    files = pictures(tmp_path / "images", 5)
    file = run / "export" / "onnx" / "model.onnx"
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    known = session.get_modelmeta().custom_metadata_map
    assert json.loads(known["classes"]) == ["left", "right"] and json.loads(known["input"])["dtype"] == "uint8"
    for n in (1, 5):
        (found,) = session.run(None, {"image": views(predictor, tmp_path / "images", n).numpy()})
        wanted = [[row["prob/left"], row["prob/right"]] for row in predictor(files[:n])]
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
def test_a_torch_export_program_gives_the_logits_of_normalised_images(run, tmp_path):
    said = export(str(run), "torch_export", out=str(tmp_path / "out"))
    assert said["fp32"]["largest_difference"] < 1e-5
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    predictor = Predictor.load(run, device="cpu")
    spec, seen = predictor.network.spec, views(predictor, tmp_path / "images", 3)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    for n in (1, 3):
        found = program((seen[:n].float() / 255 - mean) / std)
        with torch.no_grad():
            torch.testing.assert_close(found, predictor.network(seen[:n]), atol=1e-4, rtol=1e-5)
    told = json.loads((tmp_path / "out" / "model.json").read_text())
    assert told["export"]["output"] == {"name": "logits"} and told["classes"] == ["left", "right"]


@pytest.mark.parametrize(
    "kind", [{"classes": HOSTILE}, {"target": "numbers", "unit": ((9.0, 0.0, 1.0), (2.0, 0.5, 1.0))}]
)
def test_timm_loads_a_plain_network_with_its_classes_and_its_input(tmp_path, kind):
    network = model(tmp_path / "model", **kind)
    said = export(str(tmp_path), "timm")
    assert said["of"].startswith("32 drawn images, since those of val could not be had")
    folder = tmp_path / "export" / "timm"
    net = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    seen = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(network._normalised(seen)), network(seen), atol=1e-4, rtol=1e-5)
    cfg, spec = net.pretrained_cfg, network.spec
    classes = tuple(kind.get("classes", ("cat", "dog", "owl")))
    assert tuple(cfg["label_names"]) == classes and cfg["num_classes"] == len(classes)
    assert tuple(cfg["input_size"]) == (3, 32, 32) and cfg["crop_mode"] == "squash" and cfg["crop_pct"] == 1.0
    assert tuple(cfg["mean"]) == spec.mean and cfg["interpolation"] == spec.interpolation
    assert {"config.json", "model.safetensors"} < {path.name for path in folder.iterdir()}


def test_timm_says_what_it_cannot_hold_and_the_nearest_is_measured(run, tmp_path):
    with pytest.raises(ConfigError, match="all stages.*mirror image.*\n.*--nearest"):
        export(str(run), "timm")
    assert not (run / "export").exists()
    shutil.copytree(run / "model", tmp_path / "alone" / "model")
    with pytest.raises(ConfigError, match="--nearest is fitted on images of train, and they could not be had"):
        export(str(tmp_path / "alone"), "timm", nearest=True)
    said = export(str(run), "timm", nearest=True)
    assert len(said["left_out"]) == 2 and said["fp32"]["largest_difference"] > 0.01
    assert said["fp32"]["same_largest"] > 0.6 and {"skill"} <= set(said["pytorch"])
    model(tmp_path / "two" / "model", classes=("left", "right"), mirror=True)
    said = export(str(tmp_path / "two"), "timm", nearest=True)
    assert said["left_out"] == ["the second look, at the mirror image"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--format", "onnx"], "pip install onnx onnxscript onnxruntime"),
        (["--format", "timm", "--int8", "static"], "only --format onnx"),
        (["--format", "onnx", "--int8", "dynamic"], "convolutions only"),
        (["--format", "onnx", "--nearest"], "only --format timm"),
        (["--format", "timm", "--preprocess"], "takes normalised images"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_a_way_out(tmp_path, monkeypatch, capsys, words, said):
    model(tmp_path / "model")
    if "install" in said:
        monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr(warnings, "showwarning", None)
    monkeypatch.setattr(sys, "argv", ["export", str(tmp_path), *words])
    assert door.main() == 2
    assert said in capsys.readouterr().err


def test_an_export_that_differs_is_told_and_fails(tmp_path, capsys):
    said = {"of": "16 images of val", "left_out": [], "fp32": {"largest_difference": 0.1, "largest_output": 5.0}}
    assert door.shown(said, "x") == 1 and "Do not use it" in capsys.readouterr().err
    assert door.shown(said | {"fp32": {"largest_difference": 1e-6, "largest_output": 5.0}}, "x") == 0


def test_images_of_an_archive_and_beside_a_damaged_one_are_compared(shapes, tmp_path):
    """A root that is no folder hands out pieces of a file; of a damaged image nothing is learnt, nor compared."""
    model(tmp_path / "run" / "model", classes=("left", "right"))
    root = Path(shutil.copytree(shapes, tmp_path / "shapes"))
    (root / "val" / "left" / "03.png").write_bytes(b"damaged")
    packed = sharded(root, tmp_path / "shards", lambda name: {"cls": name.encode()})
    tar = {"_target_": "src.data.webdataset.webdataset", "root": str(packed), "cache": str(tmp_path / "cache")}
    predictor = Predictor.load(tmp_path / "run", device="cpu")
    for source in ({"_target_": "src.data.folder.folder", "root": str(root)}, tar):
        (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"data": {"source": source}}))
        found = door.pictures(str(tmp_path / "run"), predictor, "val", 256, "--nearest")
        assert found.said == "15 images of val" and found.target.tolist() == [0] * 7 + [1] * 8


def test_a_saved_config_that_names_foreign_functions_runs_none_of_them(tmp_path, monkeypatch):
    model(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    for source in ("{_target_: os.system, command: touch ran}", "!!python/object/apply:os.system ['touch ran']"):
        (tmp_path / "config.yaml").write_text(f"data: {{source: {source}}}")
        said = door.pictures(str(tmp_path), Predictor.load(tmp_path, device="cpu"), "val", 8).said
        assert said.startswith("32 drawn images") and ("os.system" in said or "constructor" in said)
        assert not (tmp_path / "ran").exists()
