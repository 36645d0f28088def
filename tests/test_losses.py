"""What the losses promise: the formula of their paper, a gradient everywhere, and less for a better answer."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from src.contracts import ConfigError
from src.factory import make
from tests.yamls import names, node

LOGITS = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25], [0.6, 0.3, 0.1]]))
TARGET = torch.tensor([0, 1, 2])
RIGHT = (0.7, 0.5, 0.1)  # the probability of the right class


EMBEDDINGS = ("arcface", "proxy_anchor", "supcon")  # their formulas are in test_retrieval.py
LABELS = ("asymmetric", "bce")  # of several classes an image, the target has a 0 or 1 for each
NUMBERS = ("gaussian_nll", "huber", "mae", "mse", "quantile")
BLOCKS = {"quantile": 3, "gaussian_nll": 2}  # outputs for each number: here, all are the same
ALONE = sorted(set(names("loss")) - {"multihead", *EMBEDDINGS})  # a sum of others: test_multihead.py


def loss(name: str, logits: torch.Tensor = LOGITS, target: torch.Tensor = TARGET, **values) -> torch.Tensor:
    made, counts = make(node("loss", name, **values)), tuple(range(1, logits.shape[1] + 1))
    made = made(counts=counts, images=sum(counts)) if isinstance(made, partial) else made
    if name in LABELS + NUMBERS and target.ndim == 1:
        target = torch.nn.functional.one_hot(target, logits.shape[1]).float()
    logits, index = logits.repeat(1, BLOCKS.get(name, 1)), torch.arange(len(logits))
    return made(logits, {"target": target, "index": index})


def mean(of) -> float:
    return sum(map(of, RIGHT)) / len(RIGHT)


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0, 1e4])
def test_a_loss_is_finite_and_differentiable_at_any_confidence(name, scale):
    torch.manual_seed(0)
    logits = (torch.randn(8, 5) * scale).requires_grad_()
    value = loss(name, logits, torch.randint(5, (8,)))
    below = name in ("gaussian_nll", "elr")  # that of a density; a part that is the log of less than 1
    assert value.shape == () and value.isfinite() and (value >= 0 or below)
    value.backward()
    assert logits.grad.isfinite().all() and (scale > 1 or logits.grad.abs().sum() > 0)


@pytest.mark.parametrize("name", sorted(set(ALONE) - set(NUMBERS)))
def test_a_loss_falls_when_the_right_logit_grows(name):
    values = [float(loss(name, LOGITS + more * torch.eye(3))) for more in torch.linspace(-3, 3, 13)]
    assert values == sorted(values, reverse=True) and values[0] > values[-1] + 0.1


@pytest.mark.parametrize("name", sorted(set(ALONE) - {"corn", "mask"}))  # these are of the batch
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
    ("symmetric_ce", {"alpha": 0.3, "beta": 2.0, "floor": -3.0}, lambda p: -0.3 * math.log(p) + 6.0 * (1 - p)),
    ("generalised_ce", {"q": 1.0}, lambda p: 1 - p),
    ("generalised_ce", {"q": 0.7}, lambda p: (1 - p**0.7) / 0.7),
    ("generalised_ce", {"q": 1e-6}, lambda p: -math.log(p)),
]


@pytest.mark.parametrize(("name", "values", "formula"), FORMULAS)
def test_a_loss_is_the_formula_of_its_paper(name, values, formula):
    assert float(loss(name, **values)) == pytest.approx(mean(formula), rel=1e-5)


# logits, target -> the loss of one image, from the papers, in plain numbers
OF_ONE = {
    "bce": lambda z, y: sum(-math.log(sigmoid(a if b else -a)) for a, b in zip(z, y, strict=True)) / len(z),
    "asymmetric": lambda z, y: sum(
        -(1 - sigmoid(a)) * math.log(sigmoid(a)) if b else -(max(sigmoid(a) - 0.05, 0) ** 4)
        * math.log(1 - max(sigmoid(a) - 0.05, 0)) for a, b in zip(z, y, strict=True)
    ) / len(z),
    "huber": lambda z, y: sum(
        (a - b) ** 2 / 2 if abs(a - b) < 1 else abs(a - b) - 0.5 for a, b in zip(z, y, strict=True)
    ) / len(z),
    "mse": lambda z, y: sum((a - b) ** 2 for a, b in zip(z, y, strict=True)) / len(z),
    "mae": lambda z, y: sum(abs(a - b) for a, b in zip(z, y, strict=True)) / len(z),
    "quantile": lambda z, y: sum(
        (q if b > a else 1 - q) * abs(a - b) for a, b in zip(z, y, strict=True) for q in (0.05, 0.5, 0.95)
    ) / len(z) / 3,
    "gaussian_nll": lambda z, y: sum(
        0.5 * math.log(2 * math.pi) + a + (b - a) ** 2 / math.exp(2 * a) / 2 for a, b in zip(z, y, strict=True)
    ) / len(z),
}  # fmt: skip


def sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a))


@pytest.mark.parametrize("name", OF_ONE)
def test_a_loss_of_labels_or_numbers_is_its_formula(name):
    logits, target = torch.tensor([[1.5, -0.4, 0.3, -3.0]]), torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    expected = OF_ONE[name](logits[0].tolist(), target[0].tolist())
    assert float(loss(name, logits, target)) == pytest.approx(expected, rel=1e-5)


def test_corn_is_the_conditional_loss_of_each_level_among_those_that_reach_it():
    p = LOGITS.exp()
    above = [(p[:, 1] + p[:, 2]).tolist(), (p[:, 2] / (p[:, 1] + p[:, 2])).tolist()]  # P(y > k | y >= k)
    first = -(math.log(1 - above[0][0]) + math.log(above[0][1]) + math.log(above[0][2])) / 3
    second = -(math.log(1 - above[1][1]) + math.log(above[1][2])) / 2  # image 0 does not reach level 1
    assert float(loss("corn")) == pytest.approx((first + second) / 2, rel=1e-5)


def test_the_expected_level_adds_its_squared_distance():
    p = LOGITS.exp().tolist()
    away = [(0.5 * b + c - t) ** 2 for (_, b, c), t in zip(p, (0, 0.5, 1), strict=True)]
    expected = mean(lambda q: -math.log(q)) + 2.0 * sum(away) / 3 * 3
    assert float(loss("expected_level", weight=2.0)) == pytest.approx(expected, rel=1e-5)


def test_by_frequency_a_rare_class_counts_more():
    logits, target = torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]])
    plain, weighed = float(loss("bce", logits, target)), float(loss("bce", logits, target, weights="frequency"))
    assert weighed == pytest.approx(plain + (math.sqrt(5) - 1) * math.log(2) / 3)  # 1 of 6 images has the first class
    with pytest.raises(ConfigError, match="loss.weights=often"):
        loss("bce", weights="often")


def test_every_loss_has_its_formula_here():
    """That of masks in test_segmentation.py."""
    by_hand = {"corn", "expected_level", "mask", "elr", "balanced_softmax", "logit_adjusted"}
    assert {name for name, _, _ in FORMULAS} | {*OF_ONE} | by_hand == set(ALONE)


def test_the_logits_are_adjusted_by_how_frequent_the_classes_are():
    """exp(z) are the probabilities in LOGITS, and the classes have 1, 2 and 3 training images."""
    rows = LOGITS.exp().tolist()

    def expected(tau: float) -> float:
        weighed = [[p * n**tau for p, n in zip(row, (1, 2, 3), strict=True)] for row in rows]
        return -sum(math.log(row[i] / sum(row)) for i, row in enumerate(weighed)) / 3

    assert float(loss("logit_adjusted", tau=0.5)) == pytest.approx(expected(0.5), rel=1e-5)
    assert float(loss("logit_adjusted", tau=0.0)) == pytest.approx(expected(0), rel=1e-5)
    assert float(loss("balanced_softmax")) == pytest.approx(expected(1), rel=1e-5)
    found = make(node("loss", "logit_adjusted", tau=0.5))(counts=(1, 2, 3), images=6).supposes.exp().tolist()
    roots = [math.sqrt(n) for n in (1, 2, 3)]
    assert found == pytest.approx([root / sum(roots) for root in roots])  # what of the prior the logits still hold


def test_class_weights_are_those_of_their_formula_with_a_mean_of_one_over_the_training_images():
    for kind, weigh in (("inverse", lambda n: 1 / n), ("effective", lambda n: (1 - 0.9) / (1 - 0.9**n))):
        mean_weight = sum(n * weigh(n) for n in (1, 2, 3)) / 6
        weights = [weigh(n) / mean_weight for n in (1, 2, 3)]
        expected = sum(-w * math.log(p) for w, p in zip(weights, RIGHT, strict=True)) / 3
        more = {"class_weights": kind, **({"beta": 0.9} if kind == "effective" else {})}
        assert float(loss("cross_entropy", **more)) == pytest.approx(expected, rel=1e-5)
        made = make(node("loss", "cross_entropy", **more))(counts=(1, 2, 3), images=6)
        assert made.supposes.exp().tolist() == pytest.approx(
            [n * w / 6 for n, w in zip((1, 2, 3), weights, strict=True)]
        )


@pytest.mark.parametrize(("counts", "chosen"), [((10, 50), "none"), ((10, 51), "effective")])
def test_auto_weighs_where_classes_are_uneven_and_says_so(counts, chosen):
    made = make(node("loss", "cross_entropy", class_weights="auto"))(counts=counts, images=sum(counts))
    assert (made.weight is None) == (chosen == "none") == (not hasattr(made, "supposes"))
    assert made.notes[0].startswith(f"loss.class_weights=auto: {chosen} (imbalance 5")


SOFT = [name for name in ALONE if getattr(make({**node("loss", name), "_partial_": True}).func, "soft", False)]


@pytest.mark.parametrize("name", sorted(set(SOFT) - set(LABELS)))
@pytest.mark.parametrize("values", [{}, {"label_smoothing": 0.3}, {"class_weights": "inverse"}])
def test_a_mixed_target_has_the_same_parts_of_the_losses_of_its_classes(name, values):
    if not set(values) <= set(node("loss", name)):
        pytest.skip("the loss has no such value")
    parts = torch.tensor([[0.3, 0.0, 0.7], [0.0, 1.0, 0.0], [0.5, 0.25, 0.25]])
    expected = sum(
        float(parts[i, c] * loss(name, LOGITS[i : i + 1], torch.tensor([c]), **values))
        for i in range(3) for c in range(3)
    ) / 3  # fmt: skip
    assert float(loss(name, LOGITS, parts, **values)) == pytest.approx(expected, rel=1e-5)
    one_hot = torch.nn.functional.one_hot(TARGET, 3).float()
    torch.testing.assert_close(loss(name, LOGITS, one_hot, **values), loss(name, **values))


def test_elr_is_the_formula_of_its_paper_over_two_epochs_and_its_memory_survives():
    p, t, target = LOGITS.exp().tolist(), [[0.0] * 3 for _ in range(6)], TARGET.tolist()
    made = make(node("loss", "elr", strength=3.0, memory=0.7))(counts=(1, 2, 3), images=6)
    batch = {"target": TARGET, "index": torch.tensor([4, 0, 2])}
    for epoch in range(3):
        expected = 0.0
        for row, i, y in zip(p, (4, 0, 2), target, strict=True):
            t[i] = [0.7 * a + 0.3 * b for a, b in zip(t[i], row, strict=True)] if epoch < 2 else t[i]
            expected += -math.log(row[y]) + 3 * math.log(1 - sum(a * b for a, b in zip(row, t[i], strict=True)))
        made.train(epoch < 2)  # in eval mode nothing is remembered
        assert float(made(LOGITS, batch)) == pytest.approx(expected / 3, rel=1e-4), epoch
        other = make(node("loss", "elr"))(counts=(1, 2, 3), images=6)
        other.load_state_dict(made.state_dict())
        made = other
    assert made.said[1].abs().sum() == 0 and made.said[[4, 0, 2]].sum(1).min() > 0.5


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
