"""recipe=auto from the door to the report: what it decides is told, obeyed, overruled, resumed, and shipped."""

import csv
import itertools
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src import resume
from src.build import build
from src.contracts import ConfigError
from src.folder import RunFolder
from src.predictor import Predictor
from src.stages import candidates as candidates_of
from src.stages import embed as embed_of
from src.stages import probe
from src.stages.calibrate import known
from src.stages.candidates import candidates, restored, seen
from src.stages.embed import embed, shaken
from tests.conftest import ROOT
from tests.test_combined import built


def words(shapes, folder, *more: str) -> list[str]:
    """18 updates on `shapes`, from the weights that ship; what is left open is decided."""
    return [
        "data=folder", f"data.root={shapes}", "model.name=test_byobnet.glyphs", "trainer.accelerator=cpu",
        "data.batch_size=8", "trainer.max_epochs=3", f"paths.logs={folder / 'logs'}", f"paths.cache={folder / 'cache'}",
        "callbacks.last.every_n_train_steps=2", "logger=[csv]", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def auto(zygote, shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("auto")
    assert zygote.run(*words(shapes, folder), f"run_dir={folder / 'run'}") == 0, zygote.screen
    (folder / "screen.txt").write_text(zygote.screen)
    return folder


def found(run, name):
    text = (run / name).read_text()
    return json.loads(text) if name.endswith("json") else yaml.safe_load(text)


def test_what_was_decided_is_told_with_its_reason_and_obeyed(auto):
    recipe, config, screen = (
        (auto / "run" / "recipe.md").read_text(),
        found(auto / "run", "config.yaml"),
        (auto / "screen.txt").read_text(),
    )
    for words in ("start=probe", "finetune=llrd", "model.batchnorm=frozen", "select=auto", "data.flip=0"):
        assert f"| `{words}` |" in recipe
        assert words in screen
    assert config["start"] == "probe" and config["model"]["batchnorm"] == "frozen" and config["data"]["flip"] == 0
    assert config["finetune"]["_target_"].endswith("LLRD")
    assert "| `data.batch_size=8` | yours |" in recipe
    assert "`data.batch_size=8` | the" not in recipe


def test_of_few_images_the_backbone_as_it_was_stays_beside_the_one_that_learns(auto):
    shipped = load_file(auto / "run" / "model" / "weights.safetensors")
    start = load_file(ROOT / "src" / "models" / "test_byobnet.glyphs.safetensors")
    assert found(auto / "run", "run.json")["chosen"] == "ema+frozen"
    start = {k.removeprefix("backbone."): v for k, v in start.items() if k.startswith("backbone.")}
    assert len(start) > 50 and all(torch.equal(v, shipped[f"frozen.{k}"]) for k, v in start.items())
    assert not torch.equal(shipped["backbone.stem.conv.weight"], shipped["frozen.stem.conv.weight"])
    tuned, kept = shipped["head.weight"].tensor_split(2, 1)
    assert tuned.any() and kept.any()


def test_a_probe_that_is_shipped_reads_the_features_that_are_there(auto, zygote, shapes, tmp_path, monkeypatch):
    more = ("recipe=probe", "stages=[select]", "refit=none")  # nothing has been solved again yet
    assert zygote.run(*words(shapes, auto, *more, f"run_dir={tmp_path / 'run'}")) == 0, zygote.screen
    home = RunFolder(tmp_path / "run")
    r = build(home.words(), home)
    (alone,) = candidates(r, ["probe"])
    monkeypatch.setattr(embed_of, "look", lambda *_: pytest.fail("the images were passed once more"))
    weight, _ = alone.final(torch.arange(len(alone.target)))
    assert weight.shape == alone.head[0].shape and not torch.equal(weight, alone.head[0])  # val is learnt


def test_where_a_probe_had_little_time_no_more_images_are_looked_at_afterwards(auto, tmp_path):
    home = RunFolder(shutil.copytree(auto / "run", tmp_path / "run"))
    r = build(home.words(), home)
    solved = probe.read(home)
    assert solved.images == len(r.source.splits["train"]) == len(known(r, r.load()).target)
    probe.write(r, replace(solved, images=12))
    assert len(known(r, r.load()).target) == 12


def test_both_backbones_count_the_same(auto, tmp_path):
    home = RunFolder(shutil.copytree(auto / "run", tmp_path / "run"))
    r = build(home.words(), home)
    (both,) = candidates(r, ["ema+frozen"])
    network = restored(r, "ema")
    network.keep(r.network().backbone)
    x = seen(r, network, "val").x
    parts = zip(x.tensor_split(2, 1), both.head[0].tensor_split(2, 1), strict=True)
    tuned, frozen = (float((x @ weight.T).std(0).square().mean().sqrt()) for x, weight in parts)
    assert 0.75 < tuned / frozen < 1.33


@pytest.mark.parametrize("most", [None, 48])  # images for one backbone: for two of them half as many
def test_other_heads_are_solved_as_if_no_second_backbone_had_been_looked_at(auto, tmp_path, monkeypatch, most):
    home = RunFolder(shutil.copytree(auto / "run", tmp_path / "run"))
    r = build(home.words(), home)
    if most:
        monkeypatch.setattr(probe, "NUMBERS", most * r.network().width())
    both, alone = candidates(r, ["ema+frozen", "ema+closing"]), candidates(r, ["ema+closing"])
    assert [one.name for one in both] == ["ema+frozen", "ema+closing"]
    for mine, its in zip(both[1].head, alone[0].head, strict=True):
        torch.testing.assert_close(mine, its)
    torch.testing.assert_close(both[1].logits, alone[0].logits)


def test_mirroring_is_forbidden_where_left_and_right_are_the_classes(auto):
    recipe = (auto / "run" / "recipe.md").read_text()
    assert "mirroring changes what is seen" in recipe
    assert "+mirror" not in recipe
    assert "which way up images are is their class; none is turned" in recipe  # upside down, left is right as well


def test_all_candidates_are_told_and_the_chosen_one_is_in_the_model(auto):
    state, model = found(auto / "run", "run.json"), found(auto / "run", "model/model.json")
    assert list(state["candidates"])[:2] == ["ema+frozen", "ema+closing"]
    assert {"ema+blend", "ema", "last", "probe"} <= set(state["candidates"])
    assert state["chosen"] in state["candidates"] and model["chosen"]["candidate"] == state["chosen"]
    val = found(auto / "run", "metrics.json")["val/acc"]
    assert val == pytest.approx(state["candidates"][state["chosen"]])
    recipe = (auto / "run" / "recipe.md").read_text()
    assert recipe.count("| chosen |") == 1 and f"| {state['chosen']} |" in recipe


def test_wide_images_in_colour_are_asked_how_to_be_squared_and_whether_colour_is_their_class(auto, zygote, tmp_path):
    weights, draw = tmp_path / "net.safetensors", np.random.default_rng(0)
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    for i in range(40):
        pixels = draw.integers(0, 120, (20, 40, 3), dtype=np.uint8)
        pixels[..., i % 2] += (110, 56)[i % 2]  # as bright as each other
        file = tmp_path / "images" / ("train" if i < 32 else "test") / ("red", "green")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    more = ("model.name=test_resnet", f"model.weights={weights}", "model.image_size=32", "stages=[probe]")
    assert zygote.run(*words(tmp_path / "images", auto, *more, f"run_dir={tmp_path / 'run'}")) == 0, zygote.screen
    recipe = (tmp_path / "run" / "recipe.md").read_text()
    assert re.search(r"squash [\d.]+, crop [\d.]+, pad [\d.]+", recipe), recipe
    assert "no colour changes: without colours the probe has -" in recipe


def test_stripes_that_differ_in_their_width_are_not_bent(auto, zygote, tmp_path):
    draw = np.random.default_rng(0)
    for i in range(80):
        wide, start = 4 + i % 4, draw.uniform(0, 8)
        stripes = 100 * np.sin(2 * np.pi * (np.arange(32) + start) / wide) + 128 + draw.normal(0, 10, (32, 32))
        file = tmp_path / "images" / ("train" if i < 64 else "test") / str(wide) / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stripes.clip(0, 255).astype(np.uint8)).save(file)
    run = tmp_path / "run"
    assert zygote.run(*words(tmp_path / "images", auto, "stages=[probe]", f"run_dir={run}")) == 0, zygote.screen
    told = (run / "recipe.md").read_text()
    assert (
        "too little is left; none is turned or sheared" in told
        and "| `augment.scale=null` | nor is any cropped |" in told
    )


def test_the_view_of_an_image_does_not_go_by_what_else_is_in_its_batch():
    images = torch.randint(0, 256, (4, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    change = shaken((0.4, 1.0), 0)
    assert torch.equal(change(images)[2:], change(images[2:])) and not torch.equal(change(images), images)


def test_a_later_run_reads_the_features_that_an_earlier_one_kept(auto, zygote, shapes):
    kept = {p: p.stat().st_mtime_ns for p in (auto / "cache" / "features").iterdir()}
    assert len(kept) >= 2 and not [p for p in kept if p.suffix == ".tmp"]
    assert zygote.run(*words(shapes, auto, "stages=[probe]", f"run_dir={auto / 'plan'}")) == 0, zygote.screen
    assert {p: p.stat().st_mtime_ns for p in (auto / "cache" / "features").iterdir()} == kept
    assert "start=probe" in zygote.screen
    assert not (auto / "plan" / "checkpoints").exists() and found(auto / "plan", "run.json")["state"] == "finished"


def test_once_chosen_the_images_of_val_are_learnt_too(auto):
    """shapes has few images a class: the recipe asks for a second fit, on train and val together."""
    run, shown = auto / "run", (auto / "screen.txt").read_text()
    metrics, config = found(run, "metrics.json"), found(run, "config.yaml")
    images = found(run, "run.json")["images"]
    assert config["refit"] == "all" and "worth a second fit" in shown
    size = config["data"]["batch_size"]
    assert metrics["fit/updates"] == 3 * -(-images["train"] // size)
    assert metrics["refit/updates"] == 3 * -(-(images["train"] + images["val"]) // size)
    assert found(run, "model/model.json")["chosen"]["refit"] is True
    assert (run / "checkpoints" / "refit" / "last.ckpt").is_file()


@pytest.mark.parametrize("candidate", ["ema+closing", "probe"])
def test_a_solved_head_learns_val_unless_it_is_told_not_to(auto, zygote, shapes, tmp_path, candidate):
    shipped = {}
    for refit in ("none", "head"):
        run = tmp_path / refit
        more = (f"run_dir={run}", f"select={candidate}", "trainer.max_epochs=1", f"refit={refit}")
        assert zygote.run(*words(shapes, auto, *more)) == 0, zygote.screen
        shipped[refit] = load_file(run / "model" / "weights.safetensors")
        assert "refit/updates" not in found(run, "metrics.json")
    differ = {k for k in shipped["none"] if not torch.equal(shipped["none"][k], shipped["head"][k])}
    assert differ == {"head.weight", "head.bias"}
    assert found(tmp_path / "none", "metrics.json")["val/acc"] == found(tmp_path / "head", "metrics.json")["val/acc"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", [{"at": "step", "n": 7}, {"at": "save", "n": 3}, {"at": "predict", "n": 3}])
def test_killed_anywhere_it_ends_on_the_same_bit(auto, zygote, shapes, tmp_path, fault):
    run = tmp_path / "run"
    assert zygote.run(*words(shapes, auto, f"run_dir={run}"), fault={**fault, "number": 9}) == -9
    again = words(shapes, auto, f"run_dir={run}") if fault["at"] == "save" else [f"resume={run}"]
    assert zygote.run(*again, seed=1) == 0, zygote.screen  # the same command once more is a resume, too
    for name in ("model/weights.safetensors", "metrics.json", "predictions.csv"):
        assert (run / name).read_bytes() == (auto / "run" / name).read_bytes(), name
    told = [(folder / "recipe.md").read_text().partition("## Candidates")[2] for folder in (run, auto / "run")]
    assert told[0] == told[1] != ""


@pytest.mark.parametrize("candidate", ["ema+frozen+mirror", "ema+closing", "probe", "last+blend", "ema"])
def test_a_named_candidate_is_shipped_and_predicts_as_it_was_tested(auto, zygote, shapes, tmp_path, candidate):
    from src.predict import predict

    run = tmp_path / "run"
    assert zygote.run(*words(shapes, auto, f"run_dir={run}", f"select={candidate}", "trainer.max_epochs=1")) == 0, (
        zygote.screen
    )
    assert found(run, "run.json")["chosen"] == candidate
    assert predict(str(run), str(shapes / "test"), str(tmp_path / "again.csv")) == 0
    rows = [list(csv.DictReader(f.read_text().splitlines())) for f in (run / "predictions.csv", tmp_path / "again.csv")]
    again = {row["path"].split("/test/")[-1]: row for row in rows[1]}
    for row in rows[0]:
        assert float(row["prob/left"]) == pytest.approx(
            float(again[row["path"].removeprefix("test/")]["prob/left"]), abs=1e-5
        )


def test_a_probe_alone_is_a_model(auto, zygote, shapes, tmp_path):
    run = tmp_path / "run"
    assert zygote.run(*words(shapes, auto, f"run_dir={run}", "recipe=probe")) == 0, zygote.screen
    metrics = found(run, "metrics.json")
    assert not (run / "checkpoints").exists() and "fit/updates" not in metrics
    assert metrics["test/acc"] > 0.9
    assert found(run, "run.json")["chosen"] == "probe"
    assert "none trained" in zygote.screen and "mirror" not in zygote.screen and "updates in" not in zygote.screen
    assert zygote.run(f"resume={run}", "stages=[probe,fit,select,test]") == 2
    assert "so recipe has decided nothing" in zygote.screen and "Start a new run" in zygote.screen


@pytest.mark.parametrize("more", [{"resize": "crop"}, {"monitor": "val/balanced_acc"}])
def test_the_head_of_the_probe_is_solved_anew_for_what_was_decided_since(auto, tmp_path, more, monkeypatch):
    shutil.copytree(auto / "run", tmp_path / "run")
    home = RunFolder(tmp_path / "run")
    cfg, solved = home.words(), []
    again = candidates_of.__dict__["_probe_again"]
    monkeypatch.setattr(candidates_of, "_probe_again", lambda *words: solved.append(words[-1]) or again(*words))
    for changed in ({}, more):
        cfg["data"]["resize"] = changed.get("resize", cfg["data"]["resize"])
        cfg["task"]["monitor"] = changed.get("monitor", cfg["task"]["monitor"])
        run = build(cfg, home)
        (head,) = [one.head for one in candidates(run, ["probe"])]
        same = torch.equal(head[0], probe.read(home).best[0]) and torch.equal(head[1], probe.read(home).best[1])
        assert (len(solved), same) == ((1, False) if changed else (0, True))


@pytest.mark.parametrize("made", ["model", "checkpoints"])
def test_what_was_made_outlives_a_fault_behind_it_and_what_was_not_leaves_no_folder(tmp_path, made):
    home = RunFolder(tmp_path / "logs" / "run", made=(tmp_path / "logs" / "run", tmp_path / "logs"))
    (home.path / made).mkdir(parents=True)
    resume.discard(home)
    assert (home.path / made).is_dir()
    (home.path / made).rmdir()
    resume.discard(home)
    assert not (tmp_path / "logs").exists()


def test_a_recipe_without_a_probe_asks_the_network_nothing(auto, zygote, shapes, tmp_path):
    run = tmp_path / "run"
    none = (f"run_dir={run}0", "recipe=fast", "stages=[select,test]")
    assert zygote.run(*words(shapes, auto, *none)) == 2 and "Add fit to the stages" in zygote.screen, zygote.screen
    assert zygote.run(*words(shapes, auto, f"run_dir={run}", "recipe=fast", "trainer.max_epochs=1")) == 0, zygote.screen
    assert not (run / "probe.safetensors").exists()
    assert "probe" not in found(run, "run.json")["candidates"]
    assert found(run, "config.yaml")["start"] == "random"


def test_weights_that_know_nothing_are_neither_probed_nor_frozen(auto, zygote, shapes, tmp_path):
    run = tmp_path / "run"
    more = ("model.pretrained=false", "model.in_chans=1", "model.image_size=32", "trainer.max_epochs=1")
    assert zygote.run(*words(shapes, auto, f"run_dir={run}", *more)) == 0, zygote.screen
    config = found(run, "config.yaml")
    assert config["model"]["batchnorm"] == "train" and config["start"] == "random"


def test_a_budget_becomes_a_deadline_of_the_fit(auto, zygote, shapes, tmp_path):
    run = tmp_path / "run"
    assert zygote.run(*words(shapes, auto, f"run_dir={run}", "stages=[probe]", "budget=10m")) == 0, zygote.screen
    assert 150 < found(run, "config.yaml")["callbacks"]["deadline"]["seconds"] < 300  # the other half is for refit
    once = words(shapes, auto, f"run_dir={tmp_path / 'once'}", "stages=[probe]", "budget=10m", "refit=none")
    assert zygote.run(*once) == 0, zygote.screen
    assert 300 < found(tmp_path / "once", "config.yaml")["callbacks"]["deadline"]["seconds"] < 600
    assert zygote.run(*words(shapes, auto, f"run_dir={tmp_path / 'short'}", "budget=2s")) == 0, zygote.screen
    assert found(tmp_path / "short", "run.json")["chosen"] == "probe"
    assert "the budget leaves less than" in zygote.screen
    images = found(auto / "run", "run.json")["images"]["train"]
    one_batch = words(shapes, auto, f"run_dir={tmp_path / 'one'}", "budget=1s", f"data.batch_size={images}")
    assert zygote.run(*one_batch) == 0, zygote.screen
    assert zygote.run(*words(shapes, auto, "recipe=off", "budget=2s")) == 2


@pytest.mark.parametrize("layout", ["folder", "csv"])
def test_a_test_set_without_labels_is_predicted(auto, zygote, shapes, tmp_path, layout):
    root, run = tmp_path / "images", tmp_path / "run"
    shutil.copytree(shapes, root)
    for file in sorted((root / "test").glob("*/*")):
        file.rename(root / "test" / f"{file.parent.name}_{file.name}")
    for empty in (p for p in (root / "test").iterdir() if p.is_dir()):
        empty.rmdir()
    more = [f"data.root={root}", f"run_dir={run}", "trainer.max_epochs=1", "logger=[csv,tensorboard]"]
    if layout == "csv":
        lines = [
            f"{p.relative_to(root)},{p.parent.name if p.parent.name != 'test' else ''},{p.relative_to(root).parts[0]}"
            for p in sorted(root.rglob("*.*"))
        ]
        (root / "labels.csv").write_text("\n".join(["path,target,split", *lines]))
        more += ["data=csv", "data.table=labels.csv"]
    assert zygote.run(*words(shapes, auto, *more)) == 0, zygote.screen
    rows = list(csv.DictReader((run / "predictions.csv").read_text().splitlines()))
    assert len(rows) == len(list((root / "test").iterdir()))
    assert all(row["target"] == "" and row["prediction"] == row["path"].split("/")[1].split("_")[0] for row in rows)
    assert not any(key.startswith("test/") for key in found(run, "metrics.json"))
    assert "has no labels" in zygote.screen and "val/acc" in zygote.screen
    told = EventAccumulator(str(run / "tensorboard")).Reload().Tensors("recipe/text_summary")[0].tensor_proto
    assert told.string_val[0].decode() == (run / "recipe.md").read_text() and b"## Candidates" in told.string_val[0]


def test_of_several_networks_the_one_that_knows_most_is_fitted(auto, zygote, shapes, tmp_path):
    blank, run = tmp_path / "blank weights.safetensors", tmp_path / "run"
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    save_file({key: torch.zeros_like(value) for key, value in state.items()}, blank)
    candidates = f"model.candidates={{test_resnet: '{blank}', test_byobnet.glyphs: null}}"
    plain = [w for w in words(shapes, auto, f"run_dir={run}", "trainer.max_epochs=1") if "model.name" not in w]
    assert zygote.run(*plain, candidates, "model.image_size=32") == 0, zygote.screen
    config, model = found(run, "config.yaml"), found(run, "model/model.json")
    assert config["model"]["name"] == model["build"]["name"] == "test_byobnet.glyphs"
    assert "network 1 of 2: " in zygote.screen
    table = r"test_byobnet.glyphs( +[\d.]+ %){2} +0.20 +\d+ +[\d.]+\n +test_resnet( +[\d.]+ %){2} +0.\d\d +\d+ "
    assert re.search(table, zygote.screen)
    assert zygote.run(f"resume={run}") == 0, zygote.screen
    assert zygote.run(f"resume={run}", "select=last") == 2 and "has chosen already (" in zygote.screen
    late = ("model.top=2", "data.batch_size=8", "mix=mixup", "mix.off_epochs=1", f"run_dir={run}2")
    assert zygote.run(*plain, candidates, "model.image_size=32", *late) == 2, zygote.screen
    assert "mix.off_epochs=1" in zygote.screen and "a training step" not in zygote.screen
    assert zygote.run(*plain, candidates, "recipe=off") == 2
    assert "it is the probe that ranks them" in zygote.screen.lower()


def test_of_networks_fitted_side_by_side_the_winner_is_as_if_alone_and_a_kill_repeats_nothing(
    auto, zygote, shapes, tmp_path
):
    run, alone = tmp_path / "run", auto / "run"
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), tmp_path / "other.safetensors")
    names = f"model.candidates={{test_byobnet.glyphs: null, test_resnet: '{tmp_path / 'other.safetensors'}'}}"
    more = (f"run_dir={run}", names, "model.top=2", "model.image_size=32", "stages=[probe,fit]")
    asked = [word for word in words(shapes, tmp_path, *more) if "model.name" not in word]
    assert zygote.run(*asked, fault={"at": "step", "n": 15, "number": 9}) == -9, zygote.screen
    assert "what was asked of the first network holds for this one: mirror, turn, bend, grey" in zygote.screen
    first = found(run, "run.json")["contest"]
    assert list(first["scores"]) == ["1-test_byobnet.glyphs"] and "winner" not in first
    for word, told in {"trainer.max_epochs=5": "side by side", "stages=[select]": "Add fit"}.items():
        assert zygote.run(f"resume={run}", word) == 2 and told in zygote.screen, zygote.screen
    assert zygote.run(f"resume={run}", fault={"at": "predict", "n": 0, "number": 9}) == -9, zygote.screen
    assert zygote.screen.count("a training step") == 10, "what the second had not saved"
    assert zygote.run(f"resume={run}", "select=last") == 0, zygote.screen
    assert "if it were shipped now, as " in zygote.screen and "as last" not in zygote.screen, (
        "as the first was measured"
    )
    assert zygote.screen.count("a training step") == 6, "the winner's last epoch: the second is only measured"
    state = found(run, "run.json")
    assert state["contest"]["winner"] == "1-test_byobnet.glyphs" and not (run / "contest").exists()
    assert len([line for line in (run / "metrics.csv").read_text().splitlines() if line.startswith("2,")]) > 0
    for file in ("last.ckpt", "best.ckpt"):
        mine, theirs = (torch.load(place / "checkpoints" / file, weights_only=True) for place in (run, alone))
        assert mine["epoch"] == theirs["epoch"]
        assert all(torch.equal(mine["state_dict"][key], value) for key, value in theirs["state_dict"].items())
    text = (run / "recipe.md").read_text()
    assert re.search(
        r"\| test_byobnet.glyphs \|.*\| [01]\.\d{4} \| kept \|\n\| test_resnet \|.*\| [01]\.\d{4} \|  \|", text
    )
    assert text.count("## Networks") == 1


def test_without_a_val_the_first_candidate_is_taken(auto, zygote, shapes, tmp_path):
    run = tmp_path / "run"
    more = ("trainer.limit_val_batches=0", "trainer.max_epochs=1")
    assert zygote.run(*words(shapes, auto, f"run_dir={run}", *more)) == 0, zygote.screen
    assert found(run, "run.json")["chosen"] == "ema+frozen"
    assert found(run, "metrics.json")["test/acc"] > 0.9


def test_what_needs_a_probe_is_refused_where_there_is_none(auto, zygote, shapes):
    for more in (("select=probe",), ("start=probe",), ("data.suspects=drop",)):
        assert zygote.run(*words(shapes, auto, "recipe=off", *more)) == 2
        assert "has no probe" in zygote.screen or "this run has none" in zygote.screen


def quarters(root, wrong: int):
    """4 classes, each bright in another quarter; of the 24 training images of each, the last `wrong` lie in the folders
    of the other classes, and of the 12 of val the last half as many."""
    draw = np.random.default_rng(0)
    for split, n in (("train", 24), ("val", 12), ("test", 6)):
        for c, i in itertools.product(range(4), range(n)):
            pixels = draw.integers(0, 120, (20, 20, 3), dtype=np.uint8)
            pixels[10 * (c // 2) :, 10 * (c % 2) :][:10, :10] += 100
            told = "abcd"[(c + 1 + i % 3) % 4 if i >= n - {"train": wrong, "val": wrong // 2, "test": 0}[split] else c]
            (root / split / told).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / split / told / f"{c}{i:02d}.png")
    return root


def test_labels_that_are_surely_wrong_are_not_learnt(auto, zygote, tmp_path):
    root, run = quarters(tmp_path / "images", 6), tmp_path / "run"
    fitted = ("trainer.max_epochs=2", "select=ema+closing")
    assert zygote.run(*words(root, auto, f"run_dir={run}", *fitted)) == 0, zygote.screen
    rows = list(csv.DictReader((run / "suspects.csv").read_text().splitlines()))
    left = {row["path"] for row in rows if row["left out"] == "yes"}
    right = {path for path in left if "abcd".index(path.split("/")[1]) == int(path.split("/")[2][0])}
    assert len(left) > 18 and len(right) < 3
    assert found(run, "config.yaml")["data"]["suspects"] == "drop"
    assert "are not learnt |" in (run / "recipe.md").read_text()
    assert found(run, "run.json")["images"]["train"] == 96 - len(left)
    card = (run / "recipe.md").read_text().partition("## The images")[2].partition("## Decided")[0].split("\n- ")[1:]
    assert len(card) == 3 and all(f"         {line.strip()}\n" in zygote.screen for line in card), "two cards"
    assert not [path for path in left if path in (run / "split.csv").read_text()]
    assert found(run, "metrics.json")["test/acc"] > 0.9
    for said in ("not learnt", "of the training labels are wrong", "of the labels of val are wrong: its metrics are"):
        assert said in (run / "report" / "index.html").read_text(), said
    gone = int(re.findall(r"select: (\d+) of the 48 images of val are not learnt", zygote.screen)[0])
    doubted = list(csv.DictReader((run / "suspects_val.csv").read_text().splitlines()))
    wrong = [row for row in doubted if "abcd".index(row["label"]) != int(row["path"].split("/")[2][0])]
    assert len(doubted) == gone and len(wrong) >= gone - 2
    updates = 2 * -(-(96 - len(left) + 48 - gone) // 8)
    assert 9 <= gone <= 14 and found(run, "metrics.json")["refit/updates"] == updates, "12 labels of val are wrong"
    kept = tmp_path / "kept"
    assert zygote.run(*words(root, auto, f"run_dir={kept}", "recipe=probe", "data.suspects=keep")) == 0, zygote.screen
    assert found(kept, "run.json")["images"]["train"] == 96 and "of val are wrong" not in zygote.screen
    for file in sorted((root / "train" / "d").iterdir())[2:]:  # a class is rare now, and the others contradict it
        file.unlink()
    assert zygote.run(*words(root, auto, f"run_dir={kept}2", "data.suspects=drop")) == 2
    assert "counts rare classes" in zygote.screen and "held out" not in zygote.screen


def test_networks_fitted_side_by_side_leave_out_what_each_of_them_doubts_and_end_in_a_tested_one(
    auto, zygote, tmp_path
):
    root, run, blank = quarters(tmp_path / "images", 6), tmp_path / "run", tmp_path / "blank.safetensors"
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    save_file({key: torch.zeros_like(value) for key, value in state.items()}, blank)  # which can doubt nothing
    names = f"model.candidates={{test_byobnet.glyphs: null, test_resnet: '{blank}'}}"
    more = (f"run_dir={run}", names, "model.top=2", "model.image_size=32", "trainer.max_epochs=2")
    asked = [word for word in words(root, auto, *more) if "model.name" not in word]
    assert zygote.run(*asked, "stages=[probe]", "budget=8s") == 2, zygote.screen
    assert "leave too little to fit 2 networks" in zygote.screen
    late = ("stages=[probe,fit,select,test]", "callbacks.deadline.seconds=0.001")
    fault = {"at": "step", "n": 1, "raises": "NonFinite"}  # of the second network: each has one step
    assert zygote.run(*asked, *late, fault=fault) == 0, zygote.screen
    assert "test_resnet goes no further, the others do" in zygote.screen
    assert found(run, "metrics.json")["test/acc"] > 0.9, "the time was over before the first comparison"
    assert "data.suspects=drop" in zygote.screen and "data.suspects=keep" in zygote.screen
    assert found(run, "config.yaml")["model"]["name"] == "test_byobnet.glyphs"
    left = [row for row in csv.DictReader((run / "suspects.csv").read_text().splitlines()) if row["left out"] == "yes"]
    assert left and found(run, "run.json")["images"]["train"] == 96 - len(left)
    assert f"| {(96 - len(left)) / 4:.3g} images a class" in (run / "recipe.md").read_text(), "of those that are learnt"


def test_a_contest_that_nobody_survives_ends_with_what_to_do(auto, zygote, tmp_path):
    root, weights = quarters(tmp_path / "images", 0), tmp_path / "random.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    names = f"model.candidates={{test_byobnet.glyphs: null, test_resnet: '{weights}'}}"
    more = (f"run_dir={tmp_path / 'run'}", names, "model.top=2", "model.image_size=32", "optimizer.lr=1e30")
    asked = [word for word in words(root, auto, *more) if "model.name" not in word]
    assert zygote.run(*asked, "trainer.gradient_clip_val=0", "stages=[probe,fit,select,test]") == 1, zygote.screen
    assert "None of the networks could be fitted (" in zygote.screen and zygote.screen.count("goes no further") == 2


def test_what_cannot_be_trained_is_refused_before_the_probe_takes_its_time(zygote, shapes, tmp_path):
    assert zygote.run(*words(shapes, tmp_path, "loss=elr", "mix=mixup")) == 2
    assert "takes one class an image" in zygote.screen and "held out" not in zygote.screen
    open_end = [
        w for w in words(shapes, tmp_path, "mix=mixup", "mix.off_epochs=11", "budget=1s") if "epochs=3" not in w
    ]
    assert zygote.run(*open_end, "stages=[probe]") == 0, "how long it will be is not known before: " + zygote.screen


def test_features_that_overflow_are_told_with_their_network_and_not_kept(shapes, tmp_path):
    r = built([], tmp_path, shapes)
    network = r.network()
    with torch.no_grad():
        next(iter(network.backbone.parameters())).fill_(1e38)
    with pytest.raises(ConfigError, match=r"name=test_resnet: what it sees of 48 of 48 images of train is not finite"):
        embed(r, network, "cpu", "train")
    assert not list((tmp_path / "cache" / "features").glob("*"))


def test_how_many_images_a_budget_allows_is_not_asked_of_the_cache(shapes, tmp_path, monkeypatch):
    r, passes = built([], tmp_path, shapes), []
    network, real = r.network(), probe.look
    monkeypatch.setattr(probe, "look", lambda *what: passes.append(what) or real(*what))
    monkeypatch.setattr(probe.time, "monotonic", lambda: 100.0 * len(passes))
    for turn in (1, 2):  # the second time, what the first one saw is kept
        assert probe.features(r, network, "cpu", 1e-6)[3] == 10 * len(r.source.classes) and len(passes) == turn
    every = probe.features(r, network, "cpu", None)[3]
    assert probe.features(r, network, "cpu", 1e-6)[3] == every and len(passes) == 2, "all of it is kept by now"


def test_what_is_said_of_a_part_of_val_stands_beside_its_images(auto, zygote, shapes, tmp_path):
    run, more = tmp_path / "run", ("trainer.limit_val_batches=1", "trainer.max_epochs=1", "select=ema", "refit=none")
    assert zygote.run(*words(shapes, auto, f"run_dir={run}", *more)) == 0, zygote.screen
    with (run / "predictions_val.csv").open() as stream:
        said = {f"{shapes / row['path']}": row for row in csv.DictReader(stream)}
    assert len(said) == 8 and all(row["target"] == path.split("/")[-2] for path, row in said.items())
    again = Predictor.load(run)(list(said))
    for row, now in zip(said.values(), again, strict=True):
        assert float(row["prob/left"]) == pytest.approx(now["prob/left"], abs=1e-3)
