"""What the numbers in a report promise: intervals that cover, and metrics that agree with scikit-learn."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from src.contracts import Split
from src.factory import make
from src.stats import bootstrap, gain, interval
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
    low, high = bootstrap(scores, strata=target)
    assert 0.65 < low < 0.75 < high < 0.85
    assert bootstrap(scores)[1] > high + 0.03, "else the number of images of the rare class would vary too"
    low, high = bootstrap(balanced(torch.nn.functional.one_hot(target, 2).float(), target), strata=target)
    assert 0.9 < low < 1 and high == 1, "all right is not certain"


# groups, and classes of few images


@pytest.mark.parametrize("monitor", ["val/acc", "val/balanced_acc"])
def test_the_interval_covers_where_images_come_in_groups(monitor):
    """Twelve patients, of 20 images each: all of a patient are right about as often, between patients it varies."""
    task = make(node("task", "multiclass", monitor=monitor))(classes=CLASSES[:2])
    draw, hits, alone = torch.Generator().manual_seed(1), 0, 0
    groups = torch.arange(12).repeat_interleave(20)
    for i in range(60):
        often = (torch.rand(12, generator=draw) < 0.5) * 0.6 + 0.2  # 0.2 or 0.8: one half on average
        right = torch.rand(240, generator=draw) < often[groups]
        target = groups % 2 if i % 2 else torch.arange(240) % 2
        logits = torch.nn.functional.one_hot(torch.where(right, target, 1 - target), 2).float()
        low, high = interval(task, logits, target, i, groups)
        hits += low <= 0.5 <= high
        low, high = interval(task, logits, target, i)
        alone += low <= 0.5 <= high
    assert hits >= 51 and alone < 40, "95 % but for the few groups, and for noise"


def test_groups_of_one_image_change_little_and_one_group_tells_nothing():
    logits, target = answers(200)
    for task in (make(node("task", "multiclass"))(classes=CLASSES), make(node("task", "multilabel"))(classes=CLASSES)):
        true = target if task.target == "class" else torch.nn.functional.one_hot(target, 4).float()
        plain = interval(task, logits, true, 0)
        assert interval(task, logits, true, 0, torch.arange(200)) == pytest.approx(plain, abs=0.02)
        assert interval(task, logits, true, 0, torch.zeros(200)) is None


def test_a_gain_counts_groups_and_not_their_images():
    task = make(node("task", "multiclass"))(classes=CLASSES)
    old, target = answers(30)
    new = old + 0.5 * torch.randn(old.shape, generator=torch.Generator().manual_seed(0)) + torch.eye(4)[target]
    better, error = gain(task, new, old, target)
    fold = [x.repeat_interleave(9, 0) for x in (new, old, target)]
    same, wide = gain(task, *fold, torch.arange(30).repeat_interleave(9))
    assert better == pytest.approx(same) and wide == pytest.approx(error, rel=1e-6) and error > 0
    assert gain(task, *fold, torch.arange(9).repeat(30))[1] == math.inf, "nine groups cannot tell"


def test_a_gain_of_two_images_is_none():
    """Both are flipped: their differences do not vary, which is no certainty."""
    task = make(node("task", "multiclass"))(classes=CLASSES[:2])
    right = torch.eye(2)[torch.zeros(2, dtype=torch.long)]
    better, error = gain(task, right, right.flip(1), torch.zeros(2, dtype=torch.long))
    assert better == 1 and error == math.inf


@pytest.mark.parametrize(("n", "least"), [(1, 0.9), (2, 0.9), (5, 0.9)])
def test_the_interval_of_balanced_accuracy_covers_where_classes_have_few_images(n, least):
    """30 classes of n images, each right with a chance of 0.7."""
    from src.tasks.multiclass import balanced

    draw, hits = torch.Generator().manual_seed(2), 0
    target = torch.arange(30).repeat_interleave(n)
    for i in range(100):
        right = torch.rand(30 * n, generator=draw) < 0.7
        logits = torch.nn.functional.one_hot(torch.where(right, target, (target + 1) % 30), 30).float()
        low, high = bootstrap(balanced(logits, target), seed=i, draws=300, strata=target)
        hits += low <= 0.7 <= high
    assert least <= hits / 100


def test_a_class_of_one_image_among_others_widens_the_interval():
    from src.tasks.multiclass import balanced

    target = torch.tensor([0] * 50 + [1] * 50 + [2])
    right = torch.nn.functional.one_hot(target, 3).float()
    right[:10], right[50:60], right[100] = right[:10].roll(1, 1), right[50:60].roll(1, 1), right[100].roll(1)
    low, high = bootstrap(balanced(right, target), strata=target)  # 0.8, 0.8 and 0 of one
    assert high - low > 0.2, "as if the one were certainly wrong"


def test_the_choice_goes_by_the_groups_of_val():
    """40 of 200 images more are right: of 200 images that is beyond chance, of five patients it is not."""
    from src.stages.candidates import Candidate
    from src.stages.select import choose

    task, target = make(node("task", "multiclass"))(classes=CLASSES[:2]), torch.arange(200) % 2
    good = torch.eye(2)[target]
    first = torch.where(torch.arange(200)[:, None] < 40, good.flip(1), good)
    found = [Candidate(name, None, z, target, torch.arange(200), None, None) for name, z in [("a", first), ("b", good)]]
    for groups, chosen in [((), "b"), ([i // 40 for i in range(200)], "a")]:
        split = Split([f"{i}.png" for i in range(200)], target.tolist(), groups)
        assert choose(SimpleNamespace(task=task, source=SimpleNamespace(splits={"val": split})), found).name == chosen


def test_the_table_of_many_images_is_made_of_a_few_at_a_time():
    from src.labels import OneClass
    from src.stages.predict import table

    task, sizes, n = make(node("task", "multiclass"))(classes=CLASSES), [], 515
    logits, target = answers(n)
    decode = replace(task, decode=lambda some: sizes.append(len(some)) or task.decode(some))
    split = Split([f"{i}.png" for i in range(n)], target.tolist())
    source = SimpleNamespace(splits={"val": split}, labels=OneClass(), classes=CLASSES)
    home = SimpleNamespace(state=dict)
    found = table(SimpleNamespace(task=decode, source=source, home=home), "val", torch.arange(n), logits)
    rows = list(csv.DictReader(io.StringIO(found)))
    assert max(sizes) < 300 and [row["path"] for row in rows] == split.paths[:]
    said = [{key: str(value) for key, value in row.items()} for row in task.decode(logits)]
    assert said == [{key: value for key, value in row.items() if key not in ("path", "target")} for row in rows]


def test_of_embeddings_only_those_with_another_of_their_class_can_tell():
    target = torch.tensor([0, 0, *range(1, 11)])
    task = make(node("task", "retrieval"))(classes=tuple("abcdefghijk"))
    draw = torch.Generator().manual_seed(0)
    old, new = (torch.randn(12, 4, generator=draw) for _ in range(2))
    assert gain(task, new, old, target)[1] == math.inf, "two of twelve have a score"
    assert gain(task, new, old, target, torch.arange(12))[1] == math.inf
