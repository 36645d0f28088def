"""Several rates: a fit that paused is the fit that did not, the average of two is theirs, and all of it resumes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from src import checkpoint
from tests.conftest import words

SWEEP = ("sweep=[1,0.5,4]", "trainer.max_epochs=3")


@pytest.fixture(scope="module")
def swept(zygote, shapes, tmp_path_factory):
    run = tmp_path_factory.mktemp("sweep") / "run"
    more = (*SWEEP, "recipe=best", "start=random", "refit=all", "select=soup", f"run_dir={run}")
    assert zygote.run(*words(shapes, run.parent), *more) == 0, zygote.screen
    return run


def weights(file) -> dict[str, torch.Tensor]:
    return {k: v for k, v in checkpoint.load(file)["state_dict"].items() if k.startswith("network.")}


def rival(run) -> float:
    return json.loads((run / "run.json").read_text())["rival"]


def test_a_fit_that_paused_after_an_epoch_ends_as_one_that_did_not(zygote, shapes, tmp_path):
    paused, plain = tmp_path / "paused", words(shapes, tmp_path)
    assert zygote.run(*plain, *SWEEP, "optimizer.lr=0.001", f"run_dir={paused}") == 0, zygote.screen
    places = {1: paused / "checkpoints", rival(paused): paused / "checkpoints" / f"rate-{rival(paused):g}"}
    for rate, place in places.items():
        once = tmp_path / f"{rate:g}"
        more = ("trainer.max_epochs=3", f"optimizer.lr={0.001 * rate}", f"run_dir={once}")
        assert zygote.run(*plain, *more) == 0, zygote.screen
        first, second = weights(once / "checkpoints" / "last.ckpt"), weights(place / "last.ckpt")
        assert first.keys() == second.keys()
        assert [k for k in first if not torch.equal(first[k], second[k])] == []


def test_only_the_better_of_the_other_rates_goes_on(swept):
    state = json.loads((swept / "run.json").read_text())
    loser = ({"0.5", "4"} - {f"{state['rival']:g}"}).pop()
    assert state["sweep"][f"{state['rival']:g}"] >= state["sweep"][loser]
    done = {
        rate: checkpoint.load(swept / "checkpoints" / f"rate-{rate}" / "last.ckpt")["epoch"] for rate in ("0.5", "4")
    }
    assert done[f"{state['rival']:g}"] == 2 and done[loser] == 0


def test_a_soup_is_the_mean_of_both_averages_also_when_it_is_fitted_again(swept):
    files = [swept / "checkpoints" / "refit" / name / "last.ckpt" for name in ("", f"rate-{rival(swept):g}")]
    one, other = (checkpoint.averaged(checkpoint.load(file)) for file in files)
    shipped = load_file(swept / "model" / "weights.safetensors")
    learnt = [k for k in shipped if "running_" not in k and "num_batches" not in k]
    assert [k for k in learnt if not torch.allclose(shipped[k], (one[k] + other[k]) / 2, atol=1e-6)] == []
    assert not torch.equal(one["head.weight"], other["head.weight"])
    assert json.loads((swept / "model" / "model.json").read_text())["chosen"]["refit"] is True


@pytest.mark.slow
@pytest.mark.parametrize(("at", "n"), [("step", 3), ("step", 8), ("step", 21), ("step", 33), ("validation", 0)])
def test_killed_in_any_of_the_fits_it_ends_on_the_same_bit(swept, zygote, shapes, tmp_path, at, n):
    run = tmp_path / "run"
    more = (*SWEEP, "recipe=best", "start=random", "refit=all", "select=soup", f"run_dir={run}")
    assert zygote.run(*words(shapes, swept.parent), *more, fault={"at": at, "n": n, "number": 9}) == -9
    assert zygote.run(f"resume={run}", seed=1) == 0, zygote.screen
    for name in ("model/weights.safetensors", "metrics.json", "predictions.csv"):
        assert (run / name).read_bytes() == (swept / name).read_bytes(), name


@pytest.mark.parametrize(("n", "rival"), [(3, True), (8, True), (21, True), (33, False)])
def test_a_rate_that_diverges_leaves_the_others_alone(zygote, shapes, tmp_path, n, rival):
    """In the first sweep, in the second one, in the fit itself, in the rival's."""
    run, more = tmp_path / "run", (*SWEEP, "recipe=best", "start=random", "refit=none")
    ended = zygote.run(
        *words(shapes, tmp_path), *more, f"run_dir={run}", fault={"at": "step", "n": n, "raises": "NonFinite"}
    )
    if n == 21:
        assert ended == 1
        return
    assert ended == 0, zygote.screen
    assert "x the rate goes no further" in zygote.screen
    state = json.loads((run / "run.json").read_text())
    assert bool(state["rival"]) == rival and any(name.startswith("soup") for name in state["candidates"]) == rival
    if n < 20:
        assert f"{state['rival']:g}" == ("4" if n == 3 else "0.5")
