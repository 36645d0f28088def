"""Attacks against models whose weakest point is known, and signs that a model only hides its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from src.contracts import Exam
from src.factory import make
from src.robustness.apgd import apgd, ce, checkpoints, dlr
from src.robustness.square import square
from src.tasks.multiclass import multiclass
from tests.yamls import node

SIDE = 8
DRAW = torch.Generator().manual_seed(0)
IMAGES = torch.rand(200, 1, SIDE, SIDE, generator=DRAW) * 0.6 + 0.2
WEIGHT = torch.randn(2, SIDE * SIDE, generator=DRAW) / SIDE


def chance(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    def __init__(self, levels: int = 0):
        super().__init__()
        self.weight, self.levels = nn.Parameter(WEIGHT), levels

    def forward(self, x):
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        x = (x * self.levels).round() / self.levels if self.levels else x  # whose gradient is 0
        return x.flatten(1) @ self.weight.T


def exam(network: nn.Module, images: torch.Tensor = IMAGES, **more) -> Exam:
    network = network.eval().requires_grad_(False)

    def logits(some):
        with torch.no_grad():
            return network(some)

    clean, task = logits(images), multiclass(("a", "b"), "val/acc", "max")
    target = clean.argmax(1)

    def error(found):
        return float((found.argmax(1) != target).float().mean())

    return Exam(images, target, torch.arange(len(images)), 0, task, network, "cpu", 64, logits, error, clean, **more)


def distances(norm: str) -> torch.Tensor:
    """How far the other class is from each image, in closed form; black and white are further away."""
    logits = IMAGES.flatten(1) @ WEIGHT.T
    return (logits[:, 0] - logits[:, 1]).abs() / (WEIGHT[0] - WEIGHT[1]).norm(p=1 if norm == "linf" else 2)


def half(norm: str) -> float:
    """A distance at which half of the images can be fooled; none of them is very near to it."""
    near, far = distances(norm).sort().values[[99, 100]].tolist()
    return (near + far) / 2


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_reach_what_is_possible_on_a_linear_model_and_no_more(norm):
    eps = half(norm)
    attacks = make(node("robustness", "attacks", eps=[eps], norm=norm, steps=20, iterations=20, queries=400))
    found = attacks(exam(Linear()))["attacks"]
    at = found["eps"][str(eps)]
    assert found["clean"] == 1 and at["noise"] > 0.7 and found["hidden"] == []
    assert at["pgd"] == pytest.approx(0.5, abs=0.06) and at["worst"] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_alone_finds_the_edge_too(norm):
    target = (IMAGES.flatten(1) @ WEIGHT.T).argmax(1)

    def look(x, loss):
        x = x.detach().requires_grad_()
        logits = x.flatten(1) @ WEIGHT.T
        value = loss(logits, target)
        return value.detach(), torch.autograd.grad(value.sum(), x)[0], logits.argmax(1) != target

    fooled = apgd(look, IMAGES, ce, half(norm), norm, 25, chance())
    assert ((distances(norm) < half(norm)) == fooled).float().mean() > 0.96
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]  # of the authors' code, with 100 steps


def test_apgd_shortens_its_steps_where_the_worst_image_is_inside_the_ball():
    worst = IMAGES + 0.1 * (2 * torch.rand(IMAGES.shape, generator=chance(5)) - 1)

    def look(x, loss):
        away = x - worst
        return -away.square().flatten(1).sum(1), -2 * away, away.abs().flatten(1).mean(1) < 0.01

    assert apgd(look, IMAGES, ce, 0.1, "linf", 60, chance()).all()  # steps of 0.2, the first ones, overshoot


def test_square_asks_for_logits_alone_and_never_fools_what_cannot_be():
    target, eps = (IMAGES.flatten(1) @ WEIGHT.T).argmax(1), half("linf")

    def ask(x):
        assert float((x - IMAGES).abs().max()) <= eps + 1e-6 and not x.requires_grad
        logits = x.flatten(1) @ WEIGHT.T
        return logits.gather(1, target[:, None])[:, 0] - logits.gather(1, 1 - target[:, None])[:, 0]

    few, many = (square(ask, IMAGES, eps, queries, chance()) for queries in (5, 500))
    possible = distances("linf") < eps
    assert not (many & ~possible).any() and few.sum() < many.sum() > 0.8 * possible.sum()


def test_the_ratio_of_logits_is_eq_6_and_blind_to_their_scale():
    logits, target = torch.tensor([[3.0, 1.0, 0.5, -1.0], [0.0, 2.0, 5.0, 1.0]]), torch.tensor([0, 1])
    torch.testing.assert_close(dlr(logits, target), torch.tensor([-(3 - 1) / (3 - 0.5), -(2 - 5) / (5 - 1.0)]))
    torch.testing.assert_close(dlr(1000 * logits, target), dlr(logits, target))


def test_a_model_that_hides_its_gradients_is_found_out():
    attacks = make(node("robustness", "attacks", eps=[half("linf")], steps=10, iterations=10, queries=300))
    found = attacks(exam(Linear(levels=50)))["attacks"]
    (at,) = found["eps"].values()
    assert at["pgd"] > at["worst"] + 0.05
    assert any("Square" in sign for sign in found["hidden"])
    assert any("may change everything" in sign for sign in found["hidden"])
    assert "NOT TO BE TRUSTED" in "\n".join(attacks.lines({"attacks": found}))

    class Noisy(Linear):
        def forward(self, x):
            return super().forward(x) + torch.randn(len(x), 2)

    signs = attacks(exam(Noisy()))["attacks"]["hidden"]
    assert any("stochastic layer is no defence" in sign for sign in signs)


def test_corruptions_that_were_trained_on_are_named_and_kept_apart():
    images = (IMAGES.repeat_interleave(4, 2).repeat_interleave(4, 3) * 255).byte()

    class Grey(Linear):
        def forward(self, x):
            return super().forward(x[..., ::4, ::4].float() / 255 - 0.5)

    test = make(node("robustness", "corruptions", kinds=["contrast", "gaussian_noise"], severities=[1, 5]))
    plain, known = (
        test(exam(Grey(), images, seen=seen))["corruptions"] for seen in ((), ("contrast", "speckle_noise"))
    )
    assert plain["errors"] == known["errors"] and "seen_in_training" not in plain
    assert 0 < sum(plain["errors"]["gaussian_noise"]) != sum(plain["errors"]["contrast"])
    assert known["seen_in_training"] == ["contrast"]
    assert known["mean_error_held_out"] == pytest.approx(sum(known["errors"]["gaussian_noise"]) / 2)
    assert test.passes() == 4 and "held out" in "\n".join(test.lines({"corruptions": known}))


def test_moves_are_of_whole_pixels_and_consistency_counts_equal_answers():
    class Corner(nn.Module):
        def forward(self, x):
            x = x.float()
            return torch.stack([x[:, 0, 3, 3], torch.full((len(x),), 127.0)], 1)

    images = torch.zeros(2, 1, 9, 9, dtype=torch.uint8)
    images[0, 0, 3, 3:5] = 255  # a shift to the left by one keeps what the corner sees
    images[1, 0, 2:5, 2:5] = 255
    test = make(node("robustness", "shifts", pixels=[1, 2], degrees=[5]))
    found = test(exam(Corner(), images))["shifts"]
    assert found["shift_1"]["same"] == pytest.approx((1 + 4) / 8) and found["shift_2"]["same"] < 0.6
    assert found["mirrored"]["same"] == 0.0 and test.passes() == 12
