"""What is fitted on held-out images keeps its word on new ones like them, and says so of others."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import betabinom, binom
from torch.nn.functional import normalize

from src import decisions, stats, threshold
from src.check.configs import tree
from src.contracts import ConfigError
from src.decisions import columns, conformal, scaling, unfamiliar
from src.tables import read as rows
from src.tasks import multilabel
from src.tasks.ordinal import level

WORDS = {
    "scaling": "auto", "sets": "lac", "alpha": 0.1, "by_class": True, "unfamiliar": "none", "false_alarm": 0.05,
    "decision": "none", "precision": 0.9, "cost": None,
}  # fmt: skip


def task(target="class", outputs=5, spread=None):
    return SimpleNamespace(target=target, outputs=outputs, spread=spread, ordered=False)


def logits(n: int, seed: int, classes: int = 5, size: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and classes drawn by the probabilities that they say."""
    draw = torch.Generator().manual_seed(seed)
    found = size * torch.randn(n, classes, generator=draw)
    return found, torch.multinomial(found.softmax(1), 1, generator=draw)[:, 0]


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("kind", ["class", "labels"])
def test_a_known_temperature_is_found_and_changes_no_order(true, kind):
    found, target = logits(4000, 0)
    if kind == "labels":
        target = torch.bernoulli(found.sigmoid(), generator=torch.Generator().manual_seed(1))
    how = scaling.temperature(found * true, target, kind)
    assert 1 / how["factor"] == pytest.approx(true, rel=0.06)
    assert torch.equal(scaling.scaled(how, found * true).argmax(1), found.argmax(1))


def test_each_label_has_its_own_error_before_and_after_what_mends_it():
    """Five labels, of which the second is said four times as surely as it is."""
    found, _ = logits(4000, 0)
    target = torch.bernoulli(found.sigmoid(), generator=torch.Generator().manual_seed(1))
    found[:, 1] *= 4
    how = scaling.vector(found, target, "labels")
    said = decisions.measure({"kind": "labels", "classes": list("abcde"), "scaling": how}, found, target, 0)
    for name in ("nll", "brier", "ece"):
        each = [said[f"{label}/{name}"] for label in "abcde"]
        assert said[name] == pytest.approx(sum(each) / 5, rel=1e-4)
        before = {label: said[f"{label}/{name}/uncalibrated"] for label in "abcde"}
        assert max(before, key=before.__getitem__) == "b" and said[f"b/{name}"] < 0.9 * before["b"]
        assert said[f"c/{name}"] == pytest.approx(before["c"], abs=0.01)


def test_a_factor_and_a_shift_a_class_are_taken_only_where_they_are_needed():
    factor, shift = torch.tensor([0.5, 1.0, 2.0, 1.0, 1.0]), torch.tensor([0.0, 2.0, 0.0, -2.0, 0.0])
    plain = [
        scaling.choose(2 * found, target, "class", "auto", 0)[0]
        for found, target in (logits(300, s) for s in range(10))
    ]
    assert [how["method"] for how in plain].count("vector") <= 1
    found, target = logits(1000, 0)
    how, crossed = scaling.choose((found - shift) / factor, target, "class", "auto", 0)
    assert how["method"] == "vector"
    new, truth = logits(4000, 1)
    risk = scaling.loss(scaling.scaled(how, (new - shift) / factor), truth, "class").mean()
    assert risk < scaling.loss(new, truth, "class").mean() + 0.02
    assert (
        scaling.loss(crossed, target, "class").mean()
        > scaling.loss(scaling.scaled(how, (found - shift) / factor), target, "class").mean()
    )


def test_the_calibration_error_is_that_of_torchmetrics():
    from torchmetrics.classification import MulticlassCalibrationError

    found, target = logits(500, 0)
    p = found.softmax(1)  # neither too sure nor not sure enough: what lies in which bin matters
    theirs = MulticlassCalibrationError(5, n_bins=15)
    theirs.update(p, target)
    own = stats.ece(p.max(1).values, p.argmax(1) == target)
    assert float(own) == pytest.approx(float(theirs.compute()), abs=1e-6)


def covered(n: int, rounds: int, cover) -> None:
    """cover(seed) -> images of 400 that are held: of `rounds` calibrations by n images the sum is right."""
    held = sum(cover(seed) for seed in range(rounds))
    place = -(-(n + 1) * 9 // 10)  # the rank of the score that is the threshold
    spread = (betabinom(400, place, n + 1 - place).var() * rounds) ** 0.5
    assert abs(held - rounds * 400 * place / (n + 1)) < 4 * spread


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_sets_hold_the_truth_as_often_as_stated_and_of_levels_they_are_intervals(method, ordered):
    def cover(seed):
        (found, target), (new, truth) = logits(99, seed), logits(400, 1000 + seed)
        fit = conformal.fit(found.softmax(1), target, method, 0.1, True, ordered)
        inside = conformal.sets(new.softmax(1), fit)
        said = level(new) if ordered else new.argmax(1)  # what is shipped
        assert inside.gather(1, said[:, None]).all()
        if ordered:
            assert ((inside[:, 1:] & ~inside[:, :-1]).sum(1) + inside[:, 0] == 1).all()
        return int(inside.gather(1, truth[:, None]).sum())

    covered(99, 60, cover)


def test_where_many_labels_are_wrong_probabilities_and_sets_are_worth_as_much_for_right_ones():
    (found, right), (new, truth), draw = logits(3000, 0), logits(6000, 1), torch.Generator().manual_seed(2)
    some = torch.rand(3000, generator=draw) < 0.5
    wrong = torch.where(some, torch.randint(5, (3000,), generator=draw), right)

    def covered(target: torch.Tensor, doubted: bool, method: str = "lac") -> tuple[dict, float]:
        words = {**WORDS, "sets": method}
        plain, *_ = decisions.fit(words, task(), decisions.Images(found / 3, target), None, 0, doubted)
        inside = conformal.sets(scaling.scaled(plain["scaling"], new / 3).softmax(1), plain["sets"])
        return plain, float(inside.gather(1, truth[:, None]).float().mean())

    for method in ("lac", "aps", "raps"):
        plain, held = covered(wrong, True, method)
        assert held == pytest.approx(0.9, abs=0.03)
    assert plain["scaling"]["factor"] == pytest.approx(3, rel=0.15)
    assert plain["notes"][0].startswith("about 40 % of the labels of val are wrong")
    assert covered(wrong, False)[1] > 0.95 and covered(right, True) == covered(right, False)
    few = decisions.Images(found[:60] / 3, right[:60])
    assert "cannot be told by 60 images" in decisions.fit(WORDS, task(), few, None, 0, True)[0]["notes"][0]


def test_an_interval_grows_from_the_answer_to_the_likelier_side_and_thresholds_by_level_leave_no_gap():
    p = torch.tensor([[0.40, 0.05, 0.04, 0.06, 0.45]])  # whose mean is 2.11, the least likely
    assert conformal.outwards(p).tolist() == [[2, 3, 4, 1, 0]]
    assert conformal.scores(p, "aps", True)[0].tolist() == pytest.approx([0.6, 0.55, 0.0, 0.04, 0.1])
    assert conformal.scores(p, "lac", True)[0].tolist() == pytest.approx([0.95, 0.95, 0.0, 0.94, 0.94])
    fitted = {"method": "aps", "threshold": [0.7, 0.1, 0.1, 0.01, 0.2], "ordered": True}
    assert conformal.sets(p, fitted).all()
    kept = {"sets": fitted, "kind": "class", "classes": list("abcde")}
    assert decisions.apply(kept, p.log())[0]["set"] == "a|b|c|d|e"


@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_a_class_with_enough_images_is_held_as_often_as_stated_by_itself(method):
    def drawn(n, seed):
        found, target = logits(n, seed, 3, 1.0)
        return found + 1.5 * torch.tensor([1.0, 0.0, 0.0]), target  # that of the first class is said too often

    found, target = drawn(3000, 0)
    new, truth = drawn(6000, 1)
    held = {}
    for by_class in (True, False):
        fit = conformal.fit(found.softmax(1), target, method, 0.1, by_class)
        inside = conformal.sets(new.softmax(1), fit).gather(1, truth[:, None])[:, 0].float()
        held[by_class] = torch.stack([inside[truth == c].mean() for c in range(3)])
    assert bool(((held[True] - 0.9).abs()[1:] < 0.03).all()) and held[True][0] > 0.87
    assert held[False].min() < 0.87
    few = conformal.fit(found[:60].softmax(1), target[:60], method, 0.1, True)
    assert few["own"] == 0 and len(set(few["threshold"])) == 1


def test_intervals_of_numbers_hold_the_truth_as_often_as_stated():
    def cover(seed):
        draw = torch.Generator().manual_seed(seed)
        found, error = torch.randn(499, 1, generator=draw), torch.randn(499, 1, generator=draw) * 3
        margin = conformal.margin(found[:99], (found + error)[:99], 0.1)
        return int((error[99:].abs() <= margin[0]).sum())

    covered(99, 60, cover)


def scores(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities, and whether it is so: as often as they say."""
    draw = torch.Generator().manual_seed(seed)
    p = torch.sigmoid(2.5 * torch.randn(n, generator=draw))
    return p, torch.rand(n, generator=draw) < p


def test_equal_probabilities_are_decided_alike():
    p, there = torch.tensor([1.0, 1, 1, 1, 0.1, 0.05]), torch.tensor([1, 1, 1, 0, 0, 0]) == 1
    for cut in (threshold.f1(p, there), threshold.precision(p, there, 0.3)):
        assert cut is not None and (p > cut).tolist() == [True] * 4 + [False] * 2
    [cut] = multilabel.tune(torch.tensor([[30.0], [30], [30], [30], [-2], [-3]]), there[:, None])["thresholds"]
    assert 0.2 < cut < 1


@pytest.mark.parametrize(("n", "required"), [(150, 0.8), (600, 0.8), (600, 0.95)])
def test_a_precision_is_missed_at_most_as_often_as_stated(n, required):
    """The hardest case: however high the threshold, the precision is just below what is required."""
    wrong = 0
    for seed in range(400):
        draw = torch.Generator().manual_seed(seed)
        p, luck = torch.rand(n, generator=draw), torch.rand(n, generator=draw)
        wrong += threshold.precision(p, luck < required - 1e-4, required) is not None
    assert wrong <= binom(400, 1 - threshold.SURE).ppf(0.999)
    assert wrong >= binom(400, 0.03).ppf(0.001)  # and it is not a promise that is kept by silence


def test_a_threshold_reaches_the_precision_that_is_required():
    rates, taken = [], []
    for seed in range(60):
        cut = threshold.precision(*scores(400, seed), 0.8)
        if cut is None:
            continue
        p, there = scores(20_000, 1000 + seed)
        rates.append(float(there[p > cut].float().mean()))
        taken.append(float((p > cut).float().mean()))
    assert len(rates) >= 57 and sum(rate < 0.8 for rate in rates) <= binom(60, 1 - threshold.SURE).ppf(0.999)
    assert min(rates) > 0.76 and sum(taken) / 60 > 0.3
    assert threshold.precision(*scores(20, 0), 0.99) is None


def test_the_f1_threshold_is_the_best_one():
    p, there = scores(400, 0)
    value = lambda cut: float(2 * (there & (p > cut)).sum() / (there.sum() + (p > cut).sum()))  # noqa: E731
    assert value(threshold.f1(p, there)) == pytest.approx(max(value(cut) for cut in [0.0, *p.tolist()]))


def test_what_costs_most_is_avoided():
    p = torch.tensor([[0.8, 0.2], [0.95, 0.05]])
    assert columns.decided({"method": "cost", "cost": [[0, 1], [10, 0]]}, p).tolist() == [1, 0]
    assert columns.decided({"method": "cost", "cost": [[0, 1], [1, 0]]}, p).tolist() == [0, 0]


def features(n: int, seed: int, away: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Four classes about means of their own, in 40 directions with spreads of their own."""
    draw = torch.Generator().manual_seed(seed)
    mean = 3 * torch.randn(4, 40, generator=torch.Generator().manual_seed(9))
    group = torch.randint(4, (n,), generator=draw)
    spread = torch.linspace(0.2, 3, 40)
    return mean[group] + spread * torch.randn(n, 40, generator=draw) + away * torch.ones(40), group


@pytest.mark.parametrize("method", ["mahalanobis", "knn"])
def test_images_like_those_of_val_are_called_unfamiliar_as_often_as_stated_and_others_far_more(method):
    kept = unfamiliar.reference(method, *features(800, 0))
    cut = conformal.threshold(unfamiliar.score(method, kept, features(400, 1)[0]), 0.05)
    own = unfamiliar.score(method, kept, features(4000, 2)[0]) > cut
    assert 0.02 < own.float().mean() < 0.08
    assert (unfamiliar.score(method, kept, features(400, 3, away=3.0)[0]) > cut).float().mean() > 0.9


@pytest.mark.parametrize("method", ["mahalanobis", "knn"])
def test_false_alarms_stay_as_stated_where_the_network_is_fitted_again(method):
    """The second network has learnt its images better: all features are nearer to their classes, as new ones are."""
    x, group = features(800, 0)
    mean = torch.stack([x[group == c].mean(0) for c in range(4)])

    def tighter(pair):
        return mean[pair[1]] + 0.5 * (pair[0] - mean[pair[1]])

    def seen(x, group):
        return decisions.Images(torch.zeros(len(x), 4), group, x)

    plain, *_ = decisions.fit(
        {**WORDS, "unfamiliar": method}, task(outputs=4), seen(*features(400, 1)), seen(x, group), 0
    )
    again, tensors = decisions.carried(plain, task(outputs=4), seen(tighter((x, group)), group))
    flags = unfamiliar.score(method, tensors, tighter(features(4000, 2))) > again["unfamiliar"]["threshold"]
    assert 0.02 < flags.float().mean() < 0.09
    assert decisions.carried(again, task(outputs=4), seen(tighter((x, group)), group))[0] == again  # done twice


@pytest.mark.parametrize("axes", [256, 10])
def test_the_distance_is_that_of_mahalanobis(monkeypatch, axes):
    from sklearn.covariance import ledoit_wolf

    monkeypatch.setattr(unfamiliar, "AXES", axes)
    (x, group), new = features(800, 0), features(50, 1)[0]
    mean = torch.stack([x[group == c].mean(0) for c in range(4)])
    covariance = torch.tensor(ledoit_wolf((x - mean[group]).numpy(), assume_centered=True)[0]).double()
    values, vectors = torch.linalg.eigh(covariance)
    values[: max(40 - axes, 0)] = values[: max(40 - axes, 0)].mean()  # the narrow ones count as equal
    inverse = vectors @ torch.diag(1 / values) @ vectors.T
    off = new[:, None].double() - mean.double()
    expected = torch.einsum("nkd,de,nke->nk", off, inverse, off).min(1).values
    found = unfamiliar.score("mahalanobis", unfamiliar.reference("mahalanobis", x, group), new)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_the_neighbours_are_those_of_features_of_length_one():
    x, new = features(300, 0)[0], features(20, 1)[0]
    away = torch.cdist(normalize(new, dim=1), normalize(x, dim=1)).sort(1).values[:, unfamiliar.NEIGHBOUR - 1]
    found = unfamiliar.score("knn", unfamiliar.reference("knn", x, torch.zeros(300, dtype=torch.long)), 7 * new)
    torch.testing.assert_close(found, away, atol=2e-3, rtol=1e-2)


def fitted(words=(), n=300, kind=None, seed=0, classes=2):
    found, target = logits(n, seed, classes)
    return decisions.fit(
        {**WORDS, **dict(words)}, kind or task(outputs=classes), decisions.Images(found, target), None, 0
    )


def test_what_is_said_of_an_image_agrees_with_itself(tmp_path):
    plain, tensors, _ = fitted({"decision": "f1", "unfamiliar": "energy", "alpha": 0.02})
    facts = {"classes": ["no", "yes"], "calibration": decisions.save(tmp_path, plain, tensors)}
    saved = decisions.load(tmp_path, json.loads(json.dumps(facts)))
    found = logits(200, 5, 2)[0]
    p = decisions.scaled(saved, found).softmax(1)
    for row, (no, yes) in zip(decisions.apply(saved, found), p.tolist(), strict=True):
        assert ("yes" if yes > no else "no") in row["set"].split("|") and row["unsure"] == ("|" in row["set"])
        assert row["decision"] == ("yes" if yes > plain["decision"]["threshold"] else "no")
        assert row["unfamiliar"] == (row["unfamiliar/score"] > plain["unfamiliar"]["threshold"])
    assert decisions.apply({}, found) == [{}] * 200


def test_tensors_that_are_not_those_of_the_model_are_refused(tmp_path):
    x, group = features(100, 0)
    saved = decisions.save(tmp_path, {"kind": "class"}, unfamiliar.reference("knn", x, group))
    assert set(decisions.load(tmp_path, {"classes": [], "calibration": saved})["tensors"]) == {"known"}
    data = bytearray((tmp_path / "calibration.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "calibration.safetensors").write_bytes(data)
    with pytest.raises(ConfigError, match="Copy the whole model"):
        decisions.load(tmp_path, {"classes": [], "calibration": saved})


def test_what_too_few_images_cannot_show_is_left_out_and_said():
    plain, *_ = fitted(
        {"alpha": 0.01, "false_alarm": 0.01, "unfamiliar": "energy", "decision": "precision", "precision": 0.99}, n=40
    )
    assert "sets" not in plain and "unfamiliar" not in plain and plain["decision"] is None
    told = " ".join(plain["notes"])
    assert all(word in told for word in ("takes 99 images, not 40", "false_alarm=0.01", "precision of 0.99"))


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ({"decision": "f1"}, task(outputs=3)),
        ({"decision": "cost", "cost": [[0, 1], [1, 0]]}, task(outputs=3)),
        ({"decision": "precision"}, task("numbers", 1)),
    ],
)
def test_decisions_that_a_task_cannot_have_are_refused(words, kind):
    with pytest.raises(ConfigError, match="calibrate"):
        decisions.suits({**WORDS, **words}, WORDS, kind)
    decisions.suits({**WORDS, **words}, WORDS, task(outputs=2))


USUAL = {**tree("calibrate/default"), "scaling": "none"}  # which is fitted in no time
OTHERS = {
    "scaling": ["temperature", "vector"], "sets": ["none", "aps", "raps"], "alpha": [0.3], "by_class": [False],
    "unfamiliar": ["none", "energy", "mahalanobis"], "false_alarm": [0.3], "decision": ["f1", "precision", "cost"],
    "precision": [0.7], "cost": [[[0, 3], [1, 0]]],
}  # fmt: skip
BESIDE = [
    {}, {"sets": "none", "unfamiliar": "none"}, {"decision": "f1"}, {"decision": "precision"},
    {"decision": "cost", "cost": [[0, 1], [1, 0]]},
]  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [task(outputs=3), task("class", 2), task("labels", 2), task("numbers", 2), task("numbers", 2, "a pair"),
     task("mask"), task("identity")],
)  # fmt: skip
def test_each_word_of_calibration_is_used_or_refused_by_each_kind_of_target(kind):
    kind.unit = ((0.0,), (1.0,))
    found, target = logits(300, 0, kind.outputs)
    target = {"labels": (found.sigmoid() > 0.4).long(), "numbers": found + torch.rand(300, 1)}.get(kind.target, target)
    draw = torch.Generator().manual_seed(1)
    held, train = (decisions.Images(3 * found, target, torch.randn(300, 8, generator=draw)) for _ in range(2))

    def outcome(words):
        plain, tensors, crossed = decisions.fit(words, kind, held, train, 0)
        return [{**plain, "notes": []}, {k: v.tolist() for k, v in tensors.items()}, crossed.tolist()]

    def refused(words, usual):
        try:
            decisions.suits(words, usual, kind)
        except ConfigError as error:
            return str(error)
        return ""

    used: set[str] = set()
    assert list(OTHERS) == list(USUAL)
    for usual in ({**USUAL, **beside} for beside in BESIDE):
        if refused(usual, USUAL):
            continue
        before = outcome(usual) if kind.target in decisions.KINDS else None
        for said in ({**usual, key: value} for key, values in OTHERS.items() for value in values):
            key = next((key for key in said if said[key] != usual[key]), "")
            if not key or (said["decision"] == "cost") != (said["cost"] is not None):
                continue  # refused by the words alone
            if why := refused(said, usual):
                assert f"calibrate.{key}=" in why, why
                continue
            assert before and outcome(said) != before, (usual, said)
            used.add(key)
    assert used == {
        "class": set(OTHERS) if kind.outputs == 2 else set(OTHERS) - {"decision", "precision", "cost"},
        "labels": {"scaling", "unfamiliar", "false_alarm"}, "mask": set(), "identity": set(),
        "numbers": {"sets", "alpha", "unfamiliar", "false_alarm"} - ({"sets", "alpha"} if kind.spread else set()),
    }[kind.target]  # fmt: skip


def test_words_of_calibration_are_checked():
    from src.check import mistakes

    cost = "calibrate.decision=cost"
    for wrong in (["calibrate.alpha=1"], ["calibrate.sets=lab"], [cost, "calibrate.cost=[[0,a],[1,0]]"], [cost]):
        assert len(mistakes(wrong)) == 1, wrong
    assert mistakes([cost, "calibrate.cost=[[0,1],[10,0]]", "calibrate.alpha=0.05"]) == []


def test_a_val_that_is_too_small_is_said_and_nothing_is_shipped(zygote, small, tmp_path):
    assert zygote.run(*small, f"run_dir={tmp_path / 'run'}", "trainer.max_epochs=1") == 0, zygote.screen
    assert "calibrate: left out, since it takes 30 images of val, and there are 16" in zygote.screen
    assert "calibration" not in json.loads((tmp_path / "run/model/model.json").read_text())
    assert set(rows(tmp_path / "run/predictions.csv")[0]) == {"path", "target", "prediction", "prob/left", "prob/right"}


@pytest.mark.slow
def test_digits_are_calibrated_and_a_kill_changes_nothing(zygote, tmp_path):
    from PIL import Image

    from src.predict import predict

    start = ["recipe=fast", "trainer.max_epochs=1", "refit=all", "logger=[csv]", f"paths.cache={tmp_path / 'cache'}"]
    start += ["calibrate.scaling=vector", "calibrate.alpha=0.02"]  # so that it shows
    run, other = tmp_path / "run", tmp_path / "other"
    assert zygote.run(*start, f"run_dir={run}") == 0, zygote.screen
    said, facts = (json.loads((run / name).read_text()) for name in ("metrics.json", "model/model.json"))
    tested = rows(run / "predictions.csv")
    assert said["test/acc"] == pytest.approx(sum(r["target"] == r["prediction"] for r in tested) / len(tested))
    assert said["test/coverage"] == pytest.approx(sum(r["target"] in r["set"].split("|") for r in tested) / len(tested))
    p = torch.tensor([float(r[f"prob/{r['target']}"]) for r in tested])
    assert said["test/nll"] == pytest.approx(float(-p.log().mean()), abs=1e-4)
    assert said["test/ece/low"] <= said["test/ece"] <= said["test/ece/high"]
    assert said["test/unfamiliar"] < 0.25 and said["test/nll"] != said["test/nll/uncalibrated"]
    assert load_file(run / "held_out.safetensors")["logits"].shape == (260, 10)
    fault = {"at": "decisions", "n": 0, "number": int(signal.SIGKILL)}  # in the stage; the second is in refit
    assert zygote.run(*start, f"run_dir={other}", fault=fault) == -9
    assert zygote.run(f"resume={other}", seed=99) == 0, zygote.screen
    files = [f"model/{name}" for name in ("weights.safetensors", "model.json", "calibration.safetensors")]
    for name in ("metrics.json", "predictions.csv", "predictions_val.csv", *files):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    assert facts["calibration"]["images"] == 260 and facts["calibration"]["notes"] == []
    card = (run / "model" / "README.md").read_text()  # says what that is worth
    assert "- calibrated on 260 images of val\n- probabilities: by vector; calibration error on test " in card
    assert f"- sets that are to hold the truth in 98 % of all cases; on test {said['test/coverage']:.3f} (" in card
    assert f"- `unfamiliar`: by knn, 5 % false alarms on val; {100 * said['test/unfamiliar']:.1f} % of the test" in card
    # predict says of the same images what the test said, and that noise is unlike the training images
    cache = next(p for p in (tmp_path / "cache").rglob("test") if p.is_dir())
    assert predict(str(run), str(cache), str(tmp_path / "again.csv")) == 0
    again = {Path(r["path"]).relative_to(cache.parent).as_posix(): r for r in rows(tmp_path / "again.csv")}
    for row in tested:
        for key in ("set", "unsure", "unfamiliar", "prediction"):
            assert again[row["path"]][key] == row[key]
        key = f"prob/{row['target']}"
        assert float(again[row["path"]][key]) == pytest.approx(float(row[key]), abs=1e-5)
    (tmp_path / "strange").mkdir()
    draw = torch.Generator().manual_seed(0)
    for i in range(20):
        noise = torch.randint(0, 256, (32, 32), dtype=torch.uint8, generator=draw).numpy()
        Image.fromarray(noise).save(tmp_path / f"strange/{i}.png")
    assert predict(str(run), str(tmp_path / "strange"), str(tmp_path / "strange.csv")) == 0
    assert sum(r["unfamiliar"] == "True" for r in rows(tmp_path / "strange.csv")) >= 18
