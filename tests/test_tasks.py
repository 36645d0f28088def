"""Each task goes the whole road: on drawn images whose truth is known it reaches what can be reached, in the units and
with the words of its table. Its metrics are scikit-learn's."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics as sk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.contracts import Backbone, ConfigError, DataError, InputSpec
from src.data.split import Division, assigned, blocks
from src.data.table import split_table, table
from src.factory import make
from src.labels import Levels, ManyClasses, Numbers, OneClass
from src.models.network import Network
from src.module import Module
from src.stats import gain, interval, metric
from src.tables import read as rows
from src.tasks import multilabel, ordinal, regression
from tests import made
from tests.browser import readable
from tests.conftest import NO_REPORT, ROOT
from tests.yamls import node

LEVELS = "[tiny,small,middle,large,huge]"
NET = ("model.name=test_byobnet.glyphs", "trainer.accelerator=cpu", "trainer.max_epochs=8", "logger=[tensorboard,csv]")


def words(root: Path, task: str, folder: Path) -> list[str]:
    places = [f"run_dir={folder / task}", f"paths.cache={folder / 'cache'}"]
    return ["data=csv", f"data.root={root}", "data.table=table.csv", f"task={task}", *NET, *places]


@pytest.fixture(scope="module")
def ran(zygote, tmp_path_factory):
    """(task) -> the folder of a run of it; each is made once."""
    folder, made_by = tmp_path_factory.mktemp("tasks"), {}

    def run(task: str) -> Path:
        if task not in made_by:
            draw, more = {
                "regression": (made.bars, ["data.columns.target=[target,sine]"]),
                "ordinal": (made.discs, [f"task.labels.order={LEVELS}"]),
                "multilabel": (made.signs, []),
            }[task]
            root = draw(folder / "images" / task)
            assert zygote.run(*words(root, task, folder), *more) == 0, zygote.screen
            made_by[task] = folder / task
        return made_by[task]

    return run


def found(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.slow
def test_labels_that_are_joined_by_another_mark_than_the_separator_are_refused():
    cells = {"train": [("cat",), ("dog",), ("cat|dog",), ("cat, dog",)]}
    with pytest.raises(DataError, match=r"'cat, dog' was read as one class.*\nSet task.separator=','"):
        ManyClasses().classes("t.csv", cells)
    fine = {"train": [("cat",), ("salt, pepper",), ("cat|salt, pepper",), ("salt",)]}  # a name may have a comma
    assert ManyClasses().classes("t.csv", fine) == ("cat", "salt", "salt, pepper")


def test_a_regression_is_right_in_the_units_of_its_table(ran):
    run = ran("regression")
    said, predicted = found(run), rows(run / "predictions.csv")
    assert "2 numbers" in (run / "report" / "index.html").read_text()
    assert said["test/target/r2"] > 0.9 and said["test/sine/r2"] > 0.9
    assert said["test/target/mae"] < 15 and said["test/sine/mae"] < 0.1
    true = np.array([[float(row["target/target"]), float(row["target/sine"])] for row in predicted])
    guess = np.array([[float(row["prediction/target"]), float(row["prediction/sine"])] for row in predicted])
    assert 1000 < guess[:, 0].mean() < 1180
    assert said["test/mae"] == pytest.approx(np.abs(true - guess).mean(), rel=1e-3)
    assert said["test/rmse"] < said["test/rmse/constant"] / 2
    assert said["test/rmse/low"] < said["test/rmse"] < said["test/rmse/high"]


@pytest.mark.slow
def test_a_model_that_knows_no_more_than_the_blind_answer_says_so_first(zygote, tmp_path):
    root = made.bars(tmp_path / "images", n=60)
    lines = (root / "table.csv").read_text().splitlines()
    draw = np.random.default_rng(0)
    noise = [f"{line.split(',')[0]},{line.split(',')[1]},{draw.normal():.3f}" for line in lines[1:]]
    (root / "noise.csv").write_text("\n".join(["path,split,target", *noise]))
    more = ["data.table=noise.csv", "recipe=off", "optimizer.lr=1e-2", "trainer.max_epochs=4", "data.batch_size=4"]
    common = [
        word for word in words(root, "regression", tmp_path) if not word.startswith(("data.table", "trainer.max"))
    ]
    assert zygote.run(*common, *more) == 0, zygote.screen
    told = zygote.screen.split("ETA 0:00")[-1]
    said = found(tmp_path / "regression")
    assert (said["test/rmse"] > said["test/rmse/constant"]) == ("NOT BETTER than the best answer" in told)
    assert said["test/rmse"] > said["test/rmse/constant"] and told.index("NOT BETTER") < told.index("test/rmse")


@pytest.mark.slow
def test_levels_are_predicted_by_their_names_in_their_order(ran):
    run = ran("ordinal")
    said, predicted = found(run), rows(run / "predictions.csv")
    assert said["test/qwk"] > 0.95
    order = LEVELS.strip("[]").split(",")
    for row in predicted:
        p = [float(row[f"prob/{name}"]) for name in order]
        mean = sum(i * chance for i, chance in enumerate(p))
        assert float(row["expected"]) == pytest.approx(mean, abs=1e-4)
        assert row["prediction"] == order[round(mean)]


@pytest.mark.slow
def test_several_labels_get_thresholds_that_are_shipped_with_the_model(ran):
    run = ran("multilabel")
    said, predicted = found(run), rows(run / "predictions.csv")
    assert said["test/map_macro"] > 0.95 and said["test/f1_macro"] > 0.9
    thresholds = json.loads((run / "model" / "model.json").read_text())["tuned"]["thresholds"]
    classes = ["cross", "disc", "frame", "lines"]
    for row in predicted:
        taken = [c for c, t in zip(classes, thresholds, strict=True) if float(row[f"prob/{c}"]) > t]
        assert row["prediction"] == "|".join(taken)


@pytest.mark.slow
@pytest.mark.parametrize(
    "task, evidence, others",
    [
        ("regression", "what raises the number (red)", {"The furthest off", "Predicted and true/scatter sine"}),
        ("ordinal", "what raises the level (red)", {"How far to believe it/reliability"}),
        ("multilabel", "what speaks for the label (red)", {"How far to believe it/reliability by label"}),
    ],
)
def test_the_report_and_tensorboard_show_what_moved_the_answers(ran, task, evidence, others):
    run = ran(task)
    text = (run / "report" / "index.html").read_text(encoding="utf-8")
    shown = "The furthest off" if task == "regression" else "The least certain images"
    section = text.partition(f"<h2>{shown}</h2>")[2].partition("<h2>")[0]
    assert evidence in section and section.count('class="heat"') == section.count('class="card"') == 12
    events = EventAccumulator(str(run / "tensorboard"), {"images": 1}).Reload()
    tags = set(events.Tags()["images"])
    assert {f"report/{name}" for name in (shown, "The least familiar images", *others)} <= tags
    sheet = Image.open(io.BytesIO(events.Images(f"report/{shown}")[0].encoded_image_string)).convert("RGB")
    assert np.ptp(np.asarray(sheet).astype(int), axis=2).max() > 100  # the images are grey, the evidence is not
    if task == "multilabel":
        said = found(run)
        for name in ("nll", "brier", "ece"):
            each = [said[f"test/{label}/{name}"] for label in ("cross", "disc", "frame", "lines")]
            assert said[f"test/{name}"] == pytest.approx(sum(each) / 4, rel=1e-3, abs=1e-6) and f"val/{name}" in said


@pytest.mark.slow
def test_all_of_the_reports_of_numbers_levels_and_labels_can_be_read(ran, tmp_path):
    readable([ran(task) / "report" / "index.html" for task in ("regression", "ordinal", "multilabel")], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["regression", "ordinal", "multilabel"])
def test_predict_says_what_the_test_said(ran, task, tmp_path):
    from src.predict import predict

    run = ran(task)
    tested = {row["path"]: row for row in rows(run / "predictions.csv")}
    root = run.parent / "images" / task
    assert predict(str(run), str(root), str(tmp_path / "again.csv")) == 0
    again = {Path(row["path"]).name: row for row in rows(tmp_path / "again.csv")}
    for path, row in tested.items():
        for key in (k for k in row if k.startswith(("prediction", "prob/"))):
            if key == "prediction":
                assert again[path][key] == row[key]
            else:
                assert float(again[path][key]) == pytest.approx(float(row[key]), rel=1e-3, abs=1e-3)


@pytest.mark.slow
def test_a_split_table_is_read_back(ran):
    for task, labels in (("multilabel", ManyClasses()), ("regression", Numbers(("target", "sine")))):
        run = ran(task)
        root = run.parent / "images" / task
        first = table(root, root / "table.csv", labels, target_column=list(labels.columns))
        (run.parent / "again.csv").write_text("".join(split_table(first)))
        again = table(root, run.parent / "again.csv", labels, target_column=list(labels.columns))
        assert again == first
        assert (run / "split.csv").read_text() == "".join(split_table(first))


OWN = {
    "regression": ("huber", "mse", "mae", "quantile", "gaussian_nll"),
    "multilabel": ("bce", "asymmetric"),
    "ordinal": ("corn", "expected_level", "cross_entropy"),
}


@pytest.mark.parametrize("loss", [loss for own in OWN.values() for loss in own])
def test_every_loss_of_a_task_trains_and_no_other(zygote, tmp_path, loss):
    roots = {"regression": made.bars, "multilabel": made.signs, "ordinal": made.discs}
    for task, draw in roots.items():
        root = draw(tmp_path / task, n=40)
        more = [f"task.labels.order={LEVELS}"] if task == "ordinal" else []
        code = zygote.run(
            *words(root, task, tmp_path / "runs" / loss), *more, "recipe=off", f"loss={loss}", "trainer.max_epochs=1",
            "stages=[fit]", "logger=[csv]", "data.batch_size=8",
        )  # fmt: skip
        assert code == (0 if loss in OWN[task] else 2), zygote.screen
        assert code == 0 or "cannot take the targets" in zygote.screen


@pytest.mark.slow
@pytest.mark.parametrize("task", ["regression", "intervals", "multilabel", "ordinal"])
def test_folds_are_merged_into_one_prediction_an_image(zygote, tmp_path, task):
    from src.merge import merge

    more = {"ordinal": [f"task.labels.order={LEVELS}"], "intervals": ["loss=quantile"]}.get(task, [])
    task = "regression" if task == "intervals" else task
    root = {"regression": made.bars, "multilabel": made.signs, "ordinal": made.discs}[task](tmp_path / "images", n=60)
    common = [word for word in words(root, task, tmp_path) if not word.startswith("run_dir=")]
    places = [
        f"paths.logs={tmp_path / 'logs'}",
        "name=sweep",
        "data.fold=0,1,2",
        "data.folds=3",
        "trainer.max_epochs=2",
        "logger=[csv]",
        NO_REPORT,
    ]
    assert zygote.run("-m", *common, *more, *places, "recipe=off", "data.batch_size=8") == 0, zygote.screen
    said = merge(tmp_path / "logs" / "sweep")
    out = tmp_path / "logs" / "sweep" / "merged"
    oof, tested = rows(out / "oof.csv"), rows(out / "predictions.csv")
    table_of = {row["path"]: row for row in rows(root / "table.csv")}
    assert sorted(row["path"] for row in oof) == sorted(p for p, row in table_of.items() if row["split"] != "test")
    assert sorted(row["path"] for row in tested) == sorted(p for p, row in table_of.items() if row["split"] == "test")
    folds = sorted(p for p in (tmp_path / "logs" / "sweep").iterdir() if p.name != "merged")
    each = [{row["path"]: row for row in rows(fold / "predictions.csv")} for fold in folds]
    for row in tested:
        for key in (k for k in row if k.startswith("prob/") or (k in ("prediction", "low") and task == "regression")):
            mean = sum(float(fold[row["path"]][key]) for fold in each) / 3
            assert float(row[key]) == pytest.approx(mean, abs=1e-3)
    held = {row["path"]: row for fold in folds for row in rows(fold / "predictions_val.csv")}
    assert "low" in oof[0] and "oof/coverage" in said if more == ["loss=quantile"] else "low" not in oof[0]
    key = "prediction" if task == "regression" else next(k for k in oof[0] if k.startswith("prob/"))
    assert all(float(row[key]) == pytest.approx(float(held[row["path"]][key]), abs=1e-4) for row in oof)
    if task == "regression":
        errors = [float(row["prediction"]) - float(row["target"]) for row in oof]
        assert said["oof/rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-4)
    name = {"regression": "rmse", "multilabel": "map_macro", "ordinal": "qwk"}[task]
    values = [found(fold)[f"val/{name}"] for fold in folds]
    assert said[f"folds/val/{name}"] == pytest.approx(np.mean(values))
    half = 4.30 * np.std(values, ddof=1) / np.sqrt(3)
    assert said[f"folds/val/{name}/high"] - said[f"folds/val/{name}"] == pytest.approx(half, rel=1e-3)
    with pytest.raises(ConfigError, match="holds 0 finished"):
        merge(tmp_path)
    for fold in folds[:2]:  # as if they were killed before their test
        state = json.loads((fold / "run.json").read_text())
        (fold / "run.json").write_text(json.dumps(state | {"state": "failed"}))
    with pytest.raises(ConfigError, match="holds 1 finished"):
        merge(tmp_path / "logs" / "sweep")


# metrics

DRAW = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("mark", [" ", ",", ";", ", "])
def test_labels_joined_by_another_mark_are_not_taken_for_classes(mark):
    joined = [mark.join(parts) for parts in ("ab", "bc", "ac", "abc", "a")]
    with pytest.raises(DataError, match="no cell of train has the separator '|'.*(?s:.*)task.separator="):
        ManyClasses().classes("t.csv", {"train": [(cell,) for cell in joined]})
    assert ManyClasses(separator=mark).classes("t.csv", {"train": [(cell,) for cell in joined]}) == ("a", "b", "c")


def test_lists_are_not_taken_for_classes():
    with pytest.raises(DataError, match="each is a list.*(?s:.*)Write the labels alone"):
        ManyClasses().classes("t.csv", {"train": [("['a', 'b']",), ("['a']",), ("[]",), ("",)]})


def test_names_of_several_words_are_classes():
    bears = ["polar bear", "brown bear", "bear", "arctic fox", "polar fox"]
    grid = [f"{colour} {kind}" for colour in ("red", "blue", "green") for kind in ("car", "bus", "van")]
    synonyms = ["skunk, polecat", "polecat, fitch, Mustela", "missile", "projectile, missile"]
    for names in (bears, grid, synonyms, ["bison bison", "vulpes vulpes"]):
        assert ManyClasses().classes("t.csv", {"train": [(name,) for name in names]}) == tuple(sorted(names))


def test_average_precision_is_scikit_learns_with_ties_and_without_positives():
    logits = torch.randint(0, 6, (80, 4), generator=DRAW).float()
    target = (torch.rand(80, 4, generator=DRAW) < 0.3).float()
    target[:, 3] = 0
    ours = multilabel.average_precision(logits, target)
    for c in range(3):
        assert float(ours[c]) == pytest.approx(sk.average_precision_score(target[:, c], logits[:, c]))
    assert ours[3].isnan()
    macro = sum(sk.average_precision_score(target[:, c], logits[:, c]) for c in range(3)) / 3
    assert float(multilabel.map_macro(logits, target)) == pytest.approx(macro)
    micro = sk.average_precision_score(target.numpy().ravel(), logits.numpy().ravel())
    assert float(multilabel.map_micro(logits, target)) == pytest.approx(micro)


def test_all_metrics_of_several_labels_are_of_the_split_not_of_its_batches():
    logits = torch.randn(60, 3, generator=DRAW)
    target = (torch.rand(60, 3, generator=DRAW) < 0.4).float()
    cut = [0.3, 0.6, 0.5]
    task = make(node("task", "multilabel"))(classes=("a", "b", "c"))
    all_of = task.metrics(thresholds=cut)
    for part in range(0, 60, 7):
        all_of.update(logits[part : part + 7], target[part : part + 7])
    said = {k: float(v) for k, v in all_of.compute().items()}
    taken = logits.sigmoid() > torch.tensor(cut)
    for kind in ("macro", "micro"):
        assert said[f"f1_{kind}"] == pytest.approx(sk.f1_score(target, taken, average=kind))
        assert said[f"map_{kind}"] == pytest.approx(sk.average_precision_score(target, logits, average=kind))


def test_a_label_counts_in_the_macro_f1_where_it_is_said_or_there():
    logits, target = torch.tensor([[2.0, 2.0, -2.0], [-2.0, -2.0, -2.0]]), torch.tensor([[1.0, 0, 0], [0, 0, 0]])
    expected = sk.f1_score(target, logits > 0, average="macro", zero_division=np.nan)
    assert float(multilabel.f1(logits, target, (0.5,) * 3, macro=True)) == pytest.approx(expected) == 0.5


def test_a_threshold_is_where_f1_is_best():
    logits = torch.randn(200, 2, generator=DRAW)
    target = (torch.rand(200, 2, generator=DRAW) < torch.sigmoid(2 * logits - 1)).float()
    target[:, 1] = 0
    target[:3, 1] = 1  # too few for a threshold of their own
    own, common = multilabel.tune(logits, target)["thresholds"]
    p = logits.sigmoid()
    best = max(sk.f1_score(target[:, 0], p[:, 0] > t) for t in p[:, 0].tolist())
    assert sk.f1_score(target[:, 0], p[:, 0] > own) == pytest.approx(best)
    best = max(sk.f1_score(target.ravel(), p.ravel() > t) for t in p.ravel().tolist())
    assert sk.f1_score(target.ravel(), p.ravel() > common) == pytest.approx(best)


def test_the_threshold_of_a_probability_near_0_or_1_still_tells_labels_apart():
    order = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    for middle in (-12.0, 12.0):
        logits, target = (middle + order).float(), (order > 0).float()
        cut = multilabel.tune(logits, target)["thresholds"]
        assert float(multilabel.f1(logits, target, cut, macro=True)) == 1.0


def test_a_closing_head_suits_labels_of_which_most_have_no_image():
    x = torch.randn(60, 8, generator=DRAW)
    target = torch.zeros(60, 9)
    target[:, :2] = (x[:, :2] > 0).float()
    weight, bias = multilabel.close(x, target, slice(0, 8))
    assert float(multilabel.nll(x @ weight.T + bias, target).mean()) < 0.3
    trained = torch.randn(9, 8, generator=DRAW), torch.zeros(9)
    for weights in multilabel.weigh(trained, (weight, bias), x, target).values():
        found = multilabel.mix(trained, (weight, bias), weights, target)
        assert float(multilabel.nll(x @ found[0].T + found[1], target).mean()) < 5


def test_heads_are_weighed_by_one_image_too():
    x, target = torch.randn(30, 4, generator=DRAW), (torch.rand(30, 3, generator=DRAW) < 0.5).float()
    trained, closing = (torch.randn(3, 4, generator=DRAW), torch.zeros(3)), multilabel.close(x, target, slice(0, 4))
    found = multilabel.weigh(trained, closing, x[:1], target[:1])
    assert all(0 <= part < 30 for pair in found.values() for part in pair)


def test_how_many_levels_are_right_is_told_of_the_answer_that_is_given():
    logits = torch.tensor([[0.4, 0.0, 0.35, 0.25], [0.1, 0.8, 0.1, 0.0]]).clamp(min=1e-9).log()
    target = torch.tensor([1, 1])  # the mean of the first is 1.45, though 0 is its likeliest
    task = make(node("task", "ordinal"))(classes=tuple("abcd"))
    assert [row["prediction"] for row in task.decode(logits)] == ["b", "b"]
    metrics = task.metrics()
    metrics.update(logits, target)
    assert float(metrics.compute()["acc"]) == 1.0


def test_kappa_is_scikit_learns_quadratic_one():
    logits, target = torch.randn(100, 5, generator=DRAW) * 3, torch.randint(0, 5, (100,), generator=DRAW)
    ours = float(ordinal.kappa(logits, target))
    level = ordinal.level(logits)
    assert ours == pytest.approx(sk.cohen_kappa_score(level, target, weights="quadratic"))
    assert float(ordinal.kappa(logits[:1].expand(4, 5), target[:1].expand(4))) == 0.0


@pytest.mark.parametrize("target", [[2.1, 2.1, 2.1], [2.1]])
def test_what_is_explained_of_a_number_that_is_always_the_same_is_as_in_scikit_learn(target):
    true = torch.tensor(target)[:, None]
    assert float(regression.r2(true, true)) == 1 and float(regression.r2(true + 1, true)) == 0
    if len(true) > 1:
        assert sk.r2_score(true, true) == 1 and sk.r2_score(true, true + 1) == 0


def test_numbers_are_measured_as_scikit_learn_does():
    guess, target = torch.randn(50, 2, generator=DRAW), torch.randn(50, 2, generator=DRAW) * torch.tensor([1.0, 9.0])
    assert float(regression.r2(guess, target)) == pytest.approx(sk.r2_score(target, guess))
    assert float(regression.rmse(guess, target)) == pytest.approx(sk.root_mean_squared_error(target, guess), rel=1e-5)
    task = make(node("task", "regression"))(classes=("a", "b"), targets=target.tolist())
    measured = task.metrics()
    for part in (slice(0, 20), slice(20, 50)):
        measured.update(guess[part], target[part])
    said = {k: float(v) for k, v in measured.compute().items()}
    assert said["mae"] == pytest.approx(sk.mean_absolute_error(target, guess), rel=1e-5)
    assert said["b/r2"] == pytest.approx(sk.r2_score(target[:, 1], guess[:, 1]), abs=1e-5)


@pytest.mark.parametrize("name", ["multilabel", "regression", "ordinal"])
def test_the_blind_answer_is_the_best_that_there_is(name):
    """Of a regression the mean, of levels the nearest to it, of labels how frequent they are."""
    target = {
        "multilabel": (torch.rand(40, 3, generator=DRAW) < 0.3).float(),
        "regression": torch.randn(40, 3, generator=DRAW),
        "ordinal": torch.randint(0, 3, (40,), generator=DRAW),
    }[name]
    task = make(node("task", name))(classes=("a", "b", "c"), targets=target.tolist())
    blind = task.constant(target).expand(40, -1)
    value = metric(task, blind, target)
    if name == "regression":
        assert value == pytest.approx(float(target.std(0, correction=0).mean()), rel=1e-5)
    elif name == "ordinal":
        assert value == pytest.approx(0, abs=1e-9)
    else:
        assert value == pytest.approx(float(target.mean(0).mean()), rel=1e-5)


def test_a_gain_and_an_interval_of_what_is_no_mean_are_bootstrapped():
    target = torch.randn(200, 1, generator=DRAW)
    task = make(node("task", "regression"))(classes=("a",), targets=target.tolist())
    good, bad = (target + s * torch.randn(200, 1, generator=DRAW) for s in (0.5, 1.0))
    low, high = interval(task, good, target, seed=0)
    assert low < metric(task, good, target) < high and high - low < 0.2
    better, error = gain(task, good, bad, target)
    assert better == pytest.approx(metric(task, bad, target) - metric(task, good, target), rel=1e-6)
    assert 3 * error < better
    same, error = gain(task, good, good, target)
    assert same == error == 0


# labels, and how they are divided


def listing(root: Path, header: str, *lines: str) -> Path:
    root.mkdir(exist_ok=True)
    for line in lines:
        (root / line.split(",")[0]).touch()
    (root / "t.csv").write_text("\n".join([header, *lines]) + "\n")
    return root


REFUSED = {
    "a word": (Numbers(), "target", ["a.png,1", "b.png,many", "c.png,1.5"], ["row 3", "not a number"]),
    "a comma": (Numbers(), "target", ["a.png,1", 'b.png,"1,5"', "c.png,1.5"], ["row 3", "'1,5'"]),
    "infinite": (Numbers(), "target", ["a.png,1", "b.png,inf", "c.png,2"], ["row 3", "not a number"]),
    "nothing": (Numbers(), "target", ["a.png,1", "b.png,NaN", "c.png,2"], ["row 3", "no target"]),
    "constant": (Numbers(), "target", [f"{i}.png,7" for i in range(9)], ["'target' is always 7", "nothing to learn"]),
    "no order": (Levels(), "target", ["a.png,low", "b.png,high"], ["'high', 'low'", "task.labels.order=[high,low]"]),
    "a level more": (Levels(order=["low", "high"]), "target", ["a.png,low", "b.png,mid"], ["row 3", "'mid'"]),
    "twice": (Levels(order=["low", "low"]), "target", ["a.png,low", "b.png,low"], ["names a level twice"]),
    "one level": (Levels(order=["low", "high"]), "target", ["a.png,low", "b.png,low"], ["1 level(s)", "it needs two"]),
    "a number twice": (Levels(), "target", ["a.png,1", "b.png,1.0", "c.png,2"], ["'1', '1.0' are one number"]),
    "a split by another name": (OneClass(), "target,Split", ["a.png,x,train", "b.png,y,test"], ["columns.split=Split"]),
    "a dot": (Numbers(("petal.width", "x")), "petal.width,x", ["a.png,1,2", "b.png,2,3"], ["'petal.width' have a dot"]),
    "no label": (ManyClasses(), "labels", ["a.png,", "b.png,"], ["no image of train has a label"]),
    "like another": (ManyClasses(), "labels", ["a.png,Cat|dog", "b.png,cat"], ["'Cat'", "'cat'", "differ only"]),
    "another column": (ManyClasses(), "label", ["a.png,x", "b.png,y"], ["'labels'", "data.columns.target=label"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_cannot_be_read_are_refused_with_their_rows(tmp_path, case):
    labels, column, lines, told = REFUSED[case]
    root = listing(tmp_path / "x", f"path,{column}", *lines)
    with pytest.raises(DataError) as caught:
        table(root, "t.csv", labels)
    assert all(part in str(caught.value) for part in told), str(caught.value)


def test_numbers_of_levels_need_no_order(tmp_path):
    root = listing(tmp_path / "x", "path,target", *(f"{i}.png,{(10, 2, 1)[i % 3]}" for i in range(30)))
    source = table(root, "t.csv", Levels())
    assert source.classes == ("1", "2", "10") and set(source.splits["train"].targets) == {0, 1, 2}


def test_a_label_is_text_again(tmp_path):
    lines = [f"{i}.png,{'|'.join(name for name in 'abc' if i % (ord(name) - 95) == 0)}" for i in range(60)]
    source = table(listing(tmp_path / "x", "path,labels", *lines), "t.csv", ManyClasses())
    told = dict(line.split(",") for line in lines)
    for split in source.splits.values():
        for path, target in zip(split.paths, split.targets, strict=True):
            assert source.labels.text(target, source.classes) == (told[path],)
    assert all(len(target) == 3 and set(target) <= {0.0, 1.0} for target in source.splits["train"].targets)


def test_every_split_gets_its_part_of_every_label():
    draw = np.random.default_rng(0)
    strata = [tuple(c for c in range(5) if draw.random() < (0.5, 0.3, 0.2, 0.1, 0.03)[c]) or (-1,) for _ in range(1000)]
    parts = assigned(strata, {"val": 0.15, "test": 0.2}, seed=0)
    for c in range(5):
        having = [part for part, stratum in zip(parts, strata, strict=True) if c in stratum]
        assert having.count("val") / len(having) == pytest.approx(0.15, abs=0.04)
        assert having.count("test") / len(having) == pytest.approx(0.2, abs=0.04)
    assert parts == assigned(strata, {"val": 0.15, "test": 0.2}, seed=0)
    assert parts != assigned(strata, {"val": 0.15, "test": 0.2}, seed=1)


def grouped(root: Path, labels: str = "class", n: int = 120, **options):
    """Images 0 to 119 of 12 patients and 2 classes."""
    lines = [f"{i:03d}.png,{'ab'[(i // 3) % 2]},p{i % 12},{n - i}" for i in range(n)]
    return table(listing(root / "x", "path,target,patient,hour", *lines), "t.csv", **options)


def test_a_group_is_in_one_split_only_and_known_to_the_heads(tmp_path):
    source = grouped(tmp_path, group_column="patient", val_size=0.25, test_size=0.25)
    where = {name: {int(path[:3]) % 12 for path in split.paths} for name, split in source.splits.items()}
    assert not where["train"] & where["val"] and not where["train"] & where["test"] and not where["val"] & where["test"]
    assert sorted(map(len, where.values())) == [3, 3, 6]
    train = source.splits["train"]
    assert len(set(train.groups)) == 6
    assert {(g, int(p[:3]) % 12) for g, p in zip(train.groups, train.paths, strict=True)}.__len__() == 6


def test_a_group_that_lies_in_several_given_splits_is_refused(tmp_path):
    lines = [f"{i}.png,{'ab'[i % 2]},p{i % 3},{('train', 'train', 'val', 'test')[i % 4]}" for i in range(24)]
    root = listing(tmp_path / "x", "path,target,patient,split", *lines)
    with pytest.raises(DataError, match=r"3 group\(s\) of data.group lie in several splits: 'p0"):
        table(root, "t.csv", group_column="patient")
    with pytest.raises(ConfigError, match="Leave one out"):
        table(root, "t.csv", group_column="patient", time_column="split")


def test_by_time_neighbours_stay_together(tmp_path):
    source = grouped(tmp_path, n=200, time_column="hour")
    parts = {int(path[:3]): name for name, split in source.splits.items() for path in split.paths}
    changes = sum(parts[i] != parts[i + 1] for i in range(199))
    assert changes <= 19 and set(parts.values()) == {"train", "val", "test"}
    assert all(len({parts[200 - hour] for hour in range(10 * b + 1, 10 * b + 11)}) == 1 for b in range(20))


@pytest.mark.parametrize("zone", ["", "+00:00"])
def test_dates_are_times_and_what_is_neither_a_date_nor_a_number_is_refused(tmp_path, zone):
    days = [
        f"{i:03d}.png,{'ab'[i % 2]},2026-0{1 + i % 9}-{1 + i // 9:02d}{'T10:00' + zone if zone else ''}"
        for i in range(90)
    ]
    source = table(listing(tmp_path / "x", "path,target,day", *days), "t.csv", time_column="day")
    months = {name: {int(path[:3]) % 9 for path in split.paths} for name, split in source.splits.items()}
    assert len(months["val"]) + len(months["test"]) < 9, "months are in order, and mostly lie in one split"
    listing(tmp_path / "x", "path,target,day", *days[:-1], "089.png,a,31/01/2026")
    with pytest.raises(DataError, match="data.time=day: '31/01/2026' is no date as 2026-01-31"):
        table(tmp_path / "x", "t.csv", time_column="day")
    for way in ("2026-{:02d}", "{:02d}:00:00", "2026-01-{:02d}_23-59-59"):  # in order as they are
        rows = [f"{i:03d}.png,{'ab'[i % 2]},{way.format(i // 10)}" for i in range(90)]
        listing(tmp_path / "x", "path,target,day", *rows)
        source = table(tmp_path / "x", "t.csv", time_column="day")
        assert sum(len(split) for split in source.splits.values()) == 90
    rows = [f"{i:03d}.png,{'train' if i % 2 else 'test'}" for i in range(90)]
    listing(tmp_path / "x", "path,Split", *rows)
    assert table(tmp_path / "x", "t.csv", target_column="Split").classes == ("test", "train")


def test_a_film_that_only_goes_up_is_divided_too(tmp_path):
    lines = [f"{i:03d}.png,{i / 7:.2f}" for i in range(200)]
    for seed in range(3):
        source = table(listing(tmp_path / "x", "path,target", *lines), "t.csv", Numbers(), split_seed=seed)
        assert {name: len(split) for name, split in source.splits.items()} == {"train": 140, "val": 30, "test": 30}
        parts = {int(path[:3]): split for split, items in source.splits.items() for path in items.paths}
        assert sum(parts[i] != parts[i + 1] for i in range(199)) <= 12


def test_names_that_are_made_of_targets_are_no_film(tmp_path):
    draw = np.random.default_rng(0)
    lines = [f"{age}_{draw.integers(2)}_{i}.png,{age}" for i, age in enumerate(draw.integers(1, 90, size=200))]
    source = table(listing(tmp_path / "x", "path,target", *lines), "t.csv", Numbers())
    assert not any("Neighbours" in note for note in source.notes) and not source.splits["train"].groups
    assert any("named by their target" in note for note in source.notes)
    smooth = np.cumsum(draw.normal(size=200)).round() % 3 + 1  # of which names have too few to be told by them
    lines = [f"run{int(value)}_x{i:03d}.png,{value}" for i, value in enumerate(sorted(smooth))]
    source = table(listing(tmp_path / "y", "path,target", *lines), "t.csv", Numbers())
    assert any("Neighbours" in note for note in source.notes)


def test_numbers_with_copies_are_divided_as_without_them(tmp_path):
    draw = np.random.default_rng(1)
    lines = [f"{i:03d}.png,{value:.3f}" for i, value in enumerate(draw.normal(size=60))]
    root = listing(tmp_path / "x", "path,target", *lines)
    for i in range(60):
        (root / f"{i:03d}.png").write_text(f"image {i - (i % 3 == 1)}")
    source = table(root, "t.csv", Numbers())
    sizes = {name: len(split) for name, split in source.splits.items()}
    assert 36 <= sizes["train"] <= 46 and min(sizes.values()) >= 6
    assert any("20 of them are copies" in note for note in source.notes)
    assert any("divided by bins of the numbers with" in note for note in source.notes)


def test_frames_of_a_film_stay_together_in_folds_too_whatever_split_they_were_in(tmp_path):
    values = np.cumsum(np.random.default_rng(0).normal(size=200))
    lines = [f"{i:03d}.png,{value:.3f},{'val' if i % 5 == 4 else 'train'}" for i, value in enumerate(values)]
    source = table(listing(tmp_path / "x", "path,target,split", *lines), "t.csv", Numbers(), fold=0)
    parts = {int(path[:3]): split for split, items in source.splits.items() for path in items.paths}
    assert sum(parts[i] != parts[i + 1] for i in range(199)) <= 2 * 4 and len(source.splits["val"]) == 40


def test_frames_with_like_targets_are_taken_as_blocks_and_random_ones_are_not(tmp_path):
    draw = np.random.default_rng(0)
    smooth = np.cumsum(draw.normal(size=200))
    for name, values in (("film", smooth), ("random", draw.permutation(smooth))):
        lines = [f"{i:03d}.png,{value:.3f}" for i, value in enumerate(values)]
        source = table(listing(tmp_path / name, "path,target", *lines), "t.csv", Numbers())
        assert any("Neighbours" in note for note in source.notes) == (name == "film")
        parts = {int(path[:3]): split for split, items in source.splits.items() for path in items.paths}
        changes = sum(parts[i] != parts[i + 1] for i in range(199))
        assert changes <= 19 if name == "film" else changes > 40
        assert bool(source.splits["train"].groups) == (name == "film")


def test_each_image_is_val_in_one_fold_and_test_stays(tmp_path):
    root = tmp_path / "x"
    lines = [f"{i:03d}.png,{'abc'[i % 3]},{'test' if i >= 90 else 'train'}" for i in range(100)]
    listing(root, "path,target,split", *lines)
    folds = [table(root, "t.csv", fold=fold, folds=4) for fold in range(4)]
    val = [path for source in folds for path in source.splits["val"].paths]
    assert sorted(val) == [f"{i:03d}.png" for i in range(90)]
    for source in folds:
        assert source.splits["test"].paths == folds[0].splits["test"].paths
        assert not set(source.splits["val"].paths) & set(source.splits["train"].paths)
        counts = [source.splits["val"].targets.count(c) for c in range(3)]
        assert max(counts) - min(counts) <= 2 and sum(counts) in (22, 23)


def test_folds_keep_groups_together(tmp_path):
    held = [grouped(tmp_path, group_column="patient", fold=f, folds=3).splits["val"].paths for f in range(3)]
    patients = [{int(path[:3]) % 12 for path in paths} for paths in held]
    assert sorted(map(len, patients)) == [4, 4, 4] and len(set.union(*patients)) == 12


def test_blocks_are_runs_of_neighbours():
    assert blocks([3, 1, 2, 0, 5, 4], 3) == [1, 0, 1, 0, 2, 2]
    assert Division(fold=0).folds == 5


def test_a_million_rows_are_known_within_seconds(tmp_path):
    """Not timed: what would take minutes, a look at each file or a search in a list, would be seen as a timeout."""
    (tmp_path / "a.png").touch()
    lines = [f"a.png,{i % 7}" for i in range(200_000)]
    (tmp_path / "t.csv").write_text("path,target\n" + "\n".join(lines))
    code = f"from src.data.table import table\ntry: table({str(tmp_path)!r}, 't.csv')\nexcept Exception as e: print(e)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert "one image with two targets" in done.stdout


def test_where_an_image_tells_nothing_the_blind_answer_remains():
    draw = torch.Generator().manual_seed(0)
    target = 1000 + 3 * torch.randn(400, 1, generator=draw)
    task = make(node("task", "regression"))(classes=("a",), targets=target.tolist())
    for part, noise in ((0.0, 3.0), (1.0, 0.1)):  # of the target that the features show
        x = torch.randn(400, 6, generator=draw)
        x[:, :1] += part * (target - 1000) / noise
        heads = [task.close(x[:200, :4], target[:200], slice(0, 4)) for _ in range(2)]
        heads = [(torch.nn.functional.pad(w, (0, 2)), b) for w, b in heads]
        weights = task.weigh(*heads, x[200:300], target[200:300])
        mixed = task.mix(*heads, weights["blend"], target[:200])
        found = x[300:] @ mixed[0].T + mixed[1]
        blind = task.constant(target[:200]).expand(100, -1)
        ours, base = (metric(task, answer, target[300:]) for answer in (found, blind))
        assert ours < 0.2 * base if part else ours < 1.01 * base
        assert sum(weights["blend"]) > 1.5 if part else sum(weights["blend"]) < 0.5


@pytest.mark.parametrize("name", ["multiclass", "regression"])
def test_of_a_group_that_is_new_nothing_is_known(name):
    """Images of a group are alike and have one target, drawn at random: who finds it has seen others of the group."""
    draw = torch.Generator().manual_seed(0)
    groups = torch.arange(300) % 60
    x = torch.randn(60, 80, generator=draw)[groups] + 0.1 * torch.randn(300, 80, generator=draw)
    classes, each = ("a", "b", "c"), torch.randint(3, (60,), generator=draw)
    target = each[groups] if name == "multiclass" else torch.randn(60, 1, generator=draw)[groups]
    task = make(node("task", name))(classes=classes if name == "multiclass" else ("a",), targets=target.tolist())
    for held, lowest, highest in ((groups, -1.0, 0.45), (None, 0.6, 1.0)):
        best = task.solve(x, target, {"last": slice(0, 80)}, seed=0, groups=held)[0]
        assert lowest < float(task.skill(best.logits, target)) <= highest


def test_the_unit_of_a_number_does_not_change_what_is_minimised():
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, 1, 4, 4), dtype=torch.uint8, generator=draw)
    y, found = torch.randn(16, 1, generator=draw), []
    for shift, scale in ((0.0, 1.0), (5e4, 1e3), (0.0, 1e-4)):
        task = make(node("task", "regression"))(classes=("a",), targets=(shift + scale * y).tolist())
        torch.manual_seed(0)
        body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        net = Network(Backbone(body, 3, InputSpec((4, 4), 1, (0.5,), (0.5,), "bilinear", 1.0), {}), 1, unit=task.unit)
        module = Module(
            net, task, make(node("loss", "huber")), lambda net: [], lambda groups: None, lambda: None, 0, {}
        )
        loss = module.objective({"image": images, "target": shift + scale * y})
        loss.backward()
        found.append(torch.cat([loss.detach()[None], net.head.weight.grad[0]]))
    torch.testing.assert_close(found[1], found[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found[2], found[0], atol=1e-3, rtol=1e-3)
