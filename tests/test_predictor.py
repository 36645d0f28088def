"""A trained model as an object, as a command, and without this repository: the same numbers; and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src import predict as door
from src.contracts import ConfigError, DataError
from src.pages.card import plain
from src.predict import predict
from src.predictor import Predictor
from src.tables import read as rows
from tests.conftest import ROOT
from tests.nets import model

HOSTILE = ("<script>alert(1)</script>", "../../etc/passwd", "two\nlines\x1b[31m", "x" * 300, "=1+1", "a|b`c`*d*$e$")


def pictures(folder: Path, n: int) -> list[Path]:
    """Of different sizes, smooth enough that resizing means the same everywhere."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, files = np.random.default_rng(0), [folder / f"{i:02d}.png" for i in range(n)]
    for file in files:
        coarse = Image.fromarray(draw.integers(0, 256, (5, 4, 3), dtype=np.uint8))
        coarse.resize((int(draw.integers(30, 90)), int(draw.integers(30, 90))), Image.Resampling.BICUBIC).save(file)
    return files


def test_an_object_says_what_the_test_said_of_each_image(whole, shapes):
    tested = rows(whole / "predictions.csv")
    said = Predictor.load(whole)([shapes / row["path"] for row in tested])
    for row, found in zip(tested, said, strict=True):
        assert list(found) == [key for key in row if key not in ("path", "target")]
        assert found["prediction"] == row["prediction"]
        assert found["prob/left"] == pytest.approx(float(row["prob/left"]), abs=1e-5)


def test_a_picture_an_array_a_path_and_a_list_of_them_say_the_same(tmp_path):
    model(tmp_path / "model", stages=True, mirror=True)
    (file,) = pictures(tmp_path / "images", 1)
    predictor, picture = Predictor.load(tmp_path / "model"), Image.open(file)
    one = predictor(picture)
    assert one == predictor(str(file)) == predictor(file) == predictor(np.array(picture))
    assert predictor([picture, file, np.array(picture)])[2]["prob/owl"] == pytest.approx(one["prob/owl"], abs=1e-6)
    assert predictor([]) == []
    turned = Image.open(file)
    turned.getexif()[0x0112] = 6  # is shown as a camera meant it, as a file would be
    upright = Image.open(file).transpose(Image.Transpose.ROTATE_270)
    assert predictor(turned) == predictor(upright) != one


def test_what_is_no_image_is_named(tmp_path):
    model(tmp_path)
    predictor = Predictor.load(tmp_path)
    good = np.zeros((9, 9, 3), np.uint8)
    for bad, why in ((np.zeros((9, 9)), "1 channels"), (good.astype(int), "int64"), (torch.zeros(3, 9, 9), "Tensor")):
        with pytest.raises(DataError, match=rf"^image 1: .*{why}"):
            predictor([good, bad])
    with pytest.raises(DataError, match="no such file"):
        predictor(tmp_path / "none.png")


KINDS = [
    {"name": "test_resnet", "stages": True, "mirror": True, "resize": "crop", "frozen": True},
    {"name": "test_vit", "stages": True, "resize": "pad"},
    {"name": "test_byobnet", "target": "labels", "channels": 1},
    {"name": "test_convnext", "target": "numbers", "unit": ((10.0, 0.0, -5.0), (2.0, 0.5, 1.0)), "resize": "crop"},
]


@pytest.mark.slow
def test_the_script_of_the_readme_gives_the_numbers_of_the_object_without_this_repository(tmp_path):
    (file,) = pictures(tmp_path / "images", 1)
    with Image.open(file) as image:  # as telephones turn them, and partly transparent
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(file := file.with_suffix(".webp"), lossless=True, exif=exif)
    code = (
        "import runpy, sys\nscript, image, *folders = sys.argv[1:]\n"
        "for folder in folders:\n    sys.argv = [script, folder, image]\n    runpy.run_path(script)\n"
        "assert not [m for m in sys.modules if m.partition('.')[0] in ('src', 'hydra', 'pytorch_lightning')]"
    )
    script = shutil.copy(ROOT / "docs" / "load_model.py", tmp_path / "any.py")
    for i, kind in enumerate(KINDS):
        model(tmp_path / str(i), **kind)
    calibrated = json.loads((tmp_path / "0" / "model.json").read_text())
    scaling = {"method": "vector", "factor": [0.5, 2.0, 1.0], "shift": [0.0, -1.0, 1.0]}
    calibrated["calibration"] = {"kind": "class", "scaling": scaling, "file": None, "notes": []}
    (tmp_path / "0" / "model.json").write_text(json.dumps(calibrated))
    words = [sys.executable, "-I", "-c", code, str(script), str(file), *(str(tmp_path / str(i)) for i in range(4))]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for i, (line, kind) in enumerate(zip(done.stdout.splitlines(), KINDS, strict=True)):
        said, told = json.loads(line), Predictor.load(tmp_path / str(i))(file)
        first = "prediction" if kind.get("target") == "numbers" else "prob"
        for name in ("cat", "dog", "owl"):
            assert said[name] == pytest.approx(told[f"{first}/{name}"], abs=1e-5), (kind, name)
    code = [line for line in (ROOT / "docs" / "load_model.py").read_text().splitlines() if line and line[0] != '"']
    assert len(code) <= 40


def test_a_prediction_that_is_killed_goes_on_and_ends_on_the_same_bytes(tmp_path, monkeypatch, capsys):
    model(tmp_path / "model")
    pictures(tmp_path / "images", 22)
    (tmp_path / "images" / "05.jpg").write_text("<html>")
    out, calls, real = tmp_path / "out.csv", [], Predictor.answer
    common = (str(tmp_path / "model"), str(tmp_path / "images"))

    def counted(self, seen):
        calls.append(len(seen))
        return real(self, seen)

    monkeypatch.setattr(Predictor, "answer", counted)
    assert predict(*common, str(tmp_path / "whole.csv"), batch_size=4) == 3
    assert calls == [4, 3, 4, 4, 4, 3]
    if (child := os.fork()) == 0:
        try:
            many = []
            monkeypatch.setattr(
                Predictor, "answer", lambda self, seen: many.append(0) or _killed_at(3, many, real, self, seen)
            )
            predict(*common, str(out), batch_size=4)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    part = tmp_path / ".out.csv.tmp"
    assert not out.exists() and len(part.read_text().splitlines()) == 1 + 8
    with part.open("a") as stream:
        stream.write('{"path": "half a li')
    calls.clear()
    assert predict(*common, str(out), batch_size=4) == 3
    assert calls == [4, 4, 4, 3] and "goes on behind 8 of 23 images" in capsys.readouterr().err
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes() and not part.exists()


def _killed_at(n, many, real, self, seen):
    if len(many) == n:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, seen)


@pytest.mark.parametrize("other", ["images", "model", "fresh"])
def test_a_prediction_goes_on_with_nothing_that_another_left(tmp_path, other, capsys):
    model(tmp_path / "model")
    pictures(tmp_path / "images", 5)
    out, part = tmp_path / "out.csv", tmp_path / ".out.csv.tmp"
    asked = {"model": json.loads((tmp_path / "model/model.json").read_text())["sha256"], "images": "0" * 64}
    if other != "images":
        names = "\n".join(map(str, sorted((tmp_path / "images").iterdir())))
        asked["images"] = door.hashlib.sha256(names.encode()).hexdigest()
    asked |= {"model": "0" * 64} if other == "model" else {}
    row = {"path": "x.png", "prediction": "cow"}
    part.write_text("\n".join(map(json.dumps, [asked, row, row])) + "\n")
    assert predict(str(tmp_path / "model"), str(tmp_path / "images"), str(out), 1, fresh=other == "fresh") == 0
    assert "is given up" in capsys.readouterr().err
    assert [row["prediction"] != "cow" for row in rows(out)] == [True] * 5


def test_two_predictions_into_one_file_do_not_mix(tmp_path):
    from src.partial import Partial

    with Partial(tmp_path / "part", {"a": 1}, 1, 2), pytest.raises(ConfigError, match="in use"):
        Partial(tmp_path / "part", {"a": 1}, 1, 2)


def test_a_parquet_table_holds_what_the_csv_holds(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    model(tmp_path / "model", classes=HOSTILE)
    pictures(tmp_path / "images", 3)
    for name in ("out.csv", "out.parquet"):
        assert predict(str(tmp_path / "model"), str(tmp_path / "images"), str(tmp_path / name)) == 0
    said = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [{key: str(value) for key, value in row.items()} for row in said] == rows(tmp_path / "out.csv")


def test_hostile_class_names_are_kept_in_the_table_and_harmless_on_the_screen(tmp_path, capsys):
    network = model(tmp_path / "model", classes=HOSTILE)
    pictures(tmp_path / "images", 2)
    for i, name in enumerate(HOSTILE):
        with torch.no_grad():
            network.head.bias.fill_(0)[i] = 1e4
        facts = json.loads((tmp_path / "model" / "model.json").read_text())
        from src.models.saved import save_model

        save_model(network, tmp_path / "model", facts)
        assert predict(str(tmp_path / "model"), str(tmp_path / "images"), str(tmp_path / "out.csv")) == 0
        assert [row["prediction"] for row in rows(tmp_path / "out.csv")] == [name] * 2
    screen = capsys.readouterr().out
    assert "\x1b" not in screen and "x" * 200 not in screen
    assert len(screen.splitlines()) == 3 * len(HOSTILE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "model", "out.csv"]


def test_a_card_shows_hostile_names_as_text():
    for name in HOSTILE:
        shown = plain(name)
        assert "\n" not in shown and "<script" not in shown and "\x1b" not in shown and len(shown) <= 100
    assert plain("a|b`c`*d*$e$") == r"a\|b\`c\`\*d\*\$e\$"


def test_the_card_says_what_the_run_measured_and_names_no_licence_that_it_does_not_know(whole):
    text = (whole / "model" / "README.md").read_text()
    said = json.loads((whole / "metrics.json").read_text())
    front = text.split("---")[1]
    assert "license" not in front and "base_model" not in front  # of random weights
    assert 'pipeline_tag: "image-classification"' in front and '"accuracy"' in front
    (line,) = [line for line in text.splitlines() if line.startswith("| acc |")]
    told = [said[f"{split}/acc"] for split in ("val", "test")]
    assert [float(cell) for cell in line.split("|")[2:4]] == pytest.approx(told, abs=1e-4)
    assert f"{said['test/acc/low']:.4g} – {said['test/acc/high']:.4g}" in line
    assert "| left | 24 |" in text and json.loads((whole / "run.json").read_text())["weights"] in text


def test_a_run_that_was_moved_predicts_and_one_that_is_not_finished_says_so(whole, shapes, tmp_path):
    moved = Path(shutil.copytree(whole, tmp_path / "elsewhere"))
    image = shapes / "test" / "left" / "00.png"
    assert Predictor.load(moved)(image) == Predictor.load(whole)(image) == Predictor.load(moved / "model")(image)
    state = json.loads((moved / "run.json").read_text())
    (moved / "run.json").write_text(json.dumps(state | {"state": "preempted", "done": ["fit", "select"]}))
    with pytest.warns(UserWarning, match=r"not finished \(preempted; stages done: fit, select\)"):
        Predictor.load(moved)
    shutil.rmtree(moved / "model")
    with pytest.raises(ConfigError, match="holds no model"):
        Predictor.load(moved)


FAULTS = {
    "is damaged": lambda facts: "{not json",
    "does not say classes, resize": lambda facts: {k: v for k, v in facts.items() if k not in ("classes", "resize")},
    "does not say mirror": lambda facts: {k: v for k, v in facts.items() if k != "mirror"},
    "does not say anything": lambda facts: [1, 2],
    "is of format 99": lambda facts: facts | {"format": 99},
    "do not fit": lambda facts: facts | {"outputs": 7},
    "only functions of src.tasks": lambda facts: facts | {"task": {"_target_": "os.system", "command": "touch ran"}},
    "asks for src.data.folder": lambda facts: (
        facts | {"task": facts["task"] | {"mode": {"_target_": "src.data.folder.existing", "root": "/"}}}
    ),
    "only what is in": lambda facts: facts | {"task": {"_target_": "src.tasks.multiclass._mean"}},
    "only functions of src.models": lambda facts: facts | {"build": {"_target_": "os.system", "command": "touch ran"}},
    "builds no backbone": lambda facts: facts | {"build": {"_target_": "src.models.weights.read_state", "file": "x"}},
    "has no such network": lambda facts: facts | {"build": facts["build"] | {"name": "hf-hub:evil/net"}},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_changed_description_is_refused_and_nothing_in_it_runs(tmp_path, fault, monkeypatch, capsys):
    model(tmp_path / "model")
    pictures(tmp_path / "images", 1)
    file = tmp_path / "model" / "model.json"
    changed = FAULTS[fault](json.loads(file.read_text()))
    file.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    monkeypatch.chdir(tmp_path)
    words = ["predict", str(tmp_path / "model"), str(tmp_path / "images"), "--out", str(tmp_path / "out.csv")]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(warnings, "showwarning", None)
    assert door.main() == 2
    said = capsys.readouterr().err
    assert fault in said and "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "model"]


@pytest.mark.parametrize("where", ["nowhere", "images"])
def test_what_is_no_run_is_refused(tmp_path, where):
    pictures(tmp_path / "images", 1)
    with pytest.raises(ConfigError, match="no such folder|holds no model"):
        predict(str(tmp_path / where), str(tmp_path / "images"), str(tmp_path / "out.csv"))


@pytest.mark.parametrize("out", ["out.xls", "no/folder/out.csv"])
def test_a_table_that_cannot_be_written_is_refused_first(tmp_path, out):
    with pytest.raises(ConfigError, match="--out"):
        predict(str(tmp_path), str(tmp_path), str(tmp_path / out))


def test_no_other_table_is_written_over_and_a_folder_gets_the_usual_name(tmp_path):
    model(tmp_path / "model")
    files = pictures(tmp_path / "images", 2)
    common = (str(tmp_path / "model"), str(tmp_path / "images"))
    mine = tmp_path / "mine.csv"
    mine.write_text("path,label\n" + "".join(f"{file},x\n" for file in files))
    text = mine.read_text()
    for where in (str(tmp_path / "images"), str(mine)):
        with pytest.raises(ConfigError, match="--out .*mine.csv: .* table of "):
            predict(common[0], where, str(mine))
    assert mine.read_text() == text
    for header in ("path,split,mask", "image,prediction"):
        mine.write_text(f"{header}\n")
        with pytest.raises(ConfigError, match="table of something else"):
            predict(*common, str(mine))
    mine.write_text(text)
    (tmp_path / "out").mkdir()
    for _ in range(2):  # its own it may
        assert predict(common[0], str(mine), str(tmp_path / "out")) == 0
    assert (tmp_path / "out" / "predictions.csv").read_text().count("\n") == 3
    with pytest.raises(ConfigError, match="itself"):
        predict(common[0], str(tmp_path / "out" / "predictions.csv"), str(tmp_path / "out"))
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    labels = tmp_path / "labels.parquet"
    parquet.write_table(pyarrow.table({"path": ["a"], "label": ["x"]}), labels)
    for kept in (labels.read_bytes(), b"notes"):
        labels.write_bytes(kept)
        with pytest.raises(ConfigError, match="table of something else"):
            predict(*common, str(labels))
        assert labels.read_bytes() == kept
    for _ in range(2):
        assert predict(*common, str(tmp_path / "ours.parquet")) == 0
    files[0].rename(tmp_path / "images" / os.fsdecode(b"caf\xe9.jpg"))
    with pytest.raises(DataError, match="'caf.udce9.jpg' is not UTF-8|caf.*is not UTF-8"):
        predict(*common, str(tmp_path / "new.csv"))
    assert not list(tmp_path.glob(".*tmp"))
