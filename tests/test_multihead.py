"""Several targets of different kinds from one table go the whole road side by side; what is unknown counts nowhere."""

import json
import math
import signal
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch.nn.functional import cross_entropy, huber_loss, one_hot

from src.contracts import ConfigError, DataError
from src.data.table import split_table, table
from src.factory import make
from src.mixed_labels import Mixed
from src.stats import bootstrap, gain, interval, metric
from tests import made
from tests.browser import readable
from tests.test_tasks import NET, found, listing, rows
from tests.yamls import node

LEVELS = ["one", "two", "three", "four"]
HEADS = {
    "shape": "multiclass",
    "width": "regression",
    "tags": "multilabel",
    "dots": {"kind": "ordinal", "order": LEVELS},
}
TYPED = "task.heads={shape: multiclass, width: regression, tags: multilabel, dots: {kind: ordinal, order: [%s]}}"
CLASSES = (
    *("shape/cross", "shape/disc", "shape/frame", "width", "tags/left", "tags/right", "tags/top"),
    *(f"dots/{level}" for level in LEVELS),
)
NAN = math.nan


def drawn(n: int = 400, missing: float = 0.25) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """-> x (N, 24) that shows all targets, the targets with holes, and whole ones."""
    draw = torch.Generator().manual_seed(0)
    shape, dots = (torch.randint(k, (n,), generator=draw) for k in (3, 4))
    width = 1000 + 300 * torch.randn(n, 1, generator=draw)
    tags = (torch.rand(n, 3, generator=draw) < 0.4).float()
    whole = torch.cat([one_hot(shape, 3), width, tags, one_hot(dots, 4)], 1)
    x = torch.cat([one_hot(shape, 3), (width - 1000) / 300, tags, dots[:, None]], 1)
    x = torch.cat([x + 0.1 * torch.randn(x.shape, generator=draw), torch.randn(n, 16, generator=draw)], 1)
    target = whole.clone()
    for part in (slice(0, 3), slice(3, 4), slice(4, 7), slice(7, 11)):
        target[torch.rand(n, generator=draw) < missing, part] = NAN
    return x, target, whole


def task_of(target: torch.Tensor | None, heads=None, classes=CLASSES, **words):
    targets = None if target is None else [tuple(row) for row in target.tolist()]
    words = {"heads": heads or HEADS, **words}
    return make(node("task", "multihead", **words))(classes=classes, targets=targets)


def loss_of(task, **words):
    counts = tuple(range(5, 5 + task.outputs))
    return make(node("loss", "multihead", **words))(parts=task.parts, counts=counts, images=400)


@pytest.fixture(scope="module")
def ran(zygote, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("multihead")
    root = made.cards(folder / "images")
    words = [
        "data=csv", f"data.root={root}", "data.table=table.csv", "task=multihead", TYPED % ",".join(LEVELS), *NET,
        f"run_dir={folder / 'run'}", f"paths.cache={folder / 'cache'}", "refit=head",
    ]  # fmt: skip
    assert zygote.run(*words) == 0, zygote.screen
    return folder / "run"


@pytest.mark.slow
def test_each_head_of_a_table_with_holes_is_right_in_its_own_words_and_units(ran):
    """Measured once with these words: shape 97 % acc, width R² 0.94, tags mAP 1.00, dots kappa 0.96."""
    said, predicted = found(ran), rows(ran / "predictions.csv")
    assert said["test/shape/acc"] > 0.85 and said["test/width/r2"] > 0.8
    assert said["test/tags/map_macro"] > 0.9 and said["test/dots/qwk"] > 0.85
    skills = [said[f"test/{name}/skill"] for name in HEADS]
    assert said["test/skill"] == pytest.approx(sum(skills) / 4, abs=1e-6)
    assert said["test/skill/low"] < said["test/skill"] < said["test/skill/high"]
    whole = {row["path"]: row for row in rows(ran.parent / "images" / "whole.csv")}
    unknown = [row for row in predicted if not row["target/shape"]]  # the truth of what the table does not tell
    assert len(unknown) > 10
    hits = [row["prediction/shape"] == whole[row["path"]]["shape"] for row in unknown]
    assert sum(hits) / len(hits) > 0.8
    off = [abs(float(row["prediction/width"]) - float(whole[row["path"]]["width"])) for row in predicted]
    assert sum(off) / len(off) < 130  # of 1600 to 2600
    known = [row for row in predicted if row["target/width"]]
    errors = [(float(row["prediction/width"]) - float(row["target/width"])) ** 2 for row in known]
    assert said["test/width/rmse"] == pytest.approx(math.sqrt(sum(errors) / len(errors)), rel=1e-3)
    assert {row["prediction/dots"] for row in predicted} <= set(LEVELS)
    assert "shape: multiclass of 3, known of " in (ran / "recipe.md").read_text()


@pytest.mark.slow
def test_each_head_has_an_interval_a_blind_answer_and_a_picture_of_its_own(ran):
    said, tested = found(ran), rows(ran / "predictions.csv")
    train = [row for row in rows(ran.parent / "images" / "table.csv") if row["split"] == "train"]
    for key in ("shape/acc", "width/rmse", "tags/map_macro", "dots/qwk"):
        low, value, high = (said[f"test/{key}{end}"] for end in ("/low", "", "/high"))
        assert low < value < high or low <= value == high == 1, key
    known = [row for row in tested if row["target/shape"]]
    assert said["test/shape/images"] == len(known) < len(tested)
    right = torch.tensor([float(row["prediction/shape"] == row["target/shape"]) for row in known])
    assert (said["test/shape/acc/low"], said["test/shape/acc/high"]) == pytest.approx(bootstrap(right), abs=1e-6)
    most = Counter(row["shape"] for row in train if row["shape"]).most_common(1)[0][0]
    assert said["test/shape/acc/constant"] == pytest.approx(sum(r["target/shape"] == most for r in known) / len(known))
    mean = fmean(float(row["width"]) for row in train if row["width"])
    off = [(float(row["target/width"]) - mean) ** 2 for row in tested if row["target/width"]]
    assert said["test/width/rmse/constant"] == pytest.approx(math.sqrt(fmean(off)), rel=1e-3)
    classes = tuple(json.loads((ran / "model" / "model.json").read_text())["classes"])
    drawn = task_of(None, classes=classes).figure(tested, classes)
    titles = [place.get_suptitle() for place in drawn.subfigs[: len(HEADS)]]
    assert titles[0] == f"shape, of {len(known)} images" and [title.split(",")[0] for title in titles] == list(HEADS)
    (axes,) = drawn.subfigs[0].axes
    assert sum(int(text.get_text()) for text in axes.texts) == len(known)
    assert sum(len(line.get_xdata()) for line in drawn.subfigs[1].axes[0].lines) - 2 == len(off)


@pytest.mark.slow
def test_predict_says_of_every_head_what_the_test_said(ran, tmp_path):
    from src.predict import predict

    assert predict(str(ran), str(ran.parent / "images"), str(tmp_path / "again.csv")) == 0
    again = {Path(row["path"]).name: row for row in rows(tmp_path / "again.csv")}
    for row in rows(ran / "predictions.csv"):
        for key in (k for k in row if k.startswith(("prediction/", "prob/", "expected/"))):
            told = again[row["path"]][key]
            same = told == row[key] or float(told) == pytest.approx(float(row[key]), rel=1e-5, abs=1e-5)
            assert same, key


def few(folder: Path, *more: str) -> list[str]:
    """A run on 40 images without a recipe."""
    root = made.cards(folder / "images", n=40)
    words = ["data=csv", f"data.root={root}", "data.table=table.csv", "task=multihead", TYPED % ",".join(LEVELS)]
    words += [*NET[:2], f"paths.cache={folder / 'cache'}", "recipe=off", "data.batch_size=8", "logger=[csv]"]
    return [*words, *more]


@pytest.mark.slow
def test_all_of_the_report_can_be_read(ran, tmp_path):
    readable([ran / "report" / "index.html"], tmp_path)


@pytest.mark.slow
def test_learnt_weights_are_in_the_checkpoint_and_resume_to_the_same_bit(zygote, tmp_path):
    from src import checkpoint

    more = ["trainer.max_epochs=2", "loss.balance=uncertainty", "callbacks.last.every_n_train_steps=2", "stages=[fit]"]
    start, fault = few(tmp_path, *more), {"at": "step", "n": 4, "number": int(signal.SIGKILL)}
    assert zygote.run(*start, f"run_dir={tmp_path / 'whole'}") == 0, zygote.screen
    assert zygote.run(*start, f"run_dir={tmp_path / 'cut'}", fault=fault) == -9
    assert zygote.run(f"resume={tmp_path / 'cut'}", seed=99) == 0, zygote.screen
    assert 0 < zygote.screen.count("a training step") < 6
    one, two = (checkpoint.load(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "cut"))
    assert all(torch.equal(value, two["state_dict"][key]) for key, value in one["state_dict"].items())
    learnt = one["state_dict"]["loss.log_variance"]
    assert learnt.shape == (4,) and (learnt != 0).all()
    state = one["optimizer_states"][0]
    assert sum(len(group["params"]) for group in state["param_groups"]) == len(state["state"])


@pytest.mark.slow
def test_folds_of_several_heads_are_merged(zygote, tmp_path):
    from src.merge import merge

    sweep = [f"paths.logs={tmp_path / 'logs'}", "name=sweep", "data.folds=2", "data.fold=0,1", "trainer.max_epochs=1"]
    assert zygote.run("-m", *few(tmp_path, *sweep)) == 0, zygote.screen
    said = merge(tmp_path / "logs" / "sweep")
    assert said["oof/skill"] <= 1 and {"folds/val/shape/acc", "test/tags/map_macro"} <= set(said)
    oof = rows(tmp_path / "logs" / "sweep" / "merged" / "oof.csv")
    known = [row for row in oof if row["target/width"]]
    errors = [(float(row["prediction/width"]) - float(row["target/width"])) ** 2 for row in known]
    assert said["oof/width/rmse"] == pytest.approx(math.sqrt(sum(errors) / len(errors)), rel=1e-4)


# the loss


@pytest.mark.parametrize("balance", ["fixed", "uncertainty"])
def test_the_loss_is_the_sum_of_what_each_head_would_have_alone_on_the_images_that_have_its_label(balance):
    _, target, _ = drawn(60)
    heads = {**HEADS, "width": {"kind": "regression", "weight": 3.0}}
    task = task_of(target, heads)
    logits = torch.randn(60, 11, generator=torch.Generator().manual_seed(1))
    standard = target.clone()
    standard[:, 3] = (target[:, 3] - task.unit[0][3]) / task.unit[1][3]
    loss = loss_of(task, balance=balance)
    logs = torch.tensor([0.3, -0.5, 0.0, 1.0]) if balance == "uncertainty" else torch.zeros(4)
    if balance == "uncertainty":
        loss.log_variance.data.copy_(logs)
    has = [~standard[:, i].isnan() for i in (0, 3, 4, 7)]
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    each = torch.stack(
        [
            cross_entropy(logits[has[0], :3], standard[has[0], :3].argmax(1), label_smoothing=0.1),
            huber_loss(logits[has[1], 3:4], standard[has[1], 3:4]),
            bce(logits[has[2], 4:7], standard[has[2], 4:7]),
            cross_entropy(logits[has[3], 7:], standard[has[3], 7:].argmax(1), label_smoothing=0.1),
        ]
    )
    wanted = torch.tensor([1.0, 3.0, 1.0, 1.0]) @ ((-logs).exp() * each + logs / 2)
    torch.testing.assert_close(loss(logits, {"target": standard}), wanted)


def test_what_is_unknown_has_no_gradient_and_a_batch_without_any_label_is_no_fault():
    _, target, _ = drawn(40)
    task = task_of(target)
    loss, logits = loss_of(task, balance="uncertainty"), torch.randn(40, 11, requires_grad=True)
    loss(logits, {"target": target}).backward()
    assert torch.equal(logits.grad != 0, ~target.isnan())
    logits.grad, nothing = None, torch.full_like(target, NAN)
    value = loss(logits, {"target": nothing})
    value.backward()
    assert float(value.detach()) == 0 and not logits.grad.any()
    assert loss.log_variance.grad is not None


def test_a_head_has_the_loss_that_it_names_and_no_loss_of_another_kind():
    _, target, _ = drawn(60)
    task = task_of(target, {**HEADS, "shape": {"kind": "multiclass", "loss": "focal"}})
    assert [type(one).__name__ for one in loss_of(task).each] == ["Focal", "Huber", "BCE", "CrossEntropy"]
    wrong = task_of(target, {**HEADS, "shape": {"kind": "multiclass", "loss": "huber"}})
    with pytest.raises(ConfigError, match=r"shape: loss=huber cannot take the targets of multiclass.*\n.*focal"):
        loss_of(wrong)
    nothing = task_of(target, {name: {**node_of(said), "weight": 0} for name, said in HEADS.items()})
    with pytest.raises(ConfigError, match="every weight is 0"):
        loss_of(nothing)


def node_of(said) -> dict:
    return {"kind": said} if isinstance(said, str) else said


def test_frequency_weights_count_only_the_images_of_which_the_labels_are_known():
    _, target, _ = drawn(60)
    task = task_of(target)
    losses = {**node("loss", "multihead")["losses"], "bce": node("loss", "bce", weights="frequency")}
    counts = tuple(int((target[:, i] == 1).sum()) for i in range(11))
    loss = make({**node("loss", "multihead"), "losses": losses})(parts=task.parts, counts=counts, images=60)
    known = int((~target[:, 4].isnan()).sum())
    wanted = [math.sqrt((known - n) / n) for n in counts[4:7]]
    assert loss.each[2].weight.tolist() == pytest.approx(wanted)


# the task


def test_solved_heads_know_each_target_from_the_images_that_have_it():
    """And so do the closing head, its mixture with the trained one, and the parts that were held out."""
    x, target, whole = drawn()
    task = task_of(target[:300])
    columns = {"last": slice(0, 8), "stages": slice(0, 24)}
    heads = task.solve(x[:300], target[:300], columns, 0)
    for head in heads:
        assert float(task.skill(head.logits, target[:300])) > 0.9
        logits = x[300:] @ head.weight.T + head.bias
        for one in ("shape/acc", "width/r2", "tags/map_macro", "dots/qwk"):
            measured = task.metrics()
            measured.update(logits, whole[300:])
            assert float(measured.compute()[one]) > 0.9, one
        blind = torch.zeros(300, 11)
        for images, (weight, bias) in head.parts:
            blind[images] += x[images] @ weight.T + bias
        torch.testing.assert_close(task.skill(blind, target[:300]), task.skill(head.logits, target[:300]))
        again = task.solve(x[:300], target[:300], columns, 0, only=head.name)
        assert len(again) == 1 and again[0].name == head.name
        torch.testing.assert_close(again[0].weight, head.weight)
    last = next(head for head in heads if head.name.endswith(" on last"))
    assert not last.weight[:, 8:].any()
    closing = task.close(x[:200], target[:200], columns["stages"])
    trained = torch.zeros_like(closing[0]), torch.zeros_like(closing[1])
    weights = json.loads(json.dumps(task.weigh(trained, closing, x[200:300], target[200:300])))  # as run.json keeps it
    mixed = task.mix(trained, closing, weights["closing"], target[:200])
    assert float(task.skill(x[300:] @ mixed[0].T + mixed[1], whole[300:])) > 0.9


def test_a_head_of_which_few_images_are_known_is_blind_and_the_others_are_not():
    x, target, whole = drawn()
    target[5:, 3] = NAN
    task = task_of(target)
    head = task.solve(x, target, {"last": slice(0, 24)}, 0)[0]
    assert not head.weight[3].any() and "width: blind" in head.name
    assert task.solve(x, target, {"last": slice(0, 24)}, 0, only=head.name)[0].name == head.name
    logits = x @ head.weight.T + head.bias
    measured = task.metrics()
    measured.update(logits, whole)
    assert float(measured.compute()["shape/acc"]) > 0.9


def test_skill_is_1_for_the_truth_and_0_for_the_blind_answer_and_unknown_images_do_not_count():
    _, target, whole = drawn()
    task = task_of(target)
    truth = torch.where(torch.tensor([part == 3 for part in range(11)]), whole, 40 * whole - 20)
    assert float(task.skill(truth, whole)) == pytest.approx(1, abs=1e-6)
    assert float(task.skill(task.constant(whole).expand(400, -1), whole)) == pytest.approx(0, abs=1e-6)
    lies = torch.where(target.isnan(), 1e3 * torch.randn(400, 11), truth)
    assert float(task.skill(lies, target)) == pytest.approx(1, abs=1e-6)
    far = truth.clone()
    far[:, 3] += 1e6
    assert float(task.skill(far, whole)) == pytest.approx((3 - 1) / 4, abs=1e-6)  # no head can hide the others
    low, high = interval(task, truth + 8 * torch.randn(400, 11), target, 0)
    assert low < high < 1
    better, error = gain(task, truth, truth + 15 * torch.randn(400, 11), target)
    assert better > 3 * error > 0
    nothing = torch.full_like(target, NAN)
    assert math.isnan(metric(task, truth, nothing)) and interval(task, truth, nothing, 0) is None


def test_metrics_are_those_of_each_task_alone_in_any_batches_and_nan_where_nothing_is_known():
    _, target, _ = drawn(90)
    target[:, 4:7] = NAN
    task = task_of(target)
    logits = torch.randn(90, 11, generator=torch.Generator().manual_seed(2))
    logits[:, 3] = 1000 + 100 * logits[:, 3]
    measured = task.metrics().clone(prefix="val/")
    for part in range(0, 90, 7):
        for one in measured.values():
            one.update(logits[part : part + 7], target[part : part + 7])
    said = {key: float(value) for key, value in measured.compute().items()}
    shape, width = (~target[:, i].isnan() for i in (0, 3))
    assert said["val/shape/acc"] == pytest.approx(
        float((logits[shape, :3].argmax(1) == target[shape, :3].argmax(1)).float().mean())
    )
    off = (logits[width, 3] - target[width, 3]).square().mean().sqrt()
    assert said["val/width/rmse"] == pytest.approx(float(off), rel=1e-5)
    assert math.isnan(said["val/tags/map_macro"]) and math.isfinite(said["val/skill"])


@pytest.mark.parametrize(
    ("monitor", "mode"), [("val/width/rmse", "min"), ("val/shape/acc", "max"), ("val/dots/skill", "max")]
)
def test_any_metric_of_a_head_can_choose(monitor, mode):
    _, target, _ = drawn(90)
    task = task_of(target, monitor=monitor, mode=mode)
    logits = torch.randn(90, 11)
    measured = task.metrics()
    measured.update(logits, target)
    assert metric(task, logits, target) == pytest.approx(
        float(measured.compute()[monitor.removeprefix("val/")]), rel=1e-4
    )


def test_a_head_that_is_to_be_balanced_is_blind_at_the_same_for_each_class():
    _, target, _ = drawn(200)
    said = {**HEADS, "shape": {"kind": "multiclass", "monitor": "balanced_acc"}}
    logits = torch.zeros(200, 11)
    logits[:, 0] = 1
    for heads, wanted in ((HEADS, None), (said, 0.0)):
        task = task_of(target, heads)
        measured = task.metrics()
        measured.update(logits, target)
        value = float(measured.compute()["shape/skill"])
        assert value == pytest.approx(wanted, abs=1e-6) if wanted is not None else value < 0


# the labels


def listed(folder: Path, *lines: str, header: str = "path,split,shape,width,tags,dots") -> Path:
    return listing(folder / "x", header, *lines)


def test_a_table_with_holes_is_read_divided_and_written_back(tmp_path):
    tags, dots = ("x|y", "y", "|", ""), ("", "two", "one")
    cells = [(("a", "b", "")[i % 3], 37 * i % 101 if i % 4 else "", tags[i % 4], dots[i % 3]) for i in range(120)]
    lines = [f"{i:03d}.png,{','.join(map(str, row))}" for i, row in enumerate(cells)]
    root = listed(tmp_path, *lines, header="path,shape,width,tags,dots")
    labels = Mixed(heads={**HEADS, "dots": {"kind": "ordinal", "order": ["one", "two"]}})
    source = table(root, "t.csv", labels)
    assert source.classes == ("shape/a", "shape/b", "width", "tags/x", "tags/y", "dots/one", "dots/two")
    told = dict(line.split(",", 1) for line in lines)
    for split in source.splits.values():
        for path, target in zip(split.paths, split.targets, strict=True):
            written = source.labels.text(target, source.classes)
            assert [c and (float(c) if c[0].isdigit() else c) for c in written] == [
                c and (float(c) if c[0].isdigit() else c) for c in told[path].split(",")
            ]
    train = source.splits["train"].targets
    by_path = dict(zip(source.splits["train"].paths, train, strict=True))
    some = next(path for path in by_path if int(path[:3]) % 12 == 0)
    assert by_path[some][:2] == (1.0, 0.0) and math.isnan(by_path[some][2]) and by_path[some][3:5] == (1.0, 1.0)
    assert all(math.isnan(value) for value in by_path[some][5:])
    counts = labels.counts(train, source.classes)
    assert counts[0] == sum(target[0] == 1 for target in train)
    for split in ("val", "test"):  # each gets its part of what is known and of what is not
        part = source.splits[split].targets
        assert sum(math.isnan(t[2]) for t in part) / len(part) == pytest.approx(0.25, abs=0.12)
        assert sum(t[0] == 1 for t in part) / len(part) == pytest.approx(1 / 3, abs=0.12)
    (tmp_path / "again.csv").write_text("".join(split_table(source)))
    again = table(root, tmp_path / "again.csv", labels)
    assert "".join(split_table(again)) == "".join(split_table(source))


GOOD = [f"{i}.png,train,{'ab'[i % 2]},{i},x,{('one', 'two')[i % 2]}" for i in range(8)]
GOOD += [f"v{i}.png,val,{'ab'[i % 2]},{i},x,{('one', 'two')[i % 2]}" for i in range(4)]


def refused(tmp_path, lines, heads=None, header="path,split,shape,width,tags,dots") -> str:
    with pytest.raises((DataError, ConfigError)) as told:
        table(listed(tmp_path, *lines, header=header), "t.csv", Mixed(heads=heads or HEADS))
    return str(told.value)


def test_all_that_is_wrong_with_the_cells_is_told_with_their_rows(tmp_path):
    bad = ["8.png,train,a,wide,x,one", "9.png,train,a,3,x,one", "10.png,train,a,1e,x,one"]
    said = refused(tmp_path, [*GOOD, *bad])
    assert "width: not a number, as 1.5 is: row 14" in said and "'wide'" in said and "row 16" in said
    assert "row 15" not in said
    (tmp_path / "levels").mkdir()
    said = refused(tmp_path / "levels", [*GOOD, "8.png,train,,1,x,five"])
    assert "dots: no level of task.heads.dots.order=['one', 'two', 'three', 'four']: row 14" in said
    assert "'five'" in said, "though another cell is empty"


def test_all_columns_that_teach_nothing_are_told_at_once(tmp_path):
    lines = [f"{i}.png,{('train', 'val')[i % 2]},a,7,,one" for i in range(8)]
    said = refused(tmp_path, lines)
    for part in (
        "column 'shape': found one class only, 'a'", "column 'width' is always 7 in train",
        "column 'tags' is empty for all images in train",
        "train has 1 level(s), 'one'",
    ):  # fmt: skip
        assert part in said


def test_all_columns_that_the_table_lacks_are_told_at_once(tmp_path):
    lines = [line.rsplit(",", 1)[0] for line in GOOD]
    said = refused(tmp_path, lines, header="path,split,shap,width,tags")
    assert "no column 'shape'. Set task.heads={shap: KIND}" in said and "no column 'dots'" in said
    assert "Its columns: path, split, shap, width, tags" in said


def test_what_is_no_table_of_columns_and_a_second_word_for_them_are_refused(tmp_path):
    root = listed(tmp_path, *GOOD)
    with pytest.raises(ConfigError, match="Leave data.columns.target out"):
        table(root, "t.csv", Mixed(heads=HEADS), target_column="shape")
    with pytest.raises(ConfigError, match="use data=csv"):
        task_of(None, classes=tuple("0123456789"))
    with pytest.raises(ConfigError, match="use data=csv"):
        Mixed(heads=HEADS).fault(("disc",))
    with pytest.raises(ConfigError, match="shape: multiclas is no kind"):
        Mixed(heads={"shape": "multiclas"})


def test_a_film_is_known_by_any_of_its_numbers():
    draw = torch.randn(200, generator=torch.Generator().manual_seed(0))
    smooth = draw.cumsum(0).tolist()
    targets = [(1.0, 0.0, NAN if i % 5 == 0 else smooth[i], float(draw[i])) for i in range(200)]
    labels = Mixed(heads={"a": "multiclass", "b": "regression", "c": "regression"})
    assert labels.serial(targets) and not labels.serial([(a, b, NAN, d) for a, b, _, d in targets])
