"""The average of the weights and its BatchNorm statistics: what they are, and that they survive whatever a run does."""

import signal
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d
from torch import nn

from src import checkpoint
from src.callbacks.ema import EMA
from src.checkpoint import averaged
from src.models.batchnorm import reestimate
from src.replan import Plan
from tests.conftest import words


def last_weight(updates: int, place: int, **given) -> float:
    """The part that the weights of one place, 0 for the starting weights, have in the average of a whole run."""
    net = nn.Linear(1, 1, bias=False)
    module, trainer = (
        SimpleNamespace(network=net, pace=lambda step: step, plan=Plan(updates, updates)),
        SimpleNamespace(estimated_stepping_batches=updates, global_step=0),
    )
    ema = EMA(**given)
    net.weight.data.fill_(float(place == 0))
    ema.on_train_start(trainer, module)
    for step in range(1, updates + 1):
        trainer.global_step = step
        net.weight.data.fill_(float(step == place))
        ema.on_train_batch_end(trainer, module, None, None, step - 1)
    return float(ema.average["weight"])


@pytest.mark.parametrize("updates", [10, 37, 300, 3000, 100_000])
def test_the_beginning_of_a_run_is_forgotten_at_its_end(updates):
    assert last_weight(updates, 0) == 0
    assert last_weight(updates, 1) < 0.01
    assert last_weight(updates, 0, decay=0.9998) == 0


def test_a_run_of_one_update_has_its_weights_as_average():
    assert last_weight(1, 1) == 1


def test_the_weights_of_the_last_part_of_the_run_count():
    # of 200 updates, a memory of 20: exp(-1/20) a step, so the last update has 1 - exp(-1/20), that 20 before it 1/e
    newest = last_weight(200, 200)
    assert newest == pytest.approx(1 - 2.718281828 ** (-1 / 20), rel=1e-5)
    assert last_weight(200, 180) == pytest.approx(newest / 2.718281828, rel=1e-4)
    assert last_weight(200, 200, memory=0.5) == pytest.approx(1 - 2.718281828 ** (-1 / 100), rel=1e-4)
    assert last_weight(200, 200, decay=0.9) == pytest.approx(0.1, rel=1e-5)
    assert last_weight(200, 199, decay=0.9) == pytest.approx(0.09, rel=1e-5)


def test_of_the_last_part_each_update_counts_the_same():
    """Izmailov et al. 2018: of 200 updates the last quarter are 50."""
    found = [last_weight(200, place, last=0.25) for place in (0, 100, 150, 151, 175, 200)]
    assert found == pytest.approx([0, 0, 0, 0.02, 0.02, 0.02], rel=1e-5)
    assert last_weight(7, 7, last=0.01) == 1  # never begun: the weights themselves


class Net(nn.Sequential):
    """A frozen part, a trained part, BatchNorm, and a buffer that each pass replaces."""

    def __init__(self):
        super().__init__(nn.Linear(3, 8), nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self[0].requires_grad_(False)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen = self.seen + 1
        return super().forward(x)


class Fit(pl.LightningModule):
    """Keeps a copy of the state after each update, in float64."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network, self.states = Net(), []

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.05)

    def training_step(self, batch, batch_idx):
        return self.network(batch[0].to(self.network[0].weight.dtype)).square().mean()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.trainer.global_step > len(self.states):
            self.states.append({k: v.double().clone() for k, v in self.network.state_dict().items()})


def fitted(accumulate: int = 1, precision: str = "32-true", n: int = 24) -> tuple[Fit, EMA]:
    torch.manual_seed(1)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8 * n, 3)), 8)
    module, ema = Fit(), EMA(memory=0.25)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accumulate_grad_batches=accumulate, precision=precision, callbacks=[ema],
    )  # fmt: skip
    trainer.fit(module, data)
    return module, ema


@pytest.mark.filterwarnings("ignore::Warning")  # Lightning's, of a loader without workers
@pytest.mark.parametrize(
    ("accumulate", "precision"), [(1, "32-true"), (3, "32-true"), (5, "32-true"), (1, "bf16-true")]
)
def test_a_fit_leaves_the_average_of_what_moved(accumulate, precision):
    module, ema = fitted(accumulate, precision)
    decay = 2.718281828459045 ** (-1 / (0.25 * len(module.states)))
    expected = dict(module.states[0])
    for t, state in enumerate(module.states):
        keep = min(decay, t / (t + 1))
        expected = {k: keep * v + (1 - keep) * state[k] for k, v in expected.items()}
    found, live = ema.state_dict()["average"], module.network.state_dict()
    assert ema.updates == len(module.states) == 2 * -(-24 // accumulate)
    assert list(found) == list(live)
    for key, value in found.items():
        if "num_batches" in key or key.startswith("0."):  # an integer; frozen: the live ones, held once
            assert value.data_ptr() == live[key].data_ptr() and value.dtype == live[key].dtype
        else:
            assert value.dtype == torch.float32 and value.data_ptr() != live[key].data_ptr()
            torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-6)
            assert not torch.equal(value, live[key].float())
    Net().load_state_dict(found)


@pytest.fixture(scope="module")
def runs(zygote, shapes, tmp_path_factory):
    """-> the last checkpoint of a run that nobody interrupted, by its additional words."""
    made = {}

    def run(*more: str) -> dict:
        if more not in made:
            home = tmp_path_factory.mktemp("average")
            assert zygote.run(*words(shapes, home), *more, f"run_dir={home / 'run'}") == 0, zygote.screen
            made[more] = checkpoint.load(home / "run" / "checkpoints" / "last.ckpt")
        return made[more]

    return run


HALF = "trainer.accumulate_grad_batches=2"
FREEZE = "finetune=head"


@pytest.mark.parametrize(
    ("at", "n", "kill", "more"),
    [
        *[("step", n, signal.SIGKILL, ()) for n in (3, 8, 13)],
        *[("validation", n, signal.SIGKILL, ()) for n in (1, 3)],
        ("validation", 3, signal.SIGTERM, ()),
        ("save", 4, signal.SIGKILL, ()),
        ("step", 9, signal.SIGKILL, (HALF,)),
        ("step", 9, signal.SIGTERM, (HALF,)),
        ("step", 9, signal.SIGKILL, (FREEZE,)),
        ("validation", 3, signal.SIGKILL, ("callbacks.ema.decay=0.7",)),
    ],
)
def test_a_resumed_run_ends_with_the_same_average(zygote, shapes, runs, tmp_path, at, n, kill, more):
    run, whole = tmp_path / "run", runs(*more)
    start = [*words(shapes, tmp_path), *more, f"run_dir={run}"]
    code = {signal.SIGKILL: -9, signal.SIGTERM: 143}[kill]
    assert zygote.run(*start, fault={"at": at, "n": n, "number": int(kill)}) == code, zygote.screen
    assert zygote.run(f"resume={run}", seed=99) == 0, zygote.screen
    assert 0 < zygote.screen.count("a training step") < 18
    found = checkpoint.load(run / "checkpoints" / "last.ckpt")
    first, second = averaged(whole), averaged(found)
    assert first.keys() == second.keys()
    assert [k for k in first if not torch.equal(first[k], second[k])] == []
    assert found["callbacks"]["EMA"]["updates"] == found["global_step"]


@pytest.mark.parametrize("more", [(), (FREEZE,)])
def test_a_checkpoint_has_the_average_beside_the_weights(runs, more):
    found = runs(*more)
    average = averaged(found)
    live = {k.removeprefix("network."): v for k, v in found["state_dict"].items() if k.startswith("network.")}
    assert list(average) == list(live)
    differ = {k for k in live if not torch.equal(live[k], average[k])}
    assert {"head.weight", "head.bias"} <= differ
    assert (differ == {"head.weight", "head.bias"}) == bool(more)
    once = {v.untyped_storage().data_ptr() for v in [*live.values(), *average.values()]}
    assert len(once) == len(live) + sum(k in differ or ("running_" in k) for k in live)  # the rest is there once


def test_choosing_the_average_moves_nothing_that_the_policy_froze(runs, zygote, shapes, tmp_path):
    assert zygote.run(*words(shapes, tmp_path), FREEZE, "select=ema", f"run_dir={tmp_path / 'run'}") == 0
    average = averaged(runs(FREEZE))
    shipped = load_file(tmp_path / "run" / "model" / "weights.safetensors")
    assert any("running_mean" in key for key in shipped)
    assert [k for k, v in shipped.items() if not torch.equal(v, average[k])] == []


def test_the_callback_of_another_is_not_taken_for_the_average():
    assert averaged({"callbacks": {"EMAWeightAveraging": {"latest_update_step": 3}}}) is None
    assert averaged({"callbacks": {"EMA": EMA().state_dict()}}) is None
    assert averaged({}) is None


class Small(nn.Module):
    """Two norms, one of timm's with dropout within, and dropout between them; uint8 in, as all networks here."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 4, 3), BatchNormAct2d(4, drop_layer=nn.Dropout)
        self.drop, self.second, self.last = nn.Dropout(0.5), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5, momentum=0.3)
        self.unused = nn.BatchNorm1d(2)
        for norm in (self.norm, self.last, self.unused):
            nn.init.uniform_(norm.running_mean)

    def forward(self, image):
        return self.last(self.second(self.drop(self.norm(self.first(image.float() / 255))))).mean((2, 3))


def batches(*sizes: int, value: int | None = None) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(3)
    made = [torch.randint(0, 256, (n, 3, 9, 9), dtype=torch.uint8, generator=draw) for n in sizes]
    return [{"image": x if value is None else torch.full_like(x, value)} for x in made]


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items()}


def test_statistics_are_the_mean_over_the_batches_without_dropout():
    net, seen = Small().train(), batches(6, 4, 6)
    inputs = {"norm": [], "last": []}
    with torch.no_grad():
        for batch in seen:
            x = net.first(batch["image"].float() / 255)
            inputs["norm"].append(x)
            mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
            inputs["last"].append(net.second(((x - mean) / (var + net.norm.eps).sqrt()).relu()))
    reestimate(net, seen)
    for name, found in inputs.items():
        norm = getattr(net, name)
        mean = torch.stack([x.mean((0, 2, 3)) for x in found]).mean(0)
        var = torch.stack([x.var((0, 2, 3)) for x in found]).mean(0)
        torch.testing.assert_close(norm.running_mean, mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(norm.running_var, var, atol=1e-5, rtol=1e-4)


def test_nothing_but_the_statistics_changes():
    net = Small().train()
    net.drop.eval()
    net.last.eval()
    before, modes = state(net), [m.training for m in net.modules()]

    def broken():
        yield from batches(4)
        raise OSError("a disk that is gone")

    with pytest.raises(OSError, match="gone"):
        reestimate(net, broken())
    assert [m.training for m in net.modules()] == modes
    reestimate(net, batches(4, 4))
    assert [m.training for m in net.modules()] == modes
    assert [m.momentum for m in (net.norm, net.last, net.unused)] == [0.1, 0.3, 0.1]
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    after = state(net)
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    tracked = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {f"{norm}.{name}" for norm in ("norm", "last") for name in tracked}  # `unused` has seen nothing


def test_a_frozen_norm_is_left_as_it_is_where_that_is_asked():
    net, before = Small(), state(Small())
    net.norm.requires_grad_(False)
    reestimate(net, batches(4, 4), frozen=False)
    assert torch.equal(net.norm.running_mean, before["norm.running_mean"])
    assert not torch.equal(net.last.running_mean, before["last.running_mean"])
    reestimate(net, batches(4, 4))
    assert not torch.equal(net.norm.running_mean, before["norm.running_mean"])


def test_batches_that_tell_no_variance_ruin_nothing():
    net, twin, before = Small(), Small(), state(Small())
    reestimate(net, batches(1, 1, 1))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    reestimate(net, batches(4, 4, 1))
    reestimate(twin, batches(4, 4))
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in twin.state_dict().items())
    reestimate(net, batches(4, value=77))
    assert all(bool(v.isfinite().all()) for v in net.state_dict().values())
    assert bool(net.eval()(batches(2)[0]["image"]).isfinite().all())


def test_a_network_without_batchnorm_does_not_read_an_image():
    reestimate(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), iter([None]))
