"""How sure a regression is: intervals hold the part of the images that they promise, on images that nobody has learnt,
wider where these are uncertain, in the units of the table."""

import json
from pathlib import Path

import pytest
import torch
from scipy.stats import binom
from sklearn.metrics import mean_pinball_loss

from src.contracts import Backbone, InputSpec
from src.factory import make
from src.models.network import Network
from src.stats import metric
from src.tables import read as rows
from src.tasks.spread import spread_of
from tests import made
from tests.yamls import node

LEVELS = (0.05, 0.25, 0.5, 0.9)
SPREADS = {"quantile": (0.05, 0.5, 0.95), "several": LEVELS, "gaussian_nll": 0.9}


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uncertain(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, 3), of which one says how uncertain the two targets are."""
    x = torch.rand(n, 3, generator=torch.Generator().manual_seed(seed))
    clear = torch.stack([1000 + 50 * x[:, 0], -x[:, 1]], 1)
    return x, clear + draw(n, 2, seed=seed + 1) * torch.tensor([10.0, 0.3]) * (0.1 + x[:, 2:])


def task(spread, target: torch.Tensor, monitor: str = "val/rmse"):
    words = node("task", "regression", spread=list(spread) if isinstance(spread, tuple) else spread, monitor=monitor)
    names = ("a", "b")[: target.shape[1]]
    return make(words)(classes=names, targets=target.tolist())


def network(of) -> Network:
    spec = InputSpec((4, 4), 1, (0.5,), (0.5,), "bilinear", 1.0)
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    return Network(Backbone(body, 3, spec, {}), of.outputs, unit=of.unit)


def test_the_pinball_loss_is_scikit_learns_at_each_level():
    loss = make(node("loss", "quantile", quantiles=list(LEVELS)))
    found, target = draw(30, 8, seed=1), draw(30, 2, seed=2)
    each = [mean_pinball_loss(target, found[:, 2 * k : 2 * k + 2], alpha=q) for k, q in enumerate(LEVELS)]
    assert float(loss(found, {"target": target})) == pytest.approx(sum(each) / 4, rel=1e-5)


def test_the_likelihood_is_torchs_and_stays_finite_where_that_overflows():
    loss = make(node("loss", "gaussian_nll"))
    found, target = draw(30, 4, seed=1), draw(30, 2, seed=2)
    theirs = torch.nn.functional.gaussian_nll_loss(found[:, :2], target, (2 * found[:, 2:]).exp(), full=True)
    assert float(loss(found, {"target": target})) == pytest.approx(float(theirs), rel=1e-5)
    for far in (-1e4, -60.0, 60.0, 1e4):
        mean, log_deviation = torch.tensor([[3e4]]), torch.tensor([[far]], requires_grad=True)
        value = loss(torch.cat([mean, log_deviation], 1), {"target": torch.zeros(1, 1)})
        value.backward()
        assert value.isfinite() and log_deviation.grad.isfinite()
        assert log_deviation.grad.sign() == torch.tensor(far).sign(), (
            "what is too small grows, what is too large shrinks"
        )


@pytest.mark.parametrize("name", SPREADS)
def test_intervals_of_uncertain_targets_hold_what_they_promise(name):
    """A linear head is trained by the loss, in the network's unit; 99.9 % of all sets of val are within the bounds."""
    (x, y), (x_val, y_val), (x_test, y_test) = uncertain(2000, 0), uncertain(500, 10), uncertain(2000, 20)
    of = task(SPREADS[name], y)
    values = {"quantiles": list(SPREADS[name])} if name != "gaussian_nll" else {}
    loss, net = make(node("loss", "gaussian_nll" if name == "gaussian_nll" else "quantile", **values)), network(of)
    assert loss.spread == of.spread
    optimizer = torch.optim.Adam(net.head.parameters(), lr=0.1)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        optimizer.zero_grad()
        found = net._in_unit(net.head(x))
        loss(net.standard(found), {"target": net.standard(y)}).backward()
        optimizer.step()
    found = {part: net._in_unit(net.head(x)).detach() for part, x in (("val", x_val), ("test", x_test))}
    tuned = of.tune(found["val"], y_val)
    measured = of.metrics(**tuned)
    measured.update(found["test"], y_test)
    said = {key: float(value) for key, value in measured.compute().items()}
    promised = 0.85 if name == "several" else 0.9
    lowest, highest = (binom.ppf(p, 500, promised) / 500 for p in (0.0005, 0.9995))  # by a val of 500
    for key in ("coverage", "a/coverage", "b/coverage"):
        assert lowest < said[key] < highest, (key, said)
    rows = of.decode(found["test"], **tuned)
    wide = torch.tensor([row["high/a"] - row["low/a"] for row in rows])
    sure, unsure = x_test[:, 2] < 0.2, x_test[:, 2] > 0.8
    assert wide[unsure].mean() > 2.5 * wide[sure].mean(), "wider where the target is uncertain"
    assert float(wide.mean()) == pytest.approx(said["a/interval_width"], rel=1e-4)
    assert said["a/interval_width"] > 20 * said["b/interval_width"]  # each in its own unit
    assert all(row["low/a"] <= row["prediction/a"] <= row["high/a"] for row in rows)
    assert said["a/r2"] > 0.7


def test_the_margin_makes_up_for_a_network_that_is_too_sure_and_for_one_that_is_not():
    held = []
    for factor in (0.2, 3.0):
        for seed in range(30):
            noise, more = draw(99, 1, seed=seed), draw(200, 1, seed=1000 + seed)
            of = task(0.9, torch.tensor([[0.0], [1.0]]))
            found = torch.stack([torch.zeros(200), torch.full((200,), factor).log()], 1)
            (row, *_) = of.decode(found, **of.tune(found[:99], noise))
            held.append(((more >= row["low"]) & (more <= row["high"])).float().mean())
    assert float(torch.stack(held[:30]).mean()) == pytest.approx(0.9, abs=0.02)
    assert float(torch.stack(held[30:]).mean()) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("name", SPREADS)
@pytest.mark.parametrize("margin", [None, [0.5, 0.01]])
def test_a_table_is_read_back_and_quantiles_do_not_cross(name, margin):
    of = task(SPREADS[name], uncertain(50, 0)[1])
    found = draw(40, of.outputs, seed=3)
    rows = of.decode(found, margin=margin)
    for row in rows:
        inner = [row[key] for key in ("quantile/0.25/a", "prediction/a") if key in row]
        assert [row["low/a"], *inner, row["high/a"]] == sorted([row["low/a"], *inner, row["high/a"]])
    again = of.undo([{key: str(value) for key, value in row.items()} for row in rows], margin=margin)
    for row, other in zip(rows, of.decode(again, margin=margin), strict=True):
        assert other == pytest.approx(row, abs=1e-4)


def test_a_margin_below_zero_never_turns_an_interval_round():
    of = task((0.05, 0.5, 0.95), uncertain(50, 0)[1])
    for row in of.decode(draw(40, 6, seed=4), margin=[-9.0, -9.0]):
        assert row["low/a"] == row["prediction/a"] == row["high/a"]


@pytest.mark.parametrize("name", SPREADS)
def test_solved_heads_know_the_numbers_as_without_and_how_far_off_they_are(name):
    x, y = uncertain(400, 0)
    plain, of = task(None, y), task(SPREADS[name], y)
    (one, *_), (head, *_) = (t.solve(x, y, {"last": slice(0, 3)}, seed=0) for t in (plain, of))
    middle = spread_of(of.spread).middle(head.logits)
    torch.testing.assert_close(middle, one.logits)
    assert float(of.skill(head.logits, y)) == pytest.approx(float(plain.skill(one.logits, y)), rel=1e-5)
    measured = of.metrics()
    measured.update(head.logits, y)
    promised = 0.85 if name == "several" else 0.9
    assert float(measured.compute()["coverage"]) == pytest.approx(promised, abs=0.03)
    for images, (weight, bias) in head.parts:
        torch.testing.assert_close(head.logits[images], x[images] @ weight.T + bias, atol=1e-2, rtol=1e-4)
    net = network(of)
    net.answer(head.weight, head.bias)
    torch.testing.assert_close(net._in_unit(net.head(x)), x @ head.weight.T + head.bias, atol=1e-2, rtol=1e-4)
    for back, given in zip(net.answers(), (head.weight, head.bias), strict=True):
        torch.testing.assert_close(back, given, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("name", SPREADS)
def test_a_closing_head_changes_the_numbers_and_keeps_how_sure_the_trained_one_is(name):
    x, y = uncertain(400, 0)
    of, plain = task(SPREADS[name], y), task(None, y)
    how = spread_of(of.spread)
    trained = (
        0.01 * draw(of.outputs, 3, seed=5),
        how.opened((y.mean(0)[:, None], y.mean(0)), how.about(y - y.mean(0)))[1],
    )
    closing, alone = (t.close(x, y, slice(0, 3)) for t in (of, plain))
    weights = of.weigh(trained, closing, x, y)
    mixed = of.mix(trained, closing, weights["closing"], y)
    found, before, only = (x @ w.T + b for w, b in (mixed, trained, alone))
    part = sum(weights["closing"])
    torch.testing.assert_close(how.middle(found), part * only + (1 - part) * y.mean(0), atol=1e-2, rtol=1e-4)
    wide = [how.said(outputs)["high"] - how.said(outputs)["low"] for outputs in (found, before)]
    torch.testing.assert_close(*wide, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("monitor", ["val/rmse", "val/mae"])
@pytest.mark.parametrize("name", SPREADS)
def test_the_blind_answer_is_as_good_as_without_a_spread(name, monitor):
    y = draw(200, 2, seed=6).exp() * torch.tensor([1.0, -1.0])  # the mean is above the median, and below it
    of, plain = task(SPREADS[name], y, monitor), task(None, y, monitor)
    blind, other = (t.constant(y).expand(200, -1) for t in (of, plain))
    assert metric(of, blind, y) == pytest.approx(metric(plain, other, y), rel=1e-5)


def run(zygote, folder: Path, *more: str, **how) -> int:
    words = ["data=csv", f"data.root={folder / 'images'}", "data.table=table.csv", "task=regression", "logger=[csv]"]
    places = [f"paths.cache={folder / 'cache'}", "model.name=test_byobnet.glyphs", "trainer.accelerator=cpu"]
    home = [] if any(word.startswith("run_dir=") for word in more) else [f"run_dir={folder / 'run'}"]
    return zygote.run(*words, *places, *home, *more, **how)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["quantile", "gaussian_nll"])
def test_a_run_gives_an_interval_in_the_units_of_its_table_wider_for_what_is_uncertain(zygote, tmp_path, loss):
    from src.predict import predict

    made.noisy(tmp_path / "images", n=400)
    more = ("trainer.max_epochs=8", "data.columns.target=[target,minus]", "refit=head")
    assert run(zygote, tmp_path, f"loss={loss}", *more) == 0, zygote.screen
    said, tested = json.loads((tmp_path / "run" / "metrics.json").read_text()), rows(tmp_path / "run/predictions.csv")
    inside = [float(row["low/target"]) <= float(row["target/target"]) <= float(row["high/target"]) for row in tested]
    wide = [float(row["high/target"]) - float(row["low/target"]) for row in tested]
    assert said["test/target/coverage"] == pytest.approx(sum(inside) / len(inside), abs=1e-6)
    assert said["test/target/interval_width"] == pytest.approx(sum(wide) / len(wide), rel=1e-4)
    assert binom.ppf(0.001, 60, 0.9) / 60 < said["test/target/coverage"]  # by the 60 of val that set the margin
    full, frame = ([w for row, w in zip(tested, wide, strict=True) if int(row["path"][:4]) % 2 == k] for k in (0, 1))
    assert sum(frame) > 1.3 * sum(full)
    assert said["test/rmse"] < said["test/rmse/constant"] / 2
    assert predict(str(tmp_path / "run"), str(tmp_path / "images"), str(tmp_path / "again.csv")) == 0
    again = {Path(row["path"]).name: row for row in rows(tmp_path / "again.csv")}
    for row in tested:
        for key in (key for key in row if key.startswith(("prediction", "low", "high"))):
            assert float(again[row["path"]][key]) == pytest.approx(float(row[key]), rel=1e-3, abs=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["quantile", "gaussian_nll"])
def test_a_killed_run_resumes_to_the_same_bit(zygote, tmp_path, loss):
    made.noisy(tmp_path / "images", n=60)
    words = ["recipe=off", "data.batch_size=8", "trainer.max_epochs=2", "callbacks.last.every_n_train_steps=2"]
    common = [*words, f"loss={loss}", "data.columns.target=[target,minus]"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(zygote, tmp_path, *common, f"run_dir={whole}") == 0, zygote.screen
    assert run(zygote, tmp_path, *common, f"run_dir={cut}", fault={"at": "step", "n": 6, "number": 9}) == -9
    assert zygote.run(f"resume={cut}", seed=99) == 0, zygote.screen
    assert 0 < zygote.screen.count("a training step") < 10
    for name in ("metrics.csv", "metrics.json", "predictions.csv", "model/weights.safetensors"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    assert "tuned" in json.loads((cut / "run.json").read_text())


@pytest.mark.slow
def test_the_probe_alone_ships_an_interval(zygote, tmp_path):
    made.noisy(tmp_path / "images", n=240)
    assert run(zygote, tmp_path, "loss=quantile", "recipe=probe") == 0, zygote.screen
    said = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert binom.ppf(0.001, 36, 0.9) / 36 < said["test/coverage"] and said["test/r2"] > 0.5


@pytest.mark.parametrize(
    "words",
    [
        ["loss=huber", "task.spread=0.9"],
        ["loss=quantile", "loss.quantiles=[0.1,0.9]"],
        ["loss=quantile", "loss.quantiles=[0.5,0.9]"],
        ["loss=quantile", "loss.quantiles=[0.5,0.1,0.9]"],
        ["loss=quantile", "loss.quantiles=[0,0.5,1]"],
        ["loss=quantile", "loss.quantiles=[low,0.5,high]"],
        ["loss=gaussian_nll", "loss.interval=1"],
    ],
)
def test_levels_without_a_median_inside_are_refused(words):
    from src.check import mistakes

    assert len(mistakes(["data=csv", "data.root=x", "data.table=t.csv", "task=regression", *words])) == 1
    good = ["loss=quantile", "loss.quantiles=[0.1,0.25,0.5,0.9]"]
    assert mistakes(["data=csv", "data.root=x", "data.table=t.csv", "task=regression", *good]) == []


def test_a_loss_and_a_task_that_speak_of_different_outputs_are_refused():
    from types import SimpleNamespace

    from src.contracts import ConfigError
    from src.learner import suits

    cfg = {"loss": {"_target_": "a.b"}, "task": {"_target_": "a.c"}}
    y = uncertain(50, 0)[1]
    for learns, reads in ((None, 0.9), ((0.1, 0.5, 0.9), (0.05, 0.5, 0.95)), (0.9, None)):
        loss = SimpleNamespace(takes="numbers", spread=learns)
        with pytest.raises(ConfigError, match="Leave task.spread out"):
            suits(cfg, loss, task(reads, y))
    suits(cfg, SimpleNamespace(takes="numbers"), task(None, y))
