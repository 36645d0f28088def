"""What the numbers in a report promise: intervals that cover, and metrics that agree with scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from src.factory import make
from src.stats import bootstrap
from tests.yamls import node

CLASSES = ("a", "b", "c", "d")


# intervals


@pytest.mark.parametrize(("n", "p", "level"), [(200, 0.8, 0.95), (100, 0.6, 0.8)])
def test_the_interval_covers_as_often_as_it_says(n, p, level):
    draw = torch.Generator().manual_seed(1)
    hits = 0
    for i in range(300):
        low, high = bootstrap((torch.rand(n, generator=draw) < p).float(), seed=i, draws=200, level=level)
        hits += low <= p <= high
    assert abs(hits / 300 - level) < 3.5 * math.sqrt(level * (1 - level) / 300) + 0.015  # noise, and few draws


def test_the_interval_is_about_two_standard_errors_wide():
    scores = (torch.arange(1000) % 4 > 0).float()
    low, high = bootstrap(scores)
    error = math.sqrt(0.75 * 0.25 / 1000)
    assert low < 0.75 < high and (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize(("level", "z"), [(0.95, 1.959964), (0.8, 1.281552)])
def test_all_right_or_all_wrong_is_no_certainty(level, z):
    """Wilson 1927: with p = 1, the lower bound is n / (n + z²)."""
    assert bootstrap(torch.ones(60), level=level) == pytest.approx((60 / (60 + z * z), 1))
    assert bootstrap(torch.zeros(60), level=level) == pytest.approx((0, z * z / (60 + z * z)))
    assert bootstrap(torch.ones(1), level=level)[0] < 0.4


def test_the_interval_is_a_function_of_the_seed_and_leaves_the_generators_alone():
    scores = (torch.arange(50) % 3 > 0).float()
    before = torch.get_rng_state()
    assert bootstrap(scores, seed=3) == bootstrap(scores, seed=3)
    assert bootstrap(scores, seed=3) != bootstrap(scores, seed=4)
    assert torch.equal(before, torch.get_rng_state())


def test_scores_need_not_be_zero_or_one():
    low, high = bootstrap(torch.linspace(-3, 5, 200))
    assert low < 1 < high
    assert bootstrap(torch.full((9,), 0.25)) == (0.25, 0.25)


# the metrics of a task


def answers(n: int = 400, absent: int | None = None, scale: float = 2.0, seed: int = 0):
    draw = torch.Generator().manual_seed(seed)
    target = torch.randint(4, (n,), generator=draw)
    if absent is not None:
        target[target == absent] = (absent + 1) % 4
    logits = scale * torch.randn(n, 4, generator=draw)
    logits[torch.arange(n), target] += scale
    return logits, target


def measured(logits: torch.Tensor, target: torch.Tensor, batch: int = 64) -> dict[str, float]:
    found = make(node("task", "multiclass"))(classes=CLASSES).metrics()
    for i in range(0, len(target), batch):
        found.update(logits[i : i + batch], target[i : i + batch])
    return {k: float(v) for k, v in found.compute().items()}


@pytest.mark.parametrize("absent", [None, 0, 3])
@pytest.mark.parametrize("scale", [0.05, 2.0, 10.0])
def test_the_metrics_are_those_of_scikit_learn(absent, scale):
    """Also where a class has no image but is predicted, and where the network is unsure or sure of everything."""
    logits, target = answers(absent=absent, scale=scale)
    found, p, best = measured(logits, target), logits.double().softmax(1).numpy(), logits.argmax(1).numpy()
    y, present = target.numpy(), sorted(set(target.tolist()))
    assert set(best) == {0, 1, 2, 3} and len(present) == (4 if absent is None else 3)
    recall = sk.recall_score(y, best, labels=present, average="macro")
    assert found["acc"] == pytest.approx(sk.accuracy_score(y, best), abs=1e-6)
    assert found["balanced_acc"] == pytest.approx(recall, abs=1e-6)
    assert found["f1_macro"] == pytest.approx(sk.f1_score(y, best, average="macro"), abs=1e-6)
    own = logits.double().log_softmax(1)[torch.arange(len(y)), target]  # scikit-learn clips at p = 2e-16
    assert found["nll"] == pytest.approx(-float(own.mean()), rel=1e-5)
    assert found["brier"] == pytest.approx(np.square(p - np.eye(4)[y]).sum(1).mean(), rel=1e-5)
    others = [[c for c in range(4) if c != one] for one in range(4)]
    odds = [logits[:, c].double() - logits[:, others[c]].double().logsumexp(1) for c in range(4)]  # p would saturate
    auroc = np.mean([sk.roc_auc_score(y == c, odds[c].numpy()) for c in present])
    assert found["auroc"] == pytest.approx(auroc, abs=2e-3)


def test_the_calibration_error_is_that_of_guo():
    logits, target = answers()
    p, right = logits.softmax(1).max(1).values, (logits.argmax(1) == target).float()
    bins = (p * 15).ceil().long() - 1
    gaps = [(right[bins == b].mean() - p[bins == b].mean()).abs() * (bins == b).float().mean() for b in bins.unique()]
    assert measured(logits, target)["ece"] == pytest.approx(float(sum(gaps)), abs=1e-5)


def test_the_metrics_do_not_depend_on_how_images_are_batched():
    """torchmetrics takes the logits of a batch for probabilities when they all lie in 0..1."""
    logits, target = answers(100, scale=0.4)
    assert ((logits > 0) & (logits < 1)).all(1).any()
    assert measured(logits, target, batch=1) == pytest.approx(measured(logits, target, batch=100), rel=1e-5)


def test_perfect_and_inverted_answers():
    target = torch.arange(40) % 4
    perfect = measured(40.0 * torch.eye(4)[target], target)
    assert perfect["acc"] == perfect["balanced_acc"] == perfect["f1_macro"] == perfect["auroc"] == 1
    assert (perfect["nll"], perfect["brier"], perfect["ece"]) == pytest.approx((0, 0, 0), abs=1e-9)
    inverted = measured(-40.0 * torch.eye(4)[target], target)
    assert inverted["acc"] == inverted["auroc"] == 0 and inverted["nll"] > 40 and inverted["brier"] > 1


def test_the_scores_of_a_task_average_to_its_monitor():
    logits, target = answers()
    task = make(node("task", "multiclass"))(classes=CLASSES)
    assert float(task.scores(logits, target).mean()) == pytest.approx(
        measured(logits, target)[task.monitor.removeprefix("val/")], abs=1e-6
    )


def test_a_decoded_row_names_the_class_and_its_probabilities():
    rows = make(node("task", "multiclass"))(classes=CLASSES).decode(torch.log(torch.tensor([[0.1, 0.6, 0.2, 0.1]])))
    assert rows[0]["prediction"] == "b" and list(rows[0]) == ["prediction", "prob/a", "prob/b", "prob/c", "prob/d"]
    assert [rows[0][f"prob/{c}"] for c in CLASSES] == pytest.approx([0.1, 0.6, 0.2, 0.1])


def test_a_mean_over_classes_is_resampled_within_them():
    from src.tasks.multiclass import balanced

    target = torch.tensor([0] * 90 + [1] * 10)
    logits = torch.nn.functional.one_hot(target, 2).float()
    logits[:45] = logits[:45].flip(1)  # half of the first class, all of the second: 75 %
    scores = balanced(logits, target)
    low, high = bootstrap(scores, groups=target)
    assert 0.65 < low < 0.75 < high < 0.85
    assert bootstrap(scores)[1] > high + 0.03, "else the number of images of the rare class would vary too"
    low, high = bootstrap(balanced(torch.nn.functional.one_hot(target, 2).float(), target), groups=target)
    assert 0.9 < low < 1 and high == 1, "all right is not certain"
