"""Several networks: in which order they are tried, who goes on, and what a budget must hold."""

import json
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from src import contest, folder, halving, networks
from src.callbacks.pause import Pause
from src.contracts import ConfigError
from src.stages.rank import knn, nearest
from src.tasks.multiclass import multiclass
from src.tasks.multilabel import multilabel
from src.tasks.regression import regression
from tests.yamls import node


def test_halving_ends_with_one_whose_fit_is_whole_and_costs_what_it_says():
    for rivals, epochs, expected in ((2, 8, [4]), (3, 8, [2, 4]), (4, 10, [3, 5]), (5, 8, [1, 2, 4]), (2, 1, [1])):
        assert halving.ends(rivals, epochs) == expected
    assert [halving.cost(n) for n in (1, 2, 3, 4, 8)] == pytest.approx([1, 1.5, 1.75, 2, 2.5])
    assert [halving.looks(n) for n in (1, 2, 3, 5)] == [0, 2, 5, 10]


def test_who_goes_on_is_better_by_the_metric_of_the_task_and_the_first_of_those_that_are_level():
    scores = {"a": 0.5, "b": 0.9, "c": 0.5, "d": float("nan")}
    assert contest.better("abcd", scores, "max") == ["a", "b"]
    assert contest.better("abcd", scores, "min") == ["a", "c"]
    assert contest.better("dca", scores, "max") == ["c", "a"], "what diverged goes first"


def test_the_first_of_the_probe_stays_first_and_the_others_go_by_both():
    assert networks.order([(0.7, 0.9), (0.9, 0.1), (0.8, 0.8)]) == [1, 2, 0], "level by both: the probe decides"
    assert networks.order([(0.7, 0.9), (0.9, 0.1), (0.8, 0.05), (0.6, 0.95)]) == [1, 0, 3, 2]
    assert networks.order([(0.7, None), (0.9, None)]) == [1, 0]


def test_all_that_is_wrong_with_candidates_is_told_before_anything_is_computed(tmp_path):
    words = {"model": node("model", "timm", name="a"), "augment": {}, "data": {}}
    words["model"]["candidates"] = {"test_vit": str(tmp_path), "test_resnt": None, "test_byobnet.glyphs": None}
    with pytest.raises(ConfigError) as told:
        networks.contenders(words, ())
    assert "candidates: model.weights" in str(told.value) and "candidates: model.name=test_resnt" in str(told.value)
    assert "test_resnet" in str(told.value) and "glyphs" not in str(told.value)


def view(task):
    return SimpleNamespace(task=task, cfg={"seed": 0})


def test_neighbours_tell_classes_labels_and_numbers_and_nobody_tells_himself_or_his_group():
    torch.manual_seed(0)
    where = torch.arange(60) % 3
    x = torch.eye(3)[where] * 3 + 0.1 * torch.rand(60, 3)
    assert knn(view(multiclass(("a", "b", "c"), "val/acc", "max")), x, where) == 1
    labels = torch.stack([where == 0, where > 0], 1).long()
    assert knn(view(multilabel(("a", "b"), "val/map_macro", "max", separator="|")), x, labels) == pytest.approx(1)
    numbers = torch.stack([where.float() * 7, -where.float()], 1)
    task = regression(("u", "v"), "val/rmse", "min", spread=0.9, targets=numbers.tolist())
    assert knn(view(task), x, numbers) == pytest.approx(1, abs=0.02)
    task, noise = multiclass(("a", "b"), "val/acc", "max"), torch.rand(40, 5)
    twins, target = noise.repeat_interleave(2, 0), torch.randint(2, (40,)).repeat_interleave(2)
    assert knn(view(task), twins, target) > 0.95, "each has a twin"
    assert knn(view(task), twins, target, torch.arange(40).repeat_interleave(2)) < 0.75, "which is held out with it"
    assert nearest(torch.eye(2), torch.zeros(2), 5)[0].isinf().all()


def plan(epochs, seconds, budget="2m"):
    said = {"budget": budget, "stages": ["fit"], "model": {"name": "a"}, "trainer": {"max_epochs": epochs}}
    return OmegaConf.create({**said, "callbacks": {"deadline": {"seconds": seconds}, "last": {}}})


def test_a_budget_that_cannot_hold_the_comparison_is_refused():
    contest.refuse([plan(4, 20.0), plan(9, 20.0), plan(8, 20.0)])
    contest.refuse([plan(1, None, budget=None)] * 2)
    with pytest.raises(ConfigError, match="goes on from"):
        contest.refuse([OmegaConf.create({**plan(4, 20.0), "callbacks": {}})] * 2)
    for short in (plan(3, 20.0), plan(8, 8.0), plan(8, None)):
        with pytest.raises(ConfigError, match=r"model.top=3 budget=2m: .* 3 networks(.|\n)*Set a larger budget"):
            contest.refuse([plan(8, 20.0), short, plan(8, 20.0)])


def test_a_kill_while_the_winner_becomes_the_run_leaves_nothing_undone(tmp_path):
    home = folder.RunFolder(tmp_path)
    own = tmp_path / "contest" / "2-b"
    (own / "checkpoints").mkdir(parents=True)
    (tmp_path / "checkpoints").mkdir()
    for file in (own / "suspects.csv", tmp_path / "checkpoints" / "last.ckpt"):  # the other half is moved already
        file.write_text("x")
    (own / "checkpoints").rmdir()
    (own / "recipe.md").write_text("# Recipe\n\n## Decided\n")
    for place, name in ((tmp_path, "a"), (own, "b")):
        said = {"run_dir": str(place), "model": {"name": name}, "logger": {"csv": {"file": f"{place}/metrics.csv"}}}
        OmegaConf.save(said, place / "config.yaml")
    row = {"weights": None, "score": 0.5, "knn": None, "parameters": 1.0, "macs": 2.0, "seconds": 3.0}
    said = {"rivals": ["1-a", "2-b"], "scores": {"1-a": [0.1], "2-b": [0.2]}, "monitor": "val/acc", "winner": "2-b"}
    (tmp_path / "run.json").write_text(json.dumps({"networks": [{**row, "name": n} for n in "ab"], "contest": said}))
    contest.crown(home)
    assert not (tmp_path / "contest").exists() and (tmp_path / "suspects.csv").read_text() == "x"
    assert OmegaConf.load(tmp_path / "config.yaml").model.name == "b"
    assert OmegaConf.load(tmp_path / "config.yaml").logger.csv.file == f"{tmp_path}/metrics.csv"
    assert "| b | 50.0 % | – | 1.00 | 2 | 3.0 | 0.2000 | kept |" in (tmp_path / "recipe.md").read_text()


@pytest.mark.parametrize("place, left", [(9, 10), (10, 8)])
def test_a_round_ends_where_the_schedule_is_even_if_a_deadline_has_hurried_it(place, left):
    trainer = SimpleNamespace(fit_loop=SimpleNamespace(max_epochs=20), current_epoch=7)
    Pause(10).on_train_start(trainer, SimpleNamespace(epoch=lambda: 3))
    assert trainer.fit_loop.max_epochs == 10
    Pause(10).on_train_epoch_end(trainer, SimpleNamespace(epoch=lambda: place))
    assert trainer.fit_loop.max_epochs == left
