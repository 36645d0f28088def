"""Attacks find the worst image nearby, training on them helps against them, and changes nothing else of a step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from src import rng
from src.attacks import length, pgd, start
from src.contracts import ConfigError
from src.factory import make
from tests import made
from tests.test_combined import tried
from tests.test_training import close, fitted, quiet
from tests.yamls import node

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
WEIGHT = torch.randn(3 * 8 * 8, generator=torch.Generator().manual_seed(1))


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slope(image: torch.Tensor) -> torch.Tensor:
    """Of a linear model's loss log(1 + exp(-w x))."""
    image = image.detach().requires_grad_()
    loss = torch.nn.functional.softplus(-(image.flatten(1) @ WEIGHT)).sum()
    return torch.autograd.grad(loss, image)[0]


@pytest.mark.parametrize("steps", [1, 10])
def test_of_a_linear_model_the_worst_image_is_the_closed_form(steps):
    direction = -WEIGHT.view(1, 3, 8, 8)
    found = pgd(IMAGES, slope, 0.1, "linf", steps, 0.1 * 2.5 if steps > 1 else 0.2, chance())
    torch.testing.assert_close(found, (IMAGES + 0.1 * direction.sign()).clamp(0, 1))
    if steps > 1:
        found = pgd(IMAGES, slope, 0.1, "l2", 60, 0.05, chance())
        torch.testing.assert_close(found, IMAGES + 0.1 * direction / WEIGHT.norm(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_start_is_in_the_ball_and_a_function_of_its_key(norm):
    found = start(IMAGES, 0.15, norm, chance(3)) - IMAGES
    size = found.abs().flatten(1).amax(1) if norm == "linf" else length(found)
    assert (size <= 0.15 + 1e-6).all() and size.max() > 0.05
    assert torch.equal(found, start(IMAGES, 0.15, norm, chance(3)) - IMAGES)
    assert not torch.equal(found, start(IMAGES, 0.15, norm, chance(4)) - IMAGES)


def test_distances_are_numbers_or_fractions_and_nonsense_is_refused():
    assert make(node("adversary", "pgd", eps="8/255")).eps == pytest.approx(8 / 255)
    for name, values in (
        ("pgd", {"eps": -0.1}), ("pgd", {"eps": 1.5}), ("pgd", {"eps": "1/0"}), ("pgd", {"eps": "some"}),
        ("fast", {"norm": "l1"}), ("pgd", {"steps": 0}), ("fast", {"step": 0.0}),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="\n"):
            make(node("adversary", name, **values))


@quiet
def test_no_distance_is_plain_training_to_the_last_bit(shapes, tmp_path):
    plain = "optimizer=sgd model.drop_rate=0.3"
    (tmp_path / "a").mkdir()
    _, first, _ = fitted(plain, tmp_path, shapes)
    _, second, _ = fitted(f"{plain} adversary=pgd adversary.eps=0 adversary.steps=3", tmp_path / "a", shapes)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert first.loss_of_epoch == second.loss_of_epoch


@quiet
def test_a_step_learns_the_worst_images_with_the_dropout_and_statistics_of_one_pass(shapes, tmp_path):
    said = (
        "adversary=fast adversary.eps=0.1 optimizer=sgd optimizer.lr=0.1 optimizer.weight_decay=0 scheduler=constant "
        "scheduler.warmup=0 trainer.limit_train_batches=1 trainer.gradient_clip_val=null model.drop_rate=0.3"
    )
    r, module, network = fitted(said, tmp_path, shapes)
    batch = next(iter(r.loaders.loader("train", train=True)))
    image, draw = batch["image"] / 255, chance(rng.key(0, "adversary", 0, 0, 0))
    other = copy.deepcopy(network).train()

    def loss(net, x):
        rng.seed(0, "step", 0, 0, 0)
        return cross_entropy(net(x), batch["target"])

    begun = (image + torch.empty(image.shape).uniform_(-0.1, 0.1, generator=draw)).clamp(0, 1).requires_grad_()
    sign = torch.autograd.grad(loss(other, begun), begun)[0].sign()
    worst = (image + (begun + 0.125 * sign - image).clamp(-0.1, 0.1)).clamp(0, 1).detach()
    network.train()
    found = loss(network, worst.contiguous(memory_format=torch.channels_last))
    found.backward()
    with torch.no_grad():
        for p in network.parameters():
            p -= 0.1 * 1.9 * p.grad  # Nesterov's first step
    close(module.network, network)  # weights; BatchNorm's statistics and counts of one pass
    assert module.loss_of_epoch == pytest.approx(float(found.detach()), rel=1e-5)
    assert module.loss_of_epoch > float(loss(other, image).detach())


@quiet
def test_sam_and_an_adversary_leave_the_module_as_they_found_it(shapes, tmp_path):
    _, module, _ = fitted("adversary=pgd adversary.steps=2 optimizer=sam loss=elr", tmp_path, shapes)
    assert not module.repeats and module.loss.training
    assert all(m.track_running_stats for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_tasks_without_one_answer_an_image_are_refused(shapes, tmp_path):
    root = made.shapes(tmp_path / "masks", n=12)
    said = f"data=csv data.root={root} data.table=table.csv task=segmentation adversary=fast"
    refusal = tried([*said.split(), "task.labels.values={ground: 0, block: 100, line: 200}"], tmp_path, shapes)
    assert "each pixel" in refusal and "\nSet " in refusal
