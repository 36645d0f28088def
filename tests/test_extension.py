"""Adding a thing is one Python file in its room and one yaml: nothing else changes, and it trains."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import made
from tests.conftest import ROOT, zygote_of

ADDED = {
    "src/models/mine.py": '''"""A backbone from elsewhere."""
from torch import nn
from src.contracts import Backbone, InputSpec

def mine(name: str = "mine", width: int = 8, image_size: int = 24, in_chans: int = 3) -> Backbone:
    net = nn.Sequential(nn.Conv2d(in_chans, width, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    spec = InputSpec((image_size, image_size), in_chans, (0.5,) * in_chans, (0.5,) * in_chans, "bilinear", 1.0)
    return Backbone(net, width, spec, layers={"0.weight": 0, "0.bias": 0})
''',
    "configs/model/mine.yaml": "_target_: src.models.mine.mine\nname: mine\nwidth: 8\nimage_size: 24\nin_chans: 3\n",
    "src/data/mine.py": '''"""A data set of one's own: noise, brighter in the second class."""
from pathlib import Path
import numpy as np
from PIL import Image
from src.contracts import Source, Split

def mine(cache: str, count: int) -> Source:
    root = Path(cache) / "mine"
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full((20, 20, 3), 60 + 90 * (i % 2), np.uint8)).save(root / f"{i}.png")
    names = [f"{i}.png" for i in range(count)]
    ends = {"train": (0, count // 2), "val": (count // 2, 3 * count // 4), "test": (3 * count // 4, count)}
    splits = {k: Split(tuple(names[a:b]), tuple(i % 2 for i in range(a, b))) for k, (a, b) in ends.items()}
    return Source(root, ("dark", "bright"), splits)
''',
    "configs/data/mine.yaml": (
        "defaults: [base]\ncount: 64\n"
        "source: {_target_: src.data.mine.mine, cache: '${paths.cache}', count: '${data.count}'}\n"
    ),
    "src/losses/mine.py": '''"""A loss of one's own."""
from torch import nn
from torch.nn.functional import multi_margin_loss

class Mine(nn.Module):
    def __init__(self, margin: float = 1.0):
        super().__init__()
        self.margin = margin

    def forward(self, logits, batch):
        return multi_margin_loss(logits, batch["target"], margin=self.margin)
''',
    "configs/loss/mine.yaml": "_target_: src.losses.mine.Mine\nmargin: 1.0\n",
    "src/finetune/mine.py": '''"""A policy of one's own: weights train, biases do not."""
from src.finetune.policy import Policy

class Mine(Policy):
    def trains(self, place):
        return not place.name.endswith("bias")
''',
    "configs/finetune/mine.yaml": "_target_: src.finetune.mine.Mine\n",
    "src/callbacks/mine.py": '''"""A callback of one's own."""
from pytorch_lightning import Callback

class Mine(Callback):
    def __init__(self, word: str):
        self.word = word

    def on_train_start(self, trainer, pl_module):
        print("my callback says", self.word)
''',
    "src/tasks/mine.py": '''"""A task of one's own: a direction in degrees, learnt as a point on the circle."""
import math
import torch
from src.contracts import Task
from src.labels import Numbers

class Degrees(Numbers):
    def encoder(self, classes):
        return lambda cells: (math.cos(math.radians(float(cells[0]))), math.sin(math.radians(float(cells[0]))))

    def text(self, target, classes):
        return (f"{degrees(torch.tensor([target])).item():.4f}",)

def degrees(point):
    return torch.rad2deg(torch.atan2(point[:, 1], point[:, 0])) % 360

def away(found, target):
    return ((degrees(found) - degrees(target) + 180) % 360 - 180).abs()

def mine(classes, monitor, mode, targets=None):
    def metrics():
        from torchmetrics import MetricCollection
        from src.tasks.metrics import Mean
        return MetricCollection({"away": Mean(away)})

    return Task(
        outputs=2, target="numbers", monitor=monitor, mode=mode, metrics=metrics, scores=away,
        decode=lambda found: [{"prediction": value} for value in degrees(found).tolist()],
        skill=lambda found, target: 1 - away(found, target).mean() / 90,
        constant=lambda target: target.mean(0),
    )
''',
    "configs/task/mine.yaml": (
        'defaults: [{ "override /loss@_global_.loss": mse }]\n'
        "_target_: src.tasks.mine.mine\n_partial_: true\nmonitor: val/away\nmode: min\n"
        "labels: { _target_: src.tasks.mine.Degrees }\n"
    ),
    "configs/callbacks/mine.yaml": "mine:\n  _target_: src.callbacks.mine.Mine\n  word: hello\n",
}


def hashes(tree: Path) -> dict[str, str]:
    files = [p for place in ("src", "configs") for p in (tree / place).rglob("*") if p.suffix in (".py", ".yaml")]
    return {str(p.relative_to(tree)): hashlib.sha256(p.read_bytes()).hexdigest() for p in [*files, tree / "train.py"]}


@pytest.mark.slow
def test_one_of_each_is_added_without_touching_another_file_and_trains(tmp_path):
    tree = tmp_path / "copy"
    for place in ("src", "configs"):
        shutil.copytree(ROOT / place, tree / place, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "tests").mkdir()
    for name in ("train.py", "tests/zygote.py"):
        shutil.copy(ROOT / name, tree / name)
    before = hashes(tree)
    for name, text in ADDED.items():
        assert not (tree / name).exists()
        (tree / name).write_text(text)
    words = [
        "model=mine", "data=mine", "loss=mine", "finetune=mine", "callbacks=[default,mine]", "loss.margin=0.5",
        "data.batch_size=8", "trainer.max_epochs=20", "optimizer.lr=0.05", "trainer.accelerator=cpu",
        f"paths.cache={tmp_path / 'cache'}", f"run_dir={tmp_path / 'run'}", "callbacks.mine.word=moin",
    ]  # fmt: skip
    root = made.bars(tmp_path / "bars")
    lines = [line.split(",") for line in (root / "table.csv").read_text().splitlines()[1:]]
    turned = [f"{path},{split},{(float(target) - 1000) / 2}" for path, split, target, _ in lines]
    (root / "turned.csv").write_text("\n".join(["path,split,target", *turned]))
    other = [
        "task=mine", "data=csv", f"data.root={root}", "data.table=turned.csv", "model.name=test_byobnet.glyphs",
        "trainer.max_epochs=20", "data.flip=0", "augment=none", f"paths.cache={tmp_path / 'cache'}",
        f"run_dir={tmp_path / 'turned'}", "trainer.accelerator=cpu",
    ]  # fmt: skip
    with zygote_of(tree, tmp_path / "screen.txt") as own:
        assert own.run(*words) == 0, own.screen
        assert "my callback says moin" in own.screen
        assert "test/acc  100.00 %" in own.screen
        assert own.run(*other) == 0, own.screen
    after = hashes(tree)
    assert {k: after[k] for k in before} == before
    assert set(after) - set(before) == set(ADDED)
    images = tmp_path / "cache" / "mine" / "0.png"
    words = [sys.executable, "-m", "src.predict", str(tmp_path / "run"), str(images), "--out", str(tmp_path / "p.csv")]
    assert subprocess.run(words, cwd=tree, check=False).returncode == 0
    assert ",dark," in (tmp_path / "p.csv").read_text()
    said = json.loads((tmp_path / "turned" / "metrics.json").read_text())
    assert said["test/away"] < 12 < said["test/away/constant"]


def test_no_room_knows_another():
    rooms = {place.name for place in (ROOT / "src").iterdir() if any(place.glob("*.py"))} - {"check"}
    assert {"data", "mix", "models", "stages", "tasks"} <= rooms
    for room in rooms:
        for file in (ROOT / "src" / room).glob("*.py"):
            others = rooms - {room} | {"run", "decide", "build", "check"}
            others -= {"check"} if room == "search" else set()  # a door, whose words are checked as those of train.py
            known = [o for o in others if re.search(rf"^\s*(from|import) src\.{o}\b", file.read_text(), re.M)]
            assert known == [], f"{file} knows {known}"
