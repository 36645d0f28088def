"""Heads solved on features, against their textbook definitions; and who is chosen among candidates."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from src.contracts import Head, Noise
from src.stages import candidates, doubts, probe, select
from src.tasks import heads
from src.tasks.linear import ridge
from src.tasks.multiclass import multiclass
from src.tasks.noise import noise
from tests.yamls import node

CLASSES = 3


def blobs(n: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes whose means differ in a few of many correlated features of very different sizes."""
    draw = torch.Generator().manual_seed(seed)
    target = torch.arange(n) % CLASSES
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(99)) / width**0.5
    means = 1.5 * torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(98)) / width**0.25
    x = (means[target] + torch.randn(n, width, generator=draw)) @ mixing
    return x * torch.logspace(-2, 2, width) + 5, target


@pytest.mark.parametrize("n, width", [(120, 8), (12, 40)])
@pytest.mark.parametrize("shrinkage", [0.2, 0.8])
def test_lda_is_the_shrunk_fisher_discriminant_for_few_and_for_many_features(n, width, shrinkage):
    x, y = (t.double() for t in blobs(n, width))
    y = y.long()
    weight, bias = heads.lda(x, y, CLASSES, (shrinkage,))[f"lda {shrinkage}"]
    means = torch.stack([x[y == c].mean(0) for c in range(CLASSES)])
    within = x - means[y]
    scale = (within.square().sum(0) / (n - CLASSES)).sqrt()
    covariance = (within / scale).T @ (within / scale) / (n - CLASSES)
    covariance = (1 - shrinkage) * covariance + shrinkage * torch.eye(width)
    inverse = torch.linalg.inv(covariance)
    away = (x / scale)[:, None] - (means / scale)[None]
    expected = -0.5 * torch.einsum("ncd,de,nce->nc", away, inverse, away) + (torch.bincount(y) / n).log()
    found = x @ weight.double().T + bias
    torch.testing.assert_close(found.softmax(1), expected.softmax(1), atol=2e-3, rtol=0)


@pytest.mark.parametrize("part", [0.0, 0.3])
def test_wrong_labels_are_counted_and_told_from_images_that_are_only_hard(part):
    """Classes that lie over each other, so that a tenth of the images is contradicted with every label right."""
    x, true = blobs(600, 8, seed=1)
    draw = torch.Generator().manual_seed(1)
    off = torch.where(torch.rand(600, generator=draw) < part, torch.randint(1, CLASSES, (600,), generator=draw), 0)
    y = (true + off) % CLASSES
    found = heads.solve(x, y, {"last": slice(None)}, 0, CLASSES, False)
    told = noise(found, y)
    assert (found[0].logits.argmax(1) != y).float().mean() > 0.05
    assert told.share == pytest.approx(part, abs=0.06) and told.known > 0.5
    if part:
        assert told.sure > 3 and (y != true)[told.wrong].float().mean() > 0.8
        assert ((y != true) & ~told.wrong).float().mean() < part / 2
    else:
        assert told.wrong.float().mean() < 0.03
    alone = noise([replace(head, logits=head.logits.roll(1, 1)) for head in found], y)  # all labels are contradicted
    assert torch.equal(torch.bincount(y[~alone.wrong], minlength=CLASSES).clamp(max=2), torch.full((CLASSES,), 2))


@pytest.mark.parametrize(("suspects", "part"), [("drop", 0.35), ("drop", 0.0), ("keep", 0.35)])
def test_a_head_that_is_solved_again_learns_no_image_of_val_whose_label_is_rather_wrong(suspects, part):
    x, true = blobs(500, 8, seed=1)
    draw = torch.Generator().manual_seed(1)
    y = (true + (torch.rand(500, generator=draw) < part) * torch.randint(1, CLASSES, (500,), generator=draw)) % CLASSES
    train, val, learnt = (
        candidates.Seen(x[:300], true[:300], torch.arange(300)),
        candidates.Seen(x[300:], y[300:], torch.arange(len(x) - 300)),
        [],
    )
    task = multiclass(tuple("abc"), "val/acc", "max")
    head = task.close(train.x, train.target, slice(None))
    task = replace(task, mix=None, close=lambda x, target, _: learnt.append((x, target)) or head)
    network = SimpleNamespace(features=8, answers=lambda: head)
    run = SimpleNamespace(cfg={"data": {"suspects": suspects}, "refit": "head"}, task=task, leader=False)
    final = partial(candidates._mixed_again, run, network, train, val, "closing", (0.0, 1.0))
    logits = val.x @ head[0].T + head[1]
    select._head(run, candidates.Candidate("ema+closing", head, logits, val.target, val.index, (0.0, 1.0), final))
    ((seen, target),) = learnt
    right = (x[None, 300:] == seen[300:, None]).all(2).float().argmax(1) + 300  # which of val they are
    assert torch.equal(seen[:300], train.x) and torch.equal(target[300:], y[right])
    wrong = (y != true)[300:].float().mean()
    if suspects == "drop" and part:
        assert (y != true)[right].float().mean() < wrong / 2 and len(right) > 100
    else:
        assert len(right) == 200


@pytest.mark.parametrize(("known", "counts"), [(0.3, None), (0.8, 4)])
def test_a_probe_that_knows_little_of_its_images_counts_no_wrong_labels(known, counts):
    """36 emoji of nine kinds: 30 % right held out, and `about 37 % of the training labels are wrong`."""
    head = Head("lda", torch.zeros(2, 3), torch.zeros(2))
    found = Noise(share=0.37, sure=5.0, known=known, wrong=torch.ones(4, dtype=torch.bool), head=head)
    said = doubts.noise(SimpleNamespace(task=SimpleNamespace(noise=lambda *_: found)), [], torch.zeros(4))
    assert (said and int(said.wrong.sum())) == counts
    many = SimpleNamespace(task=SimpleNamespace(noise=lambda *_: replace(found, share=share, sure=2.0)))
    for share in (0.37, 0.1):  # so many, and not surely: nothing is told; too few to be left out
        assert ((said := doubts.noise(many, [], torch.zeros(4))) is None) == (share > 0.15 or known < 0.4)
        assert said is None or not said.wrong.any()


def test_the_end_of_lda_is_the_nearest_mean():
    x, y = blobs(120, 8)
    weight, bias = heads.lda(x, y, CLASSES)["nearest mean"]
    means = torch.stack([x[y == c].mean(0) for c in range(CLASSES)])
    scale = ((x - means[y]).square().sum(0) / (len(x) - CLASSES)).sqrt()
    nearest = torch.cdist(x / scale, means / scale).argmin(1)
    assert ((x @ weight.T + bias).argmax(1) == nearest).float().mean() > 0.99


@pytest.mark.parametrize("n, width", [(120, 8), (12, 40)])
def test_ridge_is_scikit_learns(n, width):
    from sklearn.linear_model import Ridge

    x, y = blobs(n, width)
    weight, bias = heads.one_hot_ridge(x, y, CLASSES, (3.0,))["ridge 3"]
    inner = ((x - x.mean(0)) / x.std(0, correction=0)).double().numpy()
    found = Ridge(alpha=3.0 * n).fit(inner, np.eye(CLASSES)[y.numpy()]).predict(inner)
    np.testing.assert_allclose(((x @ weight.T + bias) / 10).numpy(), found, atol=1e-3)


def test_logistic_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    x, y = blobs(120, 8)
    weight, bias = heads.logistic(x, y, CLASSES, (0.01,))["logistic 0.01"]
    inner = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    found = (
        LogisticRegression(C=1 / (0.01 * len(x)), max_iter=1000, tol=1e-8).fit(inner, y.numpy()).predict_proba(inner)
    )
    np.testing.assert_allclose((x @ weight.T + bias).softmax(1).numpy(), found, atol=2e-2)


def solved(x, y, **more):
    return heads.solve(
        x, y, {"last": slice(0, 4), "stages": slice(4, 8)}, 0, **{"classes": CLASSES, "uniform": False, **more}
    )


def test_the_best_head_comes_first_and_was_judged_on_images_that_it_did_not_see():
    x, y = blobs(120, 8)
    found = solved(x, y)
    losses = [float(cross_entropy(head.logits, y)) for head in found[1:]]
    assert losses == sorted(losses), "behind the one that is chosen"
    for head in found:
        seen = torch.cat([held for held, _ in head.parts])
        assert sorted(seen.tolist()) == list(range(120)), "each image is held out once"
        for held, (weight, bias) in head.parts:
            torch.testing.assert_close(head.logits[held], x[held] @ weight.T + bias, atol=1e-3, rtol=1e-3)
    noise = torch.randn(120, 8, generator=torch.Generator().manual_seed(1))
    best = solved(noise, y)[0]
    assert float((best.logits.argmax(1) == y).float().mean()) < 0.55, "what is held out cannot be learnt by heart"
    assert float(cross_entropy(best.logits, y)) < 1.3, "and the temperature says so"


def test_the_likeliest_head_of_the_probe_is_left_only_for_one_that_is_surely_better():
    target = torch.zeros(100, dtype=torch.long)
    first = torch.arange(100) < 80

    def chosen(*others: torch.Tensor) -> str:
        made = [
            Head(f"{name} on stages", torch.zeros(2, 1), torch.zeros(2), torch.stack([right, ~right], 1).float())
            for name, right in zip(("lda 0.5", "ridge 1", "logistic 1"), (first, *others), strict=False)
        ]
        return heads._chosen_first(made[::-1], target, "stages")[0].name

    slightly, clearly, most = torch.arange(100) < 83, torch.arange(100) < 92, torch.arange(100) < 97
    slightly[0] = False
    assert chosen(slightly) == "lda 0.5 on stages"
    assert chosen(clearly) == "ridge 1 on stages"
    assert chosen(clearly, most) == chosen(most, clearly).replace("ridge", "logistic") == "logistic 1 on stages"


def test_the_more_labels_are_wrong_the_further_the_probes_head_is_shrunk():
    x, true = blobs(90, 20)
    draw = torch.Generator().manual_seed(2)
    off = torch.where(torch.rand(90, generator=draw) < 0.4, torch.randint(1, CLASSES, (90,), generator=draw), 0)
    first = [
        heads.solve(x, y, {"last": slice(None)}, 0, CLASSES, False)[0].name for y in (true, (true + off) % CLASSES)
    ]
    assert first == ["lda 0.5 on last", "nearest mean on last"]


def test_a_view_reads_its_own_columns():
    for head in solved(*blobs(120, 8)):
        other = head.weight[:, 4:] if head.name.endswith("last") else head.weight[:, :4]
        assert not other.any() and head.weight.any()


def test_one_head_is_solved_by_its_name_as_among_all():
    x, y = blobs(120, 8)
    for head in solved(x, y):
        (again,) = solved(x, y, only=head.name)
        assert again.name == head.name
        torch.testing.assert_close(again.weight, head.weight, atol=1e-4, rtol=1e-2)
    assert {head.name.split(" on ")[1] for head in solved(x, y, only="lda")} == {"last", "stages"}
    assert {head.name.split()[0] for head in solved(x, y, only="lda")} == {"lda", "nearest"}


def test_a_class_with_one_image_breaks_nothing():
    x, y = blobs(31, 8)
    y = torch.where(y == 2, 0, y)
    y[0] = 2
    for head in solved(x, y):
        assert bool(head.weight.isfinite().all()) and bool(head.bias.isfinite().all())
    assert int((x[0] @ heads.lda(x, y, CLASSES)["lda 0.8"][0].T + heads.lda(x, y, CLASSES)["lda 0.8"][1]).argmax()) == 2


def few(each: list[int], width: int = 40) -> tuple[torch.Tensor, ...]:
    """Images far apart, so many of each class, and five others of each for a test."""
    draw = torch.Generator().manual_seed(0)
    mean = torch.randn(len(each), width, generator=draw)
    y, other = torch.arange(len(each)).repeat_interleave(torch.tensor(each)), torch.arange(len(each)).repeat(5)
    x, test = (mean[t] + 0.5 * torch.randn(len(t), width, generator=draw) for t in (y, other))
    return x, y, test, other


@pytest.mark.parametrize("each", [[1] * 10, [2] + [1] * 9])
def test_one_image_of_a_class_is_enough_to_know_it(each):
    x, y, test, other = few(each)
    for name, (weight, bias) in heads.lda(x, y, 10).items():
        assert float(((test @ weight.T + bias).argmax(1) == other).float().mean()) > 0.9, name


def test_classes_without_images_leave_the_others_as_sure_as_they_are():
    x, y, test, other = few([5] * 10)
    x, test, there = x[:, :8], test[:, :8], y < 6
    absent = SimpleNamespace(**{h.name: h for h in solved(x[there], y[there], classes=10)})
    plain = SimpleNamespace(**{h.name: h for h in solved(x[there], y[there], classes=6)})
    for name, head in vars(absent).items():
        logits, same = (test[other < 6] @ h.weight.T + h.bias for h in (head, vars(plain)[name]))
        assert bool((logits.argmax(1) < 6).all()), name
        assert float(cross_entropy(logits, other[other < 6]) - cross_entropy(same, other[other < 6])) < 0.1, name


def test_for_balanced_accuracy_the_prior_of_the_training_images_is_taken_out():
    x, y = blobs(120, 8)
    y = torch.where(torch.arange(120) < 20, y, torch.zeros_like(y))
    plain, fair = solved(x, y), solved(x, y, uniform=True)
    prior = (torch.bincount(y, minlength=CLASSES) / 120).log()
    for one, other in ((one, other) for one in plain for other in fair if one.name == other.name):
        torch.testing.assert_close(other.bias, one.bias - prior)
        torch.testing.assert_close(other.logits, one.logits - prior)


def test_a_channel_that_slept_in_training_does_not_decide_when_it_wakes_up():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 20, generator=draw), torch.arange(60) % CLASSES
    x[:, 0] += 2 * y
    x[:, 7] = 0
    x[4, 7] = 1e-4
    awake = x.clone()
    awake[:, 7] = 1
    for weight, _ in heads.one_hot_ridge(x, y, CLASSES).values():
        assert torch.equal(awake @ weight.T, x @ weight.T)


def test_closing_adds_what_the_features_know_to_what_the_head_learnt():
    x, y = blobs(150, 8)
    x_val, y_val = blobs(90, 8, seed=1)
    trained = heads.widened(heads.lda(x[:, :4], y, CLASSES)["lda 0.2"], slice(0, 4), 8)
    closing = heads.close(x, y, slice(4, 8), CLASSES, False)
    weights = heads.weigh(trained, closing, x_val, y_val)
    assert list(weights) == ["", "closing", "blend"]
    found = {n: heads.mix(trained, closing, w, y, False) for n, w in weights.items()}
    right = {n: float(((x_val @ w.T + b).argmax(1) == y_val).float().mean()) for n, (w, b) in found.items()}
    assert torch.equal(found[""][0], trained[0]) and torch.equal(found[""][1], trained[1])
    assert right["blend"] >= max(right[""], right["closing"])
    loss = {n: float(cross_entropy(x_val @ w.T + b, y_val)) for n, (w, b) in found.items()}
    assert loss["blend"] < min(loss[""], loss["closing"])
    assert not found["closing"][0][:, :4].any()
    for name in ("closing", "blend"):
        weight, bias = found[name]
        assert heads.temperature(x_val @ weight.T + bias, y_val) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("uniform", [False, True])
def test_what_two_heads_count_is_the_same_after_a_fit_that_knows_its_images_better(uniform):
    """LDA on features that hardly vary within a class is much surer; what a sum was made of before is to stay so."""
    x, y = blobs(150, 8)
    means = torch.stack([x[y == c].mean(0) for c in range(CLASSES)])[y]
    sizes = []
    for known in (0.0, 0.9):
        weight, bias = heads.close(torch.lerp(x, means, known), y, slice(0, 8), CLASSES, uniform)
        logits = torch.lerp(x, means, known) @ weight.T + bias
        sizes.append(float((logits - logits.mean(1, keepdim=True)).square().mean().sqrt()))
    assert sizes == pytest.approx([1, 1], rel=1e-4)


def test_weights_of_a_ridge_are_numbers_of_images():
    x, y = blobs(60, 8)
    times = torch.arange(60) % 3 + 1
    again = torch.arange(60).repeat_interleave(times)
    (weight, bias), (weight_, bias_) = (
        ridge(x[i], one_hot(y[i], CLASSES), (3.0,), much)["ridge 3"]
        for i, much in ((torch.arange(60), times / times.float().mean()), (again, None))
    )
    torch.testing.assert_close(weight, weight_)
    torch.testing.assert_close(bias, bias_)


def test_for_balanced_accuracy_no_head_knows_how_frequent_the_classes_are():
    x, y = blobs(300, 8)
    rare = (y != 2) | (torch.arange(300) < 30)  # ten images of the third class
    x, y = x[rare], y[rare]
    trained = heads.lda(x, y, CLASSES)["lda 0.2"]
    fair = heads.close(x, y, slice(0, 8), CLASSES, True)
    prior = (torch.bincount(y, minlength=CLASSES) / len(y)).log()
    mixed = heads.mix(trained, fair, (0.5, 0.2), y, True)
    torch.testing.assert_close(mixed[1], 0.5 * (trained[1] - prior) + 0.2 * fair[1])
    torch.testing.assert_close(mixed[0], 0.5 * trained[0] + 0.2 * fair[0])
    x_val, y_val = blobs(300, 8, seed=1)
    few = slice(0, 3)  # features that leave doubts
    found = [heads.close(x, y, few, CLASSES, uniform) for uniform in (True, False)]
    said = [((x_val @ w.T + b).argmax(1)[y_val == 2] == 2).float().mean() for w, b in found]
    assert said[0] > said[1] + 0.1, "a rare class is found as often as others"


def test_the_scores_of_balanced_accuracy_have_it_as_their_mean():
    task = multiclass(("a", "b", "c"), "val/balanced_acc", "max")
    logits, y = (
        torch.randn(50, 3, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0] * 40 + [1] * 8 + [2] * 2),
    )
    metric = task.metrics()
    metric.update(logits, y)
    assert float(task.scores(logits, y).mean()) == pytest.approx(float(metric.compute()["balanced_acc"]))


def choice(right: dict[str, list[int]], mode: str = "max") -> str:
    """The candidate that is chosen where these images are right."""
    from types import SimpleNamespace

    from src.stages.candidates import Candidate
    from src.stages.select import choose

    task = multiclass(("a", "b"), "val/acc", mode)
    made = []
    for name, hits in right.items():
        logits = torch.tensor([[1.0, 0.0] if hit else [0.0, 1.0] for hit in hits])
        target = torch.zeros(len(hits), dtype=torch.long)
        made.append(
            Candidate(
                name, (torch.zeros(2, 1), torch.zeros(2)), logits, target, torch.arange(len(target)), (1.0, 0.0), None
            )
        )
    source = SimpleNamespace(splits={"val": SimpleNamespace(groups=None)})
    return choose(SimpleNamespace(task=task, source=source), made).name


def test_the_first_candidate_is_left_only_for_a_gain_beyond_two_standard_errors():
    first = [1] * 80 + [0] * 20
    slightly = [1] * 79 + [0] + [1] * 2 + [0] * 18
    clearly = [1] * 95 + [0] * 5
    assert choice({"first": first, "second": slightly}) == "first"
    assert choice({"first": first, "second": clearly}) == "second"
    assert choice({"first": first, "second": clearly, "third": clearly}) == "second"
    assert choice({"first": [], "second": []}) == "first"
    assert choice({"first": [0], "second": [1]}) == "first", "one image is no evidence"


def test_where_rare_classes_count_as_much_the_trained_head_has_a_say_first(tmp_path):
    from types import SimpleNamespace

    from src.stages.select import names

    (tmp_path / "probe.safetensors").touch()

    def first(monitor: str, each: float, adversary: str = "none", finetune: str = "llrd") -> str:
        task = multiclass(("a", "b"), monitor, "max")
        home = SimpleNamespace(state=dict, path=tmp_path)
        cfg = {"select": "auto", "data": {"flip": 0.0}, "model": {}, "adversary": node("adversary", adversary)}
        cfg["finetune"] = node("finetune", finetune)
        return names(SimpleNamespace(task=task, cfg=cfg, home=home, audit=SimpleNamespace(each=each)))[0]

    assert first("val/acc", 50) == "ema+closing"
    assert first("val/acc", 49) == "ema+frozen"
    assert first("val/acc", 49, "fast") == "ema"
    assert first("val/acc", 49, finetune="head") == "ema+closing"
    assert first("val/balanced_acc", 49) == "ema+blend"
    assert first("val/acc", 50, "fast") == "ema"  # a head solved on clean images would undo what was trained
    assert first("val/acc", 1000) == "ema+blend"


def test_more_images_need_less_shrinkage_at_the_end():
    for n, shrinkage in ((3 * 50, 0.8), (3 * 51, 0.5)):
        x, y = blobs(n, 8)
        weight, _ = heads.close(x, y, slice(0, 8), CLASSES, False)
        alike = heads.lda(x, y, CLASSES, (shrinkage,))[f"lda {shrinkage}"][0]
        torch.testing.assert_close(weight / weight.norm(), alike / alike.norm())


def test_of_a_thousand_classes_no_one_is_missing_in_the_images_that_the_probe_looks_at():
    run = SimpleNamespace(cfg={"seed": 0}, task=SimpleNamespace(embeds=False, target="class"))
    target = torch.arange(1000).repeat_interleave((5000 / (1 + torch.arange(1000))).long().clamp(min=4))
    chosen = probe.some(run, target, 4000)
    assert len(chosen) == len(set(chosen)) == 4000 and chosen == sorted(chosen)
    assert int(torch.bincount(target[chosen], minlength=1000).min()) == 2
    assert len(set(chosen) & set(probe.sample(len(target), 4000, 0))) > 2000
    run.task.target = "numbers"
    assert probe.some(run, target, 4000) == probe.sample(len(target), 4000, 0)
