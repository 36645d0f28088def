"""Every two parts of a training either train together or are refused before the first batch, with what to do."""

from __future__ import annotations

import itertools
import math
import random
import shlex

import hydra
import pytest
import torch

from src import folder, resume
from src.build import build
from src.check import configs, mistakes
from src.contracts import ConfigError, Run
from src.factory import make
from tests import made
from tests.conftest import ROOT, SMALL
from tests.yamls import node

CHOICES = {
    "loss": [
        "cross_entropy", "cross_entropy loss.class_weights=inverse", "balanced_softmax", "focal", "symmetric_ce", "elr",
        "corn",
    ],
    "mix": list(configs.groups()["mix"]),
    "penalty": list(configs.groups()["penalty"]),
    "adversary": ["none", "fast", "pgd adversary.steps=2 adversary.norm=l2 adversary.eps=0.5"],
    "optimizer": [
        "adamw", "sgd", "sam", "sam optimizer.perturb=norm", "timm optimizer.opt=lion",
        "timm optimizer.opt=lamb",
    ],
    "scheduler": ["cosine", "step", "one_cycle"],
    "augment": ["none", "light", "augmix", "three_augment"],
    "finetune": list(configs.groups()["finetune"]),
    "trainer.precision": ["32-true", "bf16-mixed", "64-true"],
    "trainer.gradient_clip_algorithm": ["norm", "value", "agc trainer.gradient_clip_val=0.1"],
}  # fmt: skip


def covering(seed: int = 0, tries: int = 30) -> list[dict[str, str]]:
    """Rows in which every two options of different groups meet: greedily, the best of some random ones each time."""
    draw, groups = random.Random(seed), list(CHOICES)
    left = {
        frozenset({(a, x), (b, y)})
        for a, b in itertools.combinations(groups, 2) for x in CHOICES[a] for y in CHOICES[b]
    }  # fmt: skip
    rows = []
    while left:
        first = dict(min(left, key=sorted))
        best, most = {}, -1
        for _ in range(tries):
            row = {g: first.get(g) or draw.choice(CHOICES[g]) for g in groups}
            met = sum(frozenset(pair) in left for pair in itertools.combinations(row.items(), 2))
            best, most = (row, met) if met > most else (best, most)
        left -= {frozenset(pair) for pair in itertools.combinations(best.items(), 2)}
        rows.append(best)
    return rows


def words(row: dict[str, str]) -> list[str]:
    return [word for key, value in row.items() for word in f"{key}={value}".split()]


def built(said: list[str], place, shapes) -> Run:
    """A run on `shapes` of two steps."""
    said = [
        "data=folder", f"data.root={shapes}", "data.batch_size=8", *SMALL, "recipe=off", "select=last",
        "callbacks=[ema]", "logger=[]", f"paths.cache={place / 'cache'}",
        f"run_dir={place / 'run'}",
        "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=0",
        "trainer.enable_progress_bar=false", *said,
    ]  # fmt: skip
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = resume.plain(hydra.compose("train", said))
    home = folder.RunFolder(place / "run")
    home.path.mkdir(exist_ok=True)
    return build(cfg, home)


def tried(said: list[str], place, shapes) -> str:
    """What a refusal says, or '' where two steps gave a finite loss and weights."""
    try:
        r = built(said, place, shapes)
    except ConfigError as refusal:
        return str(refusal)
    trainer, module = r.trainer(), r.module(r.network())
    trainer.fit(module, datamodule=r.loaders)
    assert trainer.global_step == 2 and math.isfinite(float(trainer.callback_metrics["train/loss"]))
    assert all(p.isfinite().all() for p in module.parameters())
    return ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*in eval mode at the start of training")
def test_every_pair_trains_or_is_refused_with_what_to_do(shapes, tmp_path):
    trained = 0
    for i, row in enumerate(covering()):
        (tmp_path / str(i)).mkdir()
        refusal = tried(words(row), tmp_path / str(i), shapes)
        trained += not refusal
        assert not refusal or ("\n" in refusal and "=" in refusal.splitlines()[0]), (row, refusal)
    assert trained > 10


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("loss=elr mix=mixup", "parts of two"),
        ("loss=corn mix=both", "parts of two"),
        ("mix=mixup mix.off_epochs=1", "mix.off_epochs=1"),
        ("mix=cutmix task=regression", "not what the mixed image shows"),
        ("data.sampler=balanced loss=logit_adjusted", "once more"),
        ("data.sampler=sqrt loss.class_weights=effective", "once more"),
        ("optimizer=sam optimizer.perturb=norm finetune=head", "normalisation layer"),
        ("callbacks.ema.last=0.5 callbacks.ema.decay=0.9", "two rules"),
    ],
)
def test_what_is_wrong_together_is_refused_with_both_names_and_a_way_out(shapes, tmp_path, said, why):
    if "task=" in said:
        root = made.bars(tmp_path / "bars", 24)
        said += f" data=csv data.root={root} data.table=table.csv"
    refusal = tried(said.split(), tmp_path, shapes)
    assert why in refusal and "\nSet " in refusal and said.split("=")[0] in refusal


def test_numbers_outside_their_range_are_refused_at_the_door():
    for word in (
        "mix=mixup mix.alpha=-1", "mix=cutmix mix.probability=0", "mix=both mix.cut=1", "mix=mixup mix.off_epochs=-1",
        "loss.label_smoothing=1.2", "loss=logit_adjusted loss.tau=-1", "loss.class_weights=some",
        "loss=elr loss.memory=1",
        "loss=symmetric_ce loss.floor=1", "penalty=l2_sp penalty.alpha=-1", "optimizer=sam optimizer.rho=0",
        "optimizer=sam optimizer.perturb=head", "data.sampler=often", "callbacks.ema.last=0",
        "scheduler=step 'scheduler.shape.milestones=[0.8,0.5]'", "scheduler=step scheduler.shape.factor=2",
        "augment=augmix augment.policy.severity=11", "trainer.gradient_clip_algorithm=agc",
        "optimizer=sam trainer.accumulate_grad_batches=2", "optimizer=sam trainer.precision=16-mixed",
        "adversary=pgd adversary.steps=0", "adversary=fast adversary.eps=-1", "adversary=fast adversary.eps=4/0",
        "adversary=pgd adversary.norm=l1", "adversary=fast trainer.precision=16-mixed",
    ):  # fmt: skip
        said = shlex.split(word)
        (found,) = mistakes(said)
        assert "must be" in found or "Set " in found or "Leave out" in found, word


def test_numbers_outside_their_range_are_refused_where_they_are_used_too():
    for group, name, values in (
        ("mix", "mixup", {"alpha": -1.0}), ("mix", "cutmix", {"alpha": 0.0}), ("mix", "both", {"cut": 1.0}),
        ("mix", "mixup", {"probability": 1.2}), ("mix", "mixup", {"off_epochs": -1}),
        ("loss", "logit_adjusted", {"tau": -1.0}), ("loss", "cross_entropy", {"beta": 1.0}),
        ("loss", "cross_entropy", {"class_weights": "some"}), ("loss", "elr", {"memory": 1.0}),
        ("loss", "elr", {"strength": -1.0}), ("loss", "symmetric_ce", {"floor": 0.0}),
        ("loss", "focal", {"gamma": -1.0}),
        ("loss", "symmetric_ce", {"alpha": 0.0, "beta": 0.0}),
    ):  # fmt: skip
        said = {**node(group, name, **values), "_partial_": False}
        more = {"counts": (1, 2), "images": 3} if node(group, name).get("_partial_") else {}
        with pytest.raises(ConfigError, match="\n"):
            make(said, **more)
    with pytest.raises(ConfigError, match="penalty.beta=-1"):
        make(node("penalty", "l2_sp", beta=-1.0))(torch.nn.Linear(2, 2))
