"""Every two parts of a training either train together or are refused before the first batch, with what to do."""

from __future__ import annotations

import itertools
import math
import random
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import hydra
import pytest
import torch
from pytorch_lightning.callbacks import Callback

from src import folder, resume
from src.build import build
from src.check import configs, mistakes
from src.contracts import ConfigError, Run
from src.factory import make
from src.progressive import Progressive
from src.stages.predict import predictions
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
    "distill": ["none", "run distill.teacher.folder=TEACHER", "run distill.teacher.folder=TEACHER distill.alpha=1"],
    "data.sampler": ["shuffled", "balanced", "group"],
    "data.progressive": ["null", "0.75"],  # below, oneDNN gives bf16 gradients that are not finite
    "model.head": ["linear", "stages", "cosine"],
    "adversary": ["none", "fast", "pgd adversary.steps=2 adversary.norm=l2 adversary.eps=0.5"],
    "optimizer": [
        "adamw", "sgd", "sam", "sam optimizer.perturb=norm", "timm optimizer.opt=lion",
        "timm optimizer.opt=lamb",
    ],
    "scheduler": ["linear", "step", "one_cycle"],
    "augment": ["none", "light", "augmix", "three_augment", "trivial data.colour=false"],
    "finetune": list(configs.groups()["finetune"]),
    "trainer.precision": ["32-true", "bf16-mixed", "64-true"],
    "trainer.gradient_clip_algorithm": ["norm", "value", "agc trainer.gradient_clip_val=0.1"],
    "model.grad_checkpointing": ["false", "true"],
}  # fmt: skip

USUAL = {
    key: next((option for option in options if option in ("none", "full")), options[0])
    for key, options in CHOICES.items()
}
OTHER = {"attention": ("model.name=test_vit", "model.image_size=64", "model.dynamic=true")}
GENTLE = ("trainer.max_epochs=2", "trainer.overfit_batches=1", "optimizer.lr=3e-5")  # two steps on one batch
NEVER = (("loss", "mix"), ("loss", "data.sampler"), ("optimizer", "finetune"))  # some options of these
ROUNDED = 5e-2  # by which an attack that is made anew in bf16 may change a loss that falls less


def covering(seed: int = 0, tries: int = 300) -> list[dict[str, str]]:
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


def words(row: dict[str, str], teacher: object) -> list[str]:
    return [w.replace("TEACHER", str(teacher)) for key, value in row.items() for w in f"{key}={value}".split()]


def grouped(shapes: Path, place: Path) -> list[str]:
    """The same images in a table, each in one of three groups."""
    files = sorted(file.relative_to(shapes) for file in shapes.glob("*/*/*.png"))
    rows = [f"{f.as_posix()},{f.parts[0]},{f.parts[1]},{f.parts[0]}{i % 3}" for i, f in enumerate(files)]
    (place / "grouped.csv").write_text("\n".join(["path,split,target,group", *rows]) + "\n")
    return ["data=csv", f"data.root={shapes}", f"data.table={place / 'grouped.csv'}", "data.group=group"]


def built(said: list[str], place, shapes) -> Run:
    """A run on `shapes` of two steps."""
    said = [
        "data=folder", f"data.root={shapes}", "data.batch_size=8", *SMALL, "recipe=off", "select=auto",
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


class Watched(Callback):
    """The objective of the first batch, by the same chance, before and after the fit."""

    def __init__(self):
        self.batch, self.losses = None, []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if self.batch is None:
            module.place = 0, 0, 0
            self.batch = module.mixed(batch)
            self.look(module)

    def on_train_end(self, trainer, module):
        module.place = 0, 0, 0
        self.look(module)

    def look(self, module):
        with module.trainer.precision_plugin.forward_context(), module.again():
            self.losses.append(module.objective(self.batch).item())


def tried(said: list[str], place, shapes) -> str:
    """What a refusal says, or '' where two steps gave a finite loss and weights, and did not make it worse on the first
    batch."""
    try:
        r = built(said, place, shapes)
    except ConfigError as refusal:
        return str(refusal)
    trainer, module, watched = r.trainer(), r.module(r.network()), Watched()
    trainer.callbacks.append(watched)
    trainer.fit(module, datamodule=r.loaders)
    assert trainer.global_step == 2 and math.isfinite(float(trainer.callback_metrics["train/loss"]))
    assert all(p.isfinite().all() for p in module.parameters())
    before, after = watched.losses
    assert after <= before + ROUNDED, said
    return ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*in eval mode at the start of training")
def test_every_pair_trains_or_is_refused_with_what_to_do(shapes, whole, tmp_path):
    """Where two are refused that met among others, it is tried whether that is for their own sake."""
    images, trained, refused = grouped(shapes, tmp_path), set(), set()

    def meet(row: dict[str, str]) -> str:
        (place := tmp_path / f"{len(list(tmp_path.iterdir()))}").mkdir()
        refusal = tried([*images, *words(row, whole), *GENTLE, *OTHER.get(row["finetune"], ())], place, shapes)
        assert not refusal or ("\n" in refusal and "=" in refusal.splitlines()[0]), (row, refusal)
        return refusal

    for row in covering():
        (refused if meet(row) else trained).update(map(frozenset, itertools.combinations(row.items(), 2)))
    alone = {pair for pair in sorted(refused - trained, key=sorted) if meet(USUAL | dict(pair))}
    assert {frozenset(group for group, _ in pair) for pair in alone} == set(map(frozenset, NEVER)) and len(alone) == 13
    assert len(trained | refused) > 1500


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
        ("callbacks.ema.memory=0.2 callbacks.ema.last=0.5", "two rules"),
        ("loss.beta=0.9 loss.class_weights=inverse", "`effective` have a beta"),
        ("data.sampler=group", "no group of these images is known"),
        ("data.progressive=0.5", "all would see whole images"),
        ("data.progressive=0.5 trainer.max_epochs=-1 trainer.max_steps=4", "goes by epochs"),
        ("data.progressive=0.5 trainer.max_epochs=4 model.name=deit_tiny_patch16_224", "model.dynamic=true"),
        ("data.colour=false augment=jitter", "nothing but change colours"),
        ("augment=auto", "no recipe has decided it"),
        ("select=last", "callbacks.last: it is that callback that keeps"),
        ("select=best+mirror callbacks=[last]", "callbacks.best: it is that callback that keeps"),
        ("select=ema callbacks=[last]", "callbacks.ema: it is that callback that keeps"),
    ],
)
def test_what_is_wrong_together_is_refused_with_both_names_and_a_way_out(shapes, tmp_path, said, why):
    if "task=" in said:
        root = made.bars(tmp_path / "bars", 24)
        said += f" data=csv data.root={root} data.table=table.csv"
    refusal = tried(said.split(), tmp_path, shapes)
    assert why in refusal and re.search(r"\n(Set|Leave|Use) ", refusal) and said.split("=")[0] in refusal
    assert not re.search("loss=[A-Z]", refusal)  # options, as they are typed


def test_a_transformer_that_takes_other_sizes_grows_with_its_images(shapes, tmp_path):
    name = "model.name=deit_tiny_patch16_224 model.dynamic=true model.image_size=64"
    said = f"data.progressive=0.4 trainer.max_epochs=5 {name}"
    r = built(said.split(), tmp_path, shapes)
    module = r.module(r.network())
    assert [module.progressive.at(e) for e in range(5)] == [(32, 32), (32, 32), (48, 48), (48, 48), (64, 64)]
    batch = {"image": torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "target": torch.tensor([0, 1])}
    assert module.objective(module.progressive(batch, 0)).isfinite()


def test_images_grow_by_epoch_and_are_whole_in_the_last_fifth():
    grow = Progressive(0.5, (96, 64), 10)
    sizes = [grow.at(epoch) for epoch in range(10)]
    assert sizes[0] == (48, 32) and sizes[4] == (72, 48) and sizes[8] == sizes[9] == (96, 64)
    assert sizes == sorted(sizes) and all(side % 4 == 0 for size in sizes for side in size)
    ramp = torch.arange(96).view(96, 1).expand(2, 3, 96, 64).to(torch.uint8)
    small = grow({"image": ramp, "target": torch.zeros(2)}, 0)["image"]
    assert small.shape == (2, 3, 48, 32) and small.dtype == torch.uint8
    assert (small[0, 0, 1:-1, 0].float() - (torch.arange(48) * 2 + 0.5)[1:-1]).abs().max() <= 1
    assert grow({"image": ramp}, 9)["image"] is ramp


def test_numbers_outside_their_range_are_refused_at_the_door():
    for word in (
        "mix=mixup mix.alpha=-1", "mix=cutmix mix.probability=0", "mix=both mix.cut=1", "mix=mixup mix.off_epochs=-1",
        "loss.label_smoothing=1.2", "loss=logit_adjusted loss.tau=-1", "loss.class_weights=some",
        "loss=elr loss.memory=1",
        "loss=symmetric_ce loss.floor=1", "penalty=l2_sp penalty.alpha=-1", "optimizer=sam optimizer.rho=0",
        "optimizer=sam optimizer.perturb=head", "data.sampler=often", "data.progressive=1.5",
        "distill=run distill.teacher.folder=x distill.alpha=0", "augment=auto recipe=off", "callbacks.ema.last=0",
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


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*in eval mode at the start of training")
@pytest.mark.parametrize("ends", ["callbacks.deadline.seconds=10 callbacks=[deadline]", "trainer.max_steps=10"])
def test_a_fit_that_ends_early_ends_with_whole_images_that_are_not_mixed(shapes, tmp_path, monkeypatch, ends):
    """Of 20 epochs of two updates there is time, or there are updates, for five."""
    from src.callbacks import deadline

    said = f"{ends} trainer.max_epochs=20 data.progressive=0.5 mix=mixup mix.off_epochs=4"
    r, seen, clock = built(said.split(), tmp_path, shapes), [], itertools.count()
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    trainer, module = r.trainer(), r.module(r.network())
    mixed = module.mixed

    def watched(batch):
        found = mixed(batch)
        seen.append((found["image"].shape[-1], found["target"].ndim == 2))
        return found

    module.mixed = watched
    trainer.fit(module, datamodule=r.loaders)
    sizes, were = zip(*seen, strict=True)
    assert 9 <= len(seen) <= 11 and trainer.current_epoch < 7
    assert sizes[0] == 16 and sizes[-1] == 32 and sizes == tuple(sorted(sizes)) and len(set(sizes)) > 3
    assert were[0] and not were[-1] and were == tuple(sorted(were, reverse=True))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_batches_that_are_not_all_have_images_of_all_classes(shapes, tmp_path, split):
    r = built([f"trainer.limit_{split}_batches=1"], tmp_path, shapes)
    index, logits, target = predictions(r, r.network().eval(), split)
    assert len(index) == len(logits) == 8 and set(target.tolist()) == {0, 1}
    assert index.tolist() == sorted(index.tolist())
    assert target.tolist() == [r.source.splits[split].targets[i] for i in index.tolist()]
