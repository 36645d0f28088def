"""What the losses promise: the formula of their paper, a gradient everywhere, and less for a better answer."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from src.contracts import ConfigError
from src.factory import make
from tests.yamls import names, node

LOGITS = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25], [0.6, 0.3, 0.1]]))
TARGET = torch.tensor([0, 1, 2])
RIGHT = (0.7, 0.5, 0.1)  # the probability of the right class


def loss(name: str, logits: torch.Tensor = LOGITS, target: torch.Tensor = TARGET, **values) -> torch.Tensor:
    return make(node("loss", name, **values))(logits, {"target": target})


def mean(of) -> float:
    return sum(map(of, RIGHT)) / len(RIGHT)


@pytest.mark.parametrize("name", names("loss"))
@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0, 1e4])
def test_a_loss_is_finite_and_differentiable_at_any_confidence(name, scale):
    torch.manual_seed(0)
    logits = (torch.randn(8, 5) * scale).requires_grad_()
    value = loss(name, logits, torch.randint(5, (8,)))
    assert value.shape == () and value.isfinite() and value >= 0
    value.backward()
    assert logits.grad.isfinite().all() and (scale > 1 or logits.grad.abs().sum() > 0)


@pytest.mark.parametrize("name", names("loss"))
def test_a_loss_falls_when_the_right_logit_grows(name):
    values = [float(loss(name, LOGITS + more * torch.eye(3))) for more in torch.linspace(-3, 3, 13)]
    assert values == sorted(values, reverse=True) and values[0] > values[-1] + 0.1


@pytest.mark.parametrize("name", names("loss"))
def test_a_loss_is_the_mean_over_the_batch(name):
    each = [loss(name, LOGITS[i : i + 1], TARGET[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(loss(name), torch.stack(each).mean())


FORMULAS = [
    ("cross_entropy", {}, lambda p: -math.log(p)),
    ("focal", {"gamma": 0.0}, lambda p: -math.log(p)),
    ("focal", {"gamma": 2.0}, lambda p: -((1 - p) ** 2) * math.log(p)),
    ("focal", {"gamma": 0.5}, lambda p: -math.sqrt(1 - p) * math.log(p)),
    ("poly1", {"epsilon": 0.0}, lambda p: -math.log(p)),
    ("poly1", {"epsilon": 2.0}, lambda p: -math.log(p) + 2 * (1 - p)),
    ("generalised_ce", {"q": 1.0}, lambda p: 1 - p),
    ("generalised_ce", {"q": 0.7}, lambda p: (1 - p**0.7) / 0.7),
    ("generalised_ce", {"q": 1e-6}, lambda p: -math.log(p)),
]


@pytest.mark.parametrize(("name", "values", "formula"), FORMULAS)
def test_a_loss_is_the_formula_of_its_paper(name, values, formula):
    assert float(loss(name, **values)) == pytest.approx(mean(formula), rel=1e-5)


def test_every_loss_has_its_formula_here():
    assert {name for name, _, _ in FORMULAS} == set(names("loss"))


def test_label_smoothing_gives_a_part_to_all_classes():
    """Szegedy et al. 2016: 0.3 in all spreads 0.1 over each of 3 classes and leaves 0.7 more to the right one."""
    rows = LOGITS.exp().tolist()
    expected = sum(-0.7 * math.log(p) - 0.1 * sum(map(math.log, row)) for p, row in zip(RIGHT, rows, strict=True)) / 3
    assert float(loss("cross_entropy", label_smoothing=0.3)) == pytest.approx(expected, rel=1e-5)
    smooth = float(loss("poly1", epsilon=1.0, label_smoothing=0.3))
    assert smooth == pytest.approx(expected + mean(lambda p: 1 - p), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_has_a_gradient_at_certainty(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    loss("focal", logits, torch.tensor([0, 0]), gamma=gamma).backward()
    assert logits.grad.isfinite().all()
    torch.testing.assert_close(logits.grad[1], torch.tensor([-0.5, 0.5]))  # as cross-entropy's, where p is 0


@pytest.mark.parametrize("q", [0.0, -0.1, 1.5])
def test_a_q_outside_its_range_is_refused(q):
    with pytest.raises(ConfigError, match=f"loss.q={q}"):
        loss("generalised_ce", q=q)


def test_the_default_is_torchs_cross_entropy():
    torch.testing.assert_close(loss("cross_entropy"), cross_entropy(LOGITS, TARGET))
