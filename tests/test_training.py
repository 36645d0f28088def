"""What changes a training step does what its paper says: mixing, SAM, L2-SP, clipping, samplers, priors."""

from __future__ import annotations

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn.functional import cross_entropy

from src import combined, rng
from src.contracts import InputSpec, Split
from src.data.loader import Shuffled
from src.data.sampler import cells, sampled, times
from src.data.transforms import Augment, evaluation
from src.factory import make
from src.losses.logit_adjusted import BalancedSoftmax
from src.sam import SAM
from src.tasks.multiclass import multiclass
from tests.test_combined import built
from tests.yamls import CONFIGS, node

quiet = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*in eval mode at the start")


def fitted(said: str, place, shapes):
    """(the run, its module after the fit, what its training began with)."""
    r = built(said.split(), place, shapes)
    module = r.module(r.network())
    before = copy.deepcopy(module.network)
    trainer = r.trainer()
    trainer.fit(module, datamodule=r.loaders)
    module.loss_of_epoch = float(trainer.callback_metrics["train/loss"])
    return r, module, before


def close(a: nn.Module, b: nn.Module) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6, msg=name)


# mixing

IMAGES = torch.randint(0, 256, (6, 3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 1, 2, 2, 1, 0])


def mixed(name: str, seed: int = 0, **values) -> dict[str, torch.Tensor]:
    return make(node("mix", name, **values))({"image": IMAGES, "target": TARGET}, 3, np.random.default_rng(seed))


def test_mixup_is_the_mean_of_pairs_and_of_their_targets():
    found, draw = mixed("mixup", alpha=0.4), np.random.default_rng(0)
    draw.random()
    other, part = draw.permutation(6), draw.beta(0.4, 0.4)
    images, targets = IMAGES.numpy() / 255, np.eye(3)[TARGET]
    np.testing.assert_allclose(found["image"], part * images + (1 - part) * images[other], atol=1e-6)
    np.testing.assert_allclose(found["target"], part * targets + (1 - part) * targets[other], atol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_pastes_one_rectangle_and_counts_its_pixels(seed):
    found, draw = mixed("cutmix", seed), np.random.default_rng(seed)
    draw.random()
    other, part = draw.permutation(6), draw.beta(1, 1)
    y, x = draw.integers(20), draw.integers(30)
    there = (found["image"] != IMAGES).any(1).any(0).numpy()  # some image differs from its own
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    area = np.zeros((20, 30), bool)
    if len(rows):
        area[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    expected = np.where(area, IMAGES[other].numpy(), IMAGES.numpy())
    assert found["image"].dtype == torch.uint8 and (found["image"].numpy() == expected).all()
    high, wide = int(20 * math.sqrt(1 - part)), int(30 * math.sqrt(1 - part))
    inside = [min(c - s // 2 + s, most) - max(c - s // 2, 0) for c, s, most in ((y, high, 20), (x, wide, 30))]
    assert area.sum() == max(inside[0], 0) * max(inside[1], 0)  # less only at the edges
    targets, part = np.eye(3)[TARGET], 1 - area.mean()
    np.testing.assert_allclose(found["target"], part * targets + (1 - part) * targets[other], atol=1e-6)


def test_both_are_each_as_often_as_asked_and_probability_leaves_batches_alone():
    kinds = [mixed("both", seed, cut=0.25, probability=0.5) for seed in range(200)]
    alone = sum(found["target"].ndim == 1 for found in kinds)
    cut = sum(found["target"].ndim == 2 and found["image"].dtype == torch.uint8 for found in kinds)
    assert 75 < alone < 125 and 12 < cut < 40


def test_labels_are_mixed_as_they_are():
    labels = torch.tensor([[1, 0], [0, 0], [1, 1], [0, 1], [1, 0], [0, 0]])
    found = make(node("mix", "mixup"))({"image": IMAGES, "target": labels}, 2, np.random.default_rng(3))["target"]
    draw = np.random.default_rng(3)
    draw.random()
    other, part = draw.permutation(6), draw.beta(0.2, 0.2)
    np.testing.assert_allclose(found, part * labels.numpy() + (1 - part) * labels.numpy()[other], atol=1e-6)


def test_the_last_epochs_mix_nothing():
    mix = make(node("mix", "mixup", off_epochs=2))
    assert [mix.on(epoch, 5) for epoch in range(5)] == [True, True, True, False, False]
    assert make(node("mix", "mixup")).on(0, None)


@quiet
def test_a_step_learns_the_mixture_that_its_key_draws_and_validation_sees_none(shapes, tmp_path):
    said = "mix=mixup trainer.limit_train_batches=1 optimizer=sgd trainer.gradient_clip_val=null"
    r, module, network = fitted(said, tmp_path, shapes)
    batch = next(iter(r.loaders.loader("train", train=True)))
    batch = make(node("mix", "mixup"))(batch, 2, np.random.default_rng(rng.key(0, "mix", 0, 0, 0)))
    network.train()
    rng.seed(0, "step", 0, 0, 0)
    log_p = network(batch["image"]).log_softmax(1)
    assert module.loss_of_epoch == pytest.approx(float(-(batch["target"] * log_p).sum(1).mean().detach()), rel=1e-5)


# SAM


def by_hand(network, batch, rho: float, only: str, clip: float) -> float:
    """One step of SAM as the paper has it, around SGD with momentum 0.9 (whose first step is the gradient)."""

    def slopes() -> tuple[float, dict[str, torch.Tensor]]:
        rng.seed(0, "step", 0, 0, 0)
        network.zero_grad()
        loss = cross_entropy(network(batch["image"]), batch["target"])
        loss.backward()
        return loss.item(), {n: p.grad.clone() for n, p in network.named_parameters()}

    network.train()
    loss, first = slopes()
    statistics = {n: b.clone() for n, b in network.named_buffers()}
    norms = tuple(f"{n}." for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d))
    first = {n: g for n, g in first.items() if only == "all" or n.startswith(norms)}
    size = math.sqrt(sum(float(g.double().square().sum()) for g in first.values()))
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    with torch.no_grad():
        for n, p in network.named_parameters():
            p.add_(rho * first[n] / size if n in first else 0)
    _, second = slopes()
    total = math.sqrt(sum(float(g.double().square().sum()) for g in second.values()))
    with torch.no_grad():
        for n, p in network.named_parameters():
            p.copy_(before[n] - 0.1 * min(1, clip / (total + 1e-6)) * second[n] * 1.9)  # Nesterov's first step
        for n, b in network.named_buffers():
            b.copy_(statistics[n])
    return loss


@quiet
@pytest.mark.parametrize("only", ["all", "norm"])
@pytest.mark.parametrize("clip", [1e9, 0.05])
def test_sam_steps_by_the_gradient_at_the_worst_weights_nearby(shapes, tmp_path, only, clip):
    said = (
        f"optimizer=sam optimizer.perturb={only} optimizer.rho=0.3 optimizer.base.opt=sgd optimizer.lr=0.1 "
        f"optimizer.weight_decay=0 scheduler=constant scheduler.warmup=0 trainer.limit_train_batches=1 "
        f"trainer.gradient_clip_val={clip} model.drop_rate=0.3"
    )
    r, module, network = fitted(said, tmp_path, shapes)
    batch = next(iter(r.loaders.loader("train", train=True)))
    loss = by_hand(network, batch, 0.3, only, clip)
    close(module.network, network)  # weights; BatchNorm's statistics and counts of one pass
    assert module.loss_of_epoch == pytest.approx(loss, rel=1e-5)  # of the first pass


def test_sam_keeps_no_trace_of_its_climb_and_its_state_is_that_of_its_base():
    torch.manual_seed(0)
    network, x = nn.Linear(4, 2), torch.randn(8, 4)
    sam = make(node("optimizer", "sam"))([{"params": list(network.parameters()), "lr": 0.0, "weight_decay": 0.0}])
    before = copy.deepcopy(network.state_dict())

    def closure():
        sam.zero_grad()
        loss = network(x).square().mean()
        loss.backward()
        return loss

    sam.step(closure)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    again: SAM = make(node("optimizer", "sam"))(
        [{"params": list(network.parameters()), "lr": 0.1, "weight_decay": 0.0}]
    )
    again.load_state_dict(sam.state_dict())
    assert again.param_groups is again.base.param_groups and again.state is again.base.state
    assert again.param_groups[0]["lr"] == 0.0 and len(again.state) == 2


# L2-SP, AGC


def test_l2_sp_is_its_equation_and_starts_at_nothing():
    torch.manual_seed(0)
    network = nn.ModuleDict({"backbone": nn.Linear(3, 3), "head": nn.Linear(3, 2)})
    network.register_buffer("mean", torch.zeros(1))
    network["backbone"].bias.requires_grad_(False)
    penalty = make(node("penalty", "l2_sp", alpha=0.6, beta=0.2))(network)
    assert penalty(network).item() == 0
    with torch.no_grad():
        network["backbone"].weight += 0.5
        network["backbone"].bias += 7  # is frozen, and does not count
        network["head"].bias -= 2
    found = penalty(network)
    assert found.item() == pytest.approx(0.3 * 9 * 0.25 + 0.1 * 2 * 4, rel=1e-5)
    found.backward()
    torch.testing.assert_close(network["backbone"].weight.grad, torch.full((3, 3), 0.3))
    torch.testing.assert_close(network["head"].bias.grad, torch.full((2,), -0.4))


def test_the_gradient_of_l2_sp_lies_in_memory_as_the_weights_do():
    """Of a 1 x 1 convolution in channels_last DDP takes another layout for a mistake, and says so in every run."""
    network = nn.ModuleDict({"backbone": nn.Conv2d(4, 3, 1), "head": nn.Linear(3, 2)}).to(
        memory_format=torch.channels_last
    )
    network.register_buffer("mean", torch.zeros(1))
    penalty, weight = make(node("penalty", "l2_sp"))(network), network["backbone"].weight
    image = torch.randn(2, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        weight += 1
    (network["backbone"](image).mean() + penalty(network)).backward()
    assert weight.stride() != (4, 1, 1, 1) and weight.grad.stride() == weight.stride()


@quiet
def test_agc_clips_each_unit_by_its_weights_and_leaves_the_head_alone(shapes, tmp_path):
    said = (
        "trainer.gradient_clip_algorithm=agc trainer.gradient_clip_val=0.02 optimizer=sgd optimizer.lr=1 "
        "optimizer.weight_decay=0 optimizer.momentum=0 optimizer.nesterov=false scheduler=constant scheduler.warmup=0 "
        "trainer.limit_train_batches=1"
    )
    r, module, network = fitted(said, tmp_path, shapes)
    batch = next(iter(r.loaders.loader("train", train=True)))
    network.train()
    rng.seed(0, "step", 0, 0, 0)
    cross_entropy(network(batch["image"]), batch["target"]).backward()
    clipped = 0
    with torch.no_grad():
        for name, p in network.named_parameters():
            units = range(len(p)) if p.ndim > 1 else [slice(None)]  # a bias is one unit, as in timm
            for u in units if not name.startswith("head.") else []:
                most, size = 0.02 * max(float(p[u].norm()), 1e-3), float(p.grad[u].norm())
                clipped += size > most
                p.grad[u] *= min(1.0, most / max(size, 1e-6))
            p -= p.grad
    close(module.network, network)
    assert clipped > 10


# samplers

UNEVEN = [0] * 40 + [1] * 8 + [2] * 2


@pytest.mark.parametrize(("sampler", "shares"), [("balanced", [1 / 3] * 3), ("sqrt", [40**0.5, 8**0.5, 2**0.5])])
def test_an_epoch_has_the_shares_that_were_asked_for_and_as_many_images(sampler, shares):
    drawn = [sampled(UNEVEN, sampler, 0, "order", epoch) for epoch in range(300)]
    counts = np.array([np.bincount(np.array(UNEVEN)[d], minlength=3) for d in drawn])
    exact = 50 * np.array(shares) / sum(shares)
    assert (counts.sum(1) == 50).all() and (abs(counts - exact) < 1 + 1e-9).all()
    assert abs(counts.mean(0) - exact).max() < 0.1  # the remainder is fair
    times = np.array([np.bincount(d, minlength=50) for d in drawn])
    for c in range(3):  # of a class, none comes again before all have come
        mine = times[:, [i for i, t in enumerate(UNEVEN) if t == c]]
        assert (mine.max(1) - mine.min(1) <= 1).all()
    assert (times.sum(0) > 0).all() and not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[7], sampled(UNEVEN, sampler, 0, "order", 7)) and not torch.equal(
        drawn[7], sampled(UNEVEN, sampler, 1, "order", 7)
    )


def test_every_group_of_every_class_comes_as_often():
    groups = (
        [0] * 38 + [1] * 2 + [0] * 2 + [1] * 6 + [0, 0]
    )  # the second class has few of the first, the third one none
    mine = cells(UNEVEN, groups, "group")
    assert len(set(mine.tolist())) == 5
    drawn = [np.bincount(mine[sampled(mine, "group", 0, epoch)], minlength=5) for epoch in range(20)]
    assert (np.array(drawn) == 10).all()
    assert (cells(UNEVEN, (), "balanced") == UNEVEN).all()


@pytest.mark.parametrize("sampler", ["shuffled", "balanced", "sqrt", "group"])
def test_ranks_share_an_epoch_and_a_resume_goes_on_in_it(sampler):
    mine = cells(UNEVEN, [i % 2 for i in range(50)], sampler)
    arrange = None if sampler == "shuffled" else partial(sampled, mine, sampler)
    alone = list(Shuffled(50, 4, 0, 0, 1, arrange=arrange))
    whole = [key for batch in alone for key in batch]
    assert len(set(whole)) == 50  # an image that comes again has another view
    ranks = [list(Shuffled(50, 4, 0, rank, 2, arrange=arrange)) for rank in range(2)]
    assert sorted(map(str, whole)) == sorted(str(key) for batches in ranks for batch in batches for key in batch)
    assert list(Shuffled(50, 4, 0, 0, 1, start=3, arrange=arrange)) == alone[3:]


def test_the_times_that_an_image_has_come_before_are_counted():
    assert times(torch.tensor([5, 3, 5, 5, 3])).tolist() == [0, 0, 1, 2, 1]
    assert not times(torch.randperm(100)).any()


# priors


def head_after(cfg_sampler: str, loss, counts: tuple[int, ...], monitor: str) -> list[float]:
    """The bias of a trained head that says nothing of its own, after what the task takes out of it."""
    task = multiclass(tuple("abc"), monitor, "max")
    target = torch.tensor([c for c, n in enumerate(counts) for _ in range(n)])
    train = Split(
        ("",) * len(target), tuple(target.tolist()), tuple(i % 2 * (c < 1) for i, c in enumerate(target.tolist()))
    )
    task = combined.fair({"data": {"sampler": cfg_sampler}}, task, train, lambda: loss)
    trained, closing = (torch.zeros(3, 2), torch.zeros(3)), (torch.zeros(3, 2), torch.zeros(3))
    bias = task.mix(trained, closing, (1.0, 0.0), target)[1]
    return (bias - bias[0]).tolist()


def test_a_prior_is_taken_out_once():
    counts, plain = (80, 16, 4), make(node("loss", "cross_entropy"))(counts=(80, 16, 4), images=100)
    fair, acc = "val/balanced_acc", "val/acc"
    whole, root = [0, math.log(5), math.log(20)], [0, math.log(5) / 2, math.log(20) / 2]
    assert head_after("shuffled", plain, counts, fair) == pytest.approx(whole)
    assert head_after("balanced", plain, counts, fair) == pytest.approx([0, 0, 0], abs=1e-6)
    assert head_after("group", plain, counts, fair) == pytest.approx([0, math.log(2), math.log(2)], abs=1e-6)
    assert head_after("sqrt", plain, counts, fair) == pytest.approx(root, abs=1e-6)
    assert head_after("shuffled", BalancedSoftmax(counts=counts), counts, fair) == pytest.approx([0, 0, 0], abs=1e-6)
    half = make(node("loss", "logit_adjusted", tau=0.5))(counts=counts, images=100)
    assert head_after("shuffled", half, counts, fair) == pytest.approx(root, abs=1e-6)
    inverse = make(node("loss", "cross_entropy", class_weights="inverse"))(counts=counts, images=100)
    assert head_after("shuffled", inverse, counts, fair) == pytest.approx([0, 0, 0], abs=1e-6)
    for sampler, loss in (("shuffled", plain), ("balanced", plain), ("shuffled", half)):
        assert head_after(sampler, loss, counts, acc) == [0, 0, 0]


# crops and colours


def test_elongated_images_are_cut_in_the_shape_in_which_they_will_be_tested():
    """Of the whole area and no other shape than its own, a crop is what squash shows; crop and pad keep shapes."""
    spec = InputSpec((32, 32), 3, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    image = torch.randint(0, 256, (3, 40, 100), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tested = evaluation(spec, "squash")(image)
    for resize in ("squash", "crop", "pad"):
        own = {"scale": [1, 1], "ratio": [1, 1], "flip": 0.0, "colour": True, "resize": resize}
        augment = make(node("augment", "light", **own))
        assert torch.equal(augment(spec)(image), tested) == (resize == "squash"), resize
    assert not torch.equal(Augment(spec, [1, 1], [1, 1], 0.0)(image), tested)  # as an older run's config says it


@pytest.mark.parametrize("name", ["trivial", "randaug", "augmix"])
def test_a_training_image_keeps_its_colours_where_they_are_the_label(name):
    """Of an image of one colour, what moves and shears leaves that colour, black from outside, or a blend of them."""
    spec = InputSpec((32, 32), 3, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    own = torch.tensor([200.0, 40, 90]).view(3, 1, 1)
    for colour in (False, True):
        policy = make(OmegaConf.to_container(OmegaConf.load(CONFIGS / "augment" / f"{name}.yaml"))["policy"])
        augment, kept, moved = Augment(spec, policy=policy, colour=colour), [], []
        for seed in range(40):
            torch.manual_seed(seed)
            seen = augment(own.to(torch.uint8).expand(3, 40, 40)).float()
            kept.append(float((seen - seen[:1] / 200 * own).abs().max()) <= 2)
            moved.append(bool((seen == 0).all(0).any()))
        assert all(kept) != colour and (any(moved) or name == "augmix")
