"""What schedules and optimizers promise: a pure function of the step, from a warm-up to zero; and steps downhill."""

from __future__ import annotations

import random

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from src.contracts import ConfigError
from src.factory import make
from src.replan import Plan
from tests.yamls import names, node

TOTALS = [1, 2, 3, 10, 397]


def schedule(name: str, total: int, **values):
    return make(node("scheduler", name, **values))(total=total)


@pytest.mark.parametrize("name", names("scheduler"))
@pytest.mark.parametrize("total", TOTALS)
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5])
def test_the_factor_rises_to_its_peak_and_falls_to_zero(name, total, warmup):
    factor = schedule(name, total, warmup=warmup)
    values = [factor(step) for step in range(total + 3)]
    assert all(0 <= v <= 1 for v in values) and max(values[:total]) == 1
    peak = values.index(1)
    assert values[: peak + 1] == sorted(set(values[: peak + 1]))  # strictly up
    assert values[peak:] == sorted(values[peak:], reverse=True)
    assert abs(peak - warmup * total) <= 1 and values[0] > 0
    assert values[total:] == [pytest.approx({"constant": 1, "step": 0.01}.get(name, 0))] * 3
    if name != "constant" and total > 300:
        assert 0 < values[total - 1] < 0.02


SHAPES = {  # at a quarter, a half and nine tenths of the way
    "constant": (1, 1, 1),
    "cosine": (0.853553, 0.5, 0.024472),
    "linear": (0.75, 0.5, 0.1),
    "one_cycle": (0.853553, 0.5, 0.024472),
    "polynomial": (0.5625, 0.25, 0.01),
    "step": (1, 0.1, 0.01),
    "warmup_stable_decay": (1, 1, 1 - 0.5**0.5),
}


@pytest.mark.parametrize("name", names("scheduler"))
def test_each_schedule_has_the_shape_of_its_paper(name):
    factor = schedule(name, 1000, warmup=0.0)
    assert [factor(step) for step in (250, 500, 900)] == pytest.approx(SHAPES[name], abs=1e-5)


def test_one_cycle_rises_by_half_a_cosine():
    factor = schedule("one_cycle", 1000)
    assert [factor(step) for step in (74, 149, 224, 299, 649)] == pytest.approx(
        [0.146447, 0.5, 0.853553, 1, 0.5], abs=0.01
    )


@pytest.mark.parametrize("name", names("scheduler"))
def test_the_factor_depends_on_the_step_alone(name):
    first, steps = [schedule(name, 50)(step) for step in range(51)], list(range(51))
    random.Random(0).shuffle(steps)
    factor = schedule(name, 50)
    mixed = {step: factor(step) for step in steps + steps}
    assert [mixed[step] for step in range(51)] == first


@pytest.mark.parametrize("name", names("scheduler"))
def test_a_resumed_schedule_goes_on_and_its_state_is_plain_data(name, tmp_path):
    def begun():
        optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 1.0)])
        factor = schedule(name, 20)
        return optimizer, LambdaLR(optimizer, lambda step: factor(step))  # as src/module.py does

    optimizer, scheduler = begun()
    rates = []
    for step in range(20):
        if step == 7:
            torch.save({"o": optimizer.state_dict(), "s": scheduler.state_dict()}, tmp_path / "state.pt")
            saved = torch.load(tmp_path / "state.pt", weights_only=True)
            optimizer, scheduler = begun()
            optimizer.load_state_dict(saved["o"])
            scheduler.load_state_dict(saved["s"])
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    factor = schedule(name, 20)
    assert rates == [[pytest.approx(0.1 * factor(step)), pytest.approx(factor(step))] for step in range(20)]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("cosine", {"warmup": 5}), ("cosine", {"warmup": -0.1}), ("linear", {"warmup": 1.0}),
        ("step", {"shape": {"milestones": [0.8, 0.5]}}), ("step", {"shape": {"factor": 1.5}}),
        ("warmup_stable_decay", {"shape": {"decay": 0}}), ("warmup_stable_decay", {"shape": {"decay": 1.2}}),
    ],
)  # fmt: skip
def test_numbers_outside_their_range_are_refused(name, values):
    with pytest.raises(ConfigError, match="(decay|milestones|factor)=" if "shape" in values else "warmup="):
        schedule(name, 100, **values)


# optimizers


def falls(optimizer, weight, bias) -> bool:
    """Whether 30 steps on a quadratic lower it."""

    def height():
        return (weight**2).sum() + (bias**2).sum()

    def closure():
        optimizer.zero_grad()
        found = height()
        found.backward()
        return found

    before = height().item()
    for _ in range(30):
        optimizer.step(closure)
    return height().item() < before


def two_groups():
    torch.manual_seed(0)
    weight, bias = torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(4))
    return weight, bias, [
        {"params": [weight], "lr": 0.01, "weight_decay": 0.02},
        {"params": [bias], "lr": 0.001, "weight_decay": 0.0},
    ]  # fmt: skip


@pytest.mark.parametrize("name", names("optimizer"))
def test_each_optimizer_goes_downhill_at_the_rates_of_its_groups(name):
    weight, bias, groups = two_groups()
    optimizer = make(node("optimizer", name))(groups)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.01, 0.02), (0.001, 0.0)]
    assert falls(optimizer, weight, bias)


@pytest.mark.parametrize("opt", ["adamw", "adan", "lamb", "lion", "madgrad", "muon", "nadamw", "sgd", "sgdw", "adopt"])
def test_optimizers_of_timm_go_downhill_at_the_rates_of_their_groups(opt):
    weight, bias, groups = two_groups()
    optimizer = make(node("optimizer", "timm", opt=opt))(groups)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.01, 0.02), (0.001, 0.0)]
    assert falls(optimizer, weight, bias)


@pytest.mark.parametrize("name", names("optimizer"))
def test_the_rates_and_decays_of_the_yaml_are_numbers(name):
    found = node("optimizer", name)
    assert isinstance(found["lr"], float) and isinstance(found["weight_decay"], float) and found["lr"] > 0


def test_a_deadline_hurries_the_schedule_to_its_end_and_stops_there(monkeypatch):
    from types import SimpleNamespace

    from src.callbacks import deadline
    from src.schedulers import Schedule, cosine

    clock = {"now": 100.0}
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: clock["now"]))
    trainer = SimpleNamespace(estimated_stepping_batches=100, should_stop=False)
    module = SimpleNamespace(pace=lambda step: step, plan=Plan(100, 100))
    callback, factor, rates = deadline.Deadline(seconds=10.0), Schedule(cosine, 100, 0.05), []
    callback.on_train_start(trainer, module)
    for step in range(100):
        callback.on_train_batch_start(trainer, module, None, step)
        rates.append(factor(module.pace(step)))
        callback.on_train_batch_end(trainer, module, None, None, step)
        if trainer.should_stop:
            break
        clock["now"] += 0.5  # a machine that is five times slower than 100 updates would need
    assert len(rates) == 21 and rates[-1] == pytest.approx(0, abs=1e-6)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_without_a_deadline_the_pace_is_that_of_the_updates():
    from types import SimpleNamespace

    from src.callbacks.deadline import Deadline

    module, trainer = SimpleNamespace(pace=None), SimpleNamespace(estimated_stepping_batches=100, should_stop=False)
    callback = Deadline()
    callback.on_train_start(trainer, module)
    callback.on_train_batch_start(trainer, module, None, 0)
    callback.on_train_batch_end(trainer, module, None, None, 0)
    assert module.pace is None and not trainer.should_stop


def test_the_seconds_that_a_resumed_run_has_spent_count():
    from types import SimpleNamespace

    from src.callbacks.deadline import Deadline

    first = Deadline(1000.0)
    first.spent, first.progress = 600.0, 0.7
    again = Deadline(1000.0)
    again.load_state_dict(first.state_dict())
    trainer = SimpleNamespace(estimated_stepping_batches=100, should_stop=False)
    module = SimpleNamespace(pace=lambda step: step, plan=Plan(100, 100))
    again.on_train_start(trainer, module)
    again.on_train_batch_start(trainer, module, None, 0)
    assert again.spent >= 600 and module.pace(10) == pytest.approx(70) and module.pace(80) == 80
