"""What a search and a repeat promise: exactly the trials asked for, whatever is killed; an honest comparison."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from src import few, repeat, signals, tables
from src.contracts import ConfigError, DataError
from src.doors import opened
from src.search import drive, jobs, space
from src.search.__main__ import Asked, main
from src.search.study import Study
from tests.conftest import ROOT
from tests.conftest import words as words_of

FAKE = [sys.executable, str(ROOT / "tests" / "fake_train.py")]
DRIVER = f"import sys; from src.search.__main__ import main; sys.exit(main(sys.argv[1:], {FAKE}))"


@pytest.fixture(autouse=True)
def signals_as_they_were(monkeypatch):
    monkeypatch.setattr(jobs, "SECONDS", 0.02)
    jobs.monitor.cache_clear()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def trials(home: Path) -> list[dict[str, str]]:
    return tables.read(home / "trials.csv")


def began(run: Path) -> list[dict[str, str]]:
    """The words of every process that worked there."""
    return [json.loads(line) for line in (run / "began.txt").read_text().splitlines()]


@pytest.mark.parametrize("name", space.names())
def test_every_space_of_the_project_can_be_searched(name):
    asked = Asked([name])
    assert asked.knobs
    assert asked.options["trials"] >= 1


def test_heads_share_their_features_only_where_all_trials_have_the_same():
    assert Asked(["probe", "recipe=probe"]).cached
    for other in ("recipe=auto", "model.candidates=[resnet18,resnet34]", "folds=2"):
        words = ["data=folder", "data.root=.", *([other] if other == "recipe=auto" else ["recipe=probe", other])]
        assert not Asked(["probe", *words]).cached, other


def test_a_search_that_is_killed_anywhere_ends_with_the_trials_of_one_that_was_not(tmp_path):
    words = ["lr", "trials=6", "seeds=0", "trainer.max_epochs=4", "prune=none"]
    faults = [["0000", 2, "driver"], ["0001", 1, "trial"], ["0002", 3, "both"], ["0004", 0, "driver"]]
    env = os.environ | {"FAKE_KILL": json.dumps(faults), "FAKE_SECONDS": "0.1"}
    home, codes = tmp_path / "a" / "search" / "lr", []
    while not codes or (codes[-1] and len(codes) < 9):
        command = [sys.executable, "-c", DRIVER, *words, f"paths.logs={tmp_path / 'a'}"]
        codes.append(subprocess.run(command, cwd=ROOT, env=env, check=False, stdout=subprocess.DEVNULL).returncode)
        with (home / "journal.log").open("ab") as journal:
            journal.write(b'{"op_code":')  # as a kill in the middle of a line leaves it
    assert codes == [-9, -9, -9, 0]
    assert main([*words[:1], "trials=8", *words[2:], f"paths.logs={tmp_path / 'a'}"], FAKE) == 0
    assert main([*words[:1], "trials=8", *words[2:], f"paths.logs={tmp_path / 'b'}"], FAKE) == 0
    killed, whole = trials(home), trials(tmp_path / "b" / "search" / "lr")
    assert [row["state"] for row in killed] == ["complete"] * 8
    assert [row["optimizer.lr"] for row in killed] == [row["optimizer.lr"] for row in whole]
    assert len({row["optimizer.lr"] for row in killed}) == 8
    runs = sorted((home / "trials").iterdir())
    assert len(runs) == 8
    assert all(each == began(run)[0] for run in runs for each in began(run))
    assert [len(began(run)) for run in runs] == [1, 2, 2, 1, 1, 1, 1, 1]  # an orphan is waited for, not begun again
    assert all((run / "metrics.csv").read_text().count("\n") == 5 for run in runs)


def test_trials_that_fail_say_why_and_the_others_go_on(tmp_path):
    words = ["regularisation", "trials=10", "seeds=0", "sampler=random", "workers=2", f"paths.logs={tmp_path}"]
    assert main(words, FAKE) == 0
    rows = trials(tmp_path / "search" / "regularisation")
    assert len(rows) == 10
    for row in rows:
        if row["loss.label_smoothing"] == "0.2":
            assert row["reason"] == "killed by SIGKILL (perhaps for want of memory)"
        elif row["augment"] == "randaug":
            assert row["reason"] == "NonFinite: The loss is nan in epoch 0."
        else:
            assert (row["state"], row["reason"]) == ("complete", "")
    assert len({row["state"] for row in rows}) == 2
    drawn = {row["mix.alpha"] != "" for row in rows if row["mix"] != "none"}
    assert drawn == {True}
    assert {row["mix.alpha"] for row in rows if row["mix"] == "none"} == {""}


@pytest.mark.parametrize("prune", ["median", "halving"])
def test_a_trial_that_is_behind_is_stopped_early(tmp_path, monkeypatch, prune):
    monkeypatch.setenv("FAKE_SECONDS", "0.15")
    words = ["lr", "trials=8", "seeds=0", f"prune={prune}", "trainer.max_epochs=5", f"paths.logs={tmp_path}"]
    assert main(words, FAKE) == 0
    rows = trials(tmp_path / "search" / "lr")
    validated = {
        row["state"]: (tmp_path / "search" / "lr" / "trials" / f"{int(row['trial']):04d}" / "metrics.csv").read_text()
        for row in rows
    }
    assert set(validated) == {"complete", "pruned"}
    assert validated["complete"].count("\n") == 6 > validated["pruned"].count("\n")
    lr = {state: [float(row["optimizer.lr"]) for row in rows if row["state"] == state] for state in validated}
    assert max(lr["complete"]) > max(lr["pruned"])


def test_of_two_objectives_all_that_nobody_beats_are_told(tmp_path, capsys):
    words = ["lr", "trials=7", "seeds=0", "objective=[monitor,seconds]", f"paths.logs={tmp_path}"]
    assert main(words, FAKE) == 0
    rows = [(float(r["val/acc"]), float(r["seconds"]), r["trial"]) for r in trials(tmp_path / "search" / "lr")]
    front = {c for a, b, c in rows if not any(x >= a and y <= b and (x, y) != (a, b) for x, y, _ in rows)}
    told = {line.split("trial ")[1].rstrip(")") for line in capsys.readouterr().out.splitlines() if line[:4] == "best"}
    assert told == front
    assert len(front) > 1


def test_the_best_is_compared_with_the_default_by_seeds_that_the_search_has_not_seen(tmp_path, capsys):
    words = ["lr", "trials=3", "seeds=2", f"paths.logs={tmp_path}"]
    assert main(words, FAKE) == 0
    home = tmp_path / "search" / "lr"
    for run in (home / "trials").iterdir():
        assert "test" not in began(run)[0]["stages"]
        assert "test/acc" not in json.loads((run / "metrics.json").read_text())
    assert {run.name for run in (home / "default").glob("seed-*")} == {"seed-1", "seed-2"}
    (best,) = home.glob("best-*")
    assert "optimizer.lr" in began(best / "seed-1")[0]
    assert "optimizer.lr" not in began(home / "default" / "seed-1")[0]
    said = capsys.readouterr().out
    assert "better than the default, beyond the chance of the seed" in said
    assert said.rpartition("val/acc ")[2].splitlines()[0] in (home / "report.md").read_text()
    assert main(words, FAKE) == 0
    assert all(len(began(run)) == 1 for run in [*best.glob("seed-*"), *(home / "trials").iterdir()])


def test_where_the_seed_changes_nothing_two_of_them_are_trained_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(Asked, "cached", True)
    asked = Asked(["lr", "seeds=4", "recipe=probe", f"paths.logs={tmp_path}"])
    best = SimpleNamespace(number=0, user_attrs={"words": ["optimizer.lr=0.01"]})
    study, found = SimpleNamespace(best=lambda: [best]), SimpleNamespace(write=lambda verdict: None)
    said, _ = drive.compared(asked, study, found, FAKE)
    assert "2 seeds give the same: the result does not depend on the seed" in said and "±" not in said
    assert "0.9000               0.8000               +0.1000" in said
    assert len(list((asked.home / "default").glob("seed-*"))) == 2
    asked = Asked(["lr", "seeds=4", "recipe=fast", "name=other", f"paths.logs={tmp_path}"])
    assert "(4 seeds)" in drive.compared(asked, study, found, FAKE)[0]


def test_a_difference_within_the_noise_is_called_so():
    from src.search.report import verdict

    old = {"val/acc": {"a": 0.90, "b": 0.92, "c": 0.88}}
    for gain, word in ((0.001, "within the noise"), (-0.1, "WORSE"), (0.1, "better than the default, beyond")):
        new = {"val/acc": {k: v + gain + (0.01 if k == "a" else 0) for k, v in old["val/acc"].items()}}
        assert word in verdict(new, old, ("val/acc", "max"))
        assert ("WORSE" in verdict(new, old, ("val/acc", "min"))) == (gain > 0.05)


def test_images_that_cannot_be_read_end_the_search_and_it_goes_on_when_they_are_mended(tmp_path, capsys):
    words = ["lr", "trials=2", "seeds=0", "data=folder", f"data.root={tmp_path / 'images'}", f"paths.logs={tmp_path}"]
    assert main(words, FAKE) == 3
    assert "there is no such folder" in capsys.readouterr().err
    (tmp_path / "images").mkdir()
    assert main([*words, "stop_after=0s"], FAKE) == 1
    assert main(words, FAKE) == 0
    assert [row["state"] for row in trials(tmp_path / "search" / "lr")] == ["complete"] * 2


def test_a_trial_can_be_judged_by_its_mean_over_folds(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "REPEAT", [sys.executable, "-c", DRIVER.replace("search.__main__", "repeat")])
    words = ["lr", "trials=1", "seeds=0", "folds=2", "prune=none", "data=folder", "data.root=."]
    assert main([*words, f"paths.logs={tmp_path}"], FAKE) == 0
    folds = sorted((tmp_path / "search" / "lr" / "trials" / "0000").glob("fold-*"))
    each = [jobs.metrics(fold)["val/acc"] for fold in folds]
    assert len(each) == 2
    assert float(trials(tmp_path / "search" / "lr")[0]["val/acc"]) == pytest.approx(sum(each) / 2)


def test_a_small_space_is_tried_once_and_then_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(space, "read", lambda name: {"space": {"finetune": ["full", "head", "llrd"]}})
    assert main(["small", "trials=9", "seeds=0", f"paths.logs={tmp_path}"], FAKE) == 0
    assert sorted(row["finetune"] for row in trials(tmp_path / "search" / "small")) == ["full", "head", "llrd"]
    assert "nothing else" in capsys.readouterr().out


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_all_of_a_space_that_can_be_counted_is_tried_before_it_is_called_exhausted(tmp_path, sampler):
    choices = {name: ["a", "b", "c"] for name in ("x", "y")} | {"z": {"low": 0, "high": 0.2, "step": 0.1}}
    choices |= {"w": {"choice": [1, 2], "when": {"x": "a"}}}
    known = space.knobs(choices, "here")
    options = {"trials": 99, "workers": 1, "prune": "none", "sampler": sampler, "seed": 3}
    study = Study(tmp_path, known, {"objective": {"monitor": "max"}}, options)
    drawn = []
    while (trial := study.ask()) is not None:
        drawn.append(tuple(trial.user_attrs["words"]))
        study.tell(trial, {"val/acc": float(drawn[-1].count("x=a") + drawn[-1].count("y=b"))})
    assert len(drawn) == len(set(drawn)) == 9 * (2 + 1 + 1) and study.exhausted
    assert {word for words in drawn for word in words if word[0] == "z"} == {"z=0", "z=0.1", "z=0.2"}


SPACES = {
    "empty": ({}, "its space is empty"),
    "upside down": ({"optimizer.lr": {"low": 1, "high": 0.1}}, "low the lower one"),
    "log of zero": ({"optimizer.weight_decay": {"low": 0, "high": 1, "log": True}}, "low above 0"),
    "a slip": ({"optimizer.lr": {"low": 0.1, "hgih": 1}}, "Did you mean high?"),
    "no value": ({"finetune": []}, "at least one value"),
    "twice": ({"finetune": ["full", "full"]}, "none twice"),
    "never": (
        {"finetune": ["full"], "finetune.stem": {"choice": [0.1], "when": {"finetune": "llrd"}}},
        "never is llrd",
    ),
    "below": ({"finetune.stem": {"choice": [0.1], "when": {"finetune": "llrd"}}}, "must be a knob above"),
    "no key": ({"optimizer.lrr": [0.1]}, "Did you mean optimizer.lr=0.1?"),
    "no option": ({"finetune": ["fall"]}, "finetune has no option fall"),
    "no such value": ({"model.drop_rate": {"low": 0.0, "high": 3.0}}, "model.drop_rate must be"),
    "given, too": ({"seed": [1, 2]}, "is searched by configs/search/x.yaml, and given"),
}


@pytest.mark.parametrize("case", SPACES)
def test_a_space_that_makes_no_sense_is_refused_before_the_first_trial(case, tmp_path, monkeypatch, capsys):
    body, told = SPACES[case]
    monkeypatch.setattr(space, "read", lambda name: {"space": body})
    assert main(["x", "seed=0", f"paths.logs={tmp_path}"], FAKE) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "nothing was run" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words, told",
    [
        (["lrr"], "Did you mean lr?"),
        (["lr", "trials=0"], "trials must be a whole number, 1 <= x"),
        (["lr", "trails=3"], "Did you mean trials=3?"),
        (["lr", "workers=4096"], "this machine has"),
        (["lr", "optimizer.lr=0.1"], "optimizer.lr is searched"),
        (["lr", "optimiser.lr=0.1"], "Did you mean optimizer.lr=0.1?"),
        (["lr", "stages=[fit]"], "stages is not for a search"),
        (["lr", "folds=3", "data.fold=1", "data=folder", "data.root=."], "folds=3 sets data.fold"),
        (["lr", "prune=median", "objective=[monitor,seconds]"], "with several objectives"),
        (
            ["lr", "prune=median", "model.candidates=[resnet18,resnet34]", "model.top=2"],
            "with several networks in a trial",
        ),
        (["lr", "objective=val/nll"], "objective must be monitor, or a mapping"),
        (["lr", "-m"], "There are no flags here"),
        (["trials=3"], "the first word is the space"),
    ],
)
def test_words_that_a_search_cannot_obey_are_refused(words, told, tmp_path, capsys):
    assert main([*words, f"paths.logs={tmp_path}"], FAKE) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_another_study_and_an_objective_that_nobody_logs_are_refused(tmp_path, capsys):
    assert main(["lr", "trials=1", "seeds=0", f"paths.logs={tmp_path}"], FAKE) == 0
    assert main(["lr", "trials=1", "seeds=0", f"paths.logs={tmp_path}", "data.batch_size=8"], FAKE) == 2
    assert "holds another study" in capsys.readouterr().err
    words = ["lr", "trials=1", "seeds=0", f"paths.logs={tmp_path}", "name=b", "prune=none"]
    assert main([*words, "objective={val/f1: max}"], FAKE) == 2
    assert "val/acc, val/nll" in capsys.readouterr().err


PLACES = [
    "jürgen", "exp (1)", "a,b", "a'b", "a&b", "#", "[x]", "{x}", "a b", " a ", 'a"b', "a=b", "1",
    "null", "a\\", "a\\'b",
    "$HOME", "~", "*", "run-1.a_b", "logs/name/2026-11-26_18-33-15_583b",
]  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_a_run_folder_may_have_any_name(tmp_path, monkeypatch, name):
    from src.check.words import parsed
    from src.folder import RunFolder
    from src.screen import resume_command

    monkeypatch.chdir(tmp_path)
    driven = jobs.Job(tmp_path / name, [], {}).words[-1]
    *_, typed = shlex.split(resume_command(RunFolder(tmp_path / name)))
    assert [parsed(word).values[0] for word in (driven, typed)] == [str(tmp_path / name), name]
    if name[0] == "l":
        assert resume_command(RunFolder(tmp_path / name)).endswith(f" resume={name}")


def test_what_a_search_and_a_repeat_write_down_shows_no_login(tmp_path):
    uri = "logger.mlflow.tracking_uri=https://me:CANARY@host"
    words = ["logger=[csv,mlflow]", uri, f"paths.logs={tmp_path}"]
    for _ in range(2):  # the same words go on
        assert main(["lr", "trials=1", "seeds=0", "prune=none", *words], FAKE) == 0
        assert repeat.main(["seeds=1", *words], FAKE) == 0
    texts = {str(f): f.read_bytes() for f in tmp_path.rglob("*") if f.is_file() and f.name != "began.txt"}
    assert [name for name, text in texts.items() if b"CANARY" in text] == []


def test_each_worker_has_its_own_devices_or_its_share_of_the_cores(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,5,7")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in jobs.places(2, "auto", 2)] == ["0,2", "5,7"]
    assert [place["CUDA_VISIBLE_DEVICES"] for place in jobs.places(4, "gpu", 1)] == ["0", "2", "5", "7"]
    with pytest.raises(ConfigError, match="4 GPUs"):
        jobs.places(3, "auto", 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(jobs.world, "cores", lambda: 8)
    assert jobs.places(4, "auto", 1) == [{"OMP_NUM_THREADS": "2"}] * 4
    with pytest.raises(ConfigError, match="8 cores"):
        jobs.places(9, "cpu", 1)


def test_a_repeat_does_only_what_is_missing_and_is_compared_seed_by_seed(tmp_path, capsys):
    one = [f"paths.logs={tmp_path}", "name=one", "optimizer.lr=0.01"]
    assert repeat.main(["seeds=2", *one], FAKE) == 0
    assert repeat.main(["seeds=4", *one], FAKE) == 0
    assert [len(began(tmp_path / "one" / f"seed-{i}")) for i in range(4)] == [1, 1, 1, 1]
    mean, half = few.interval([0.9, 0.89, 0.88, 0.87])
    told = capsys.readouterr().out
    assert f"{mean:.4f} ± {half:.4f}" in told and "uncalibrated" not in told
    two = ["seeds=[0,2]", f"paths.logs={tmp_path}", "name=two", "optimizer.lr=0.001"]
    assert repeat.main([*two, f"against={tmp_path / 'one'}"], FAKE) == 0
    assert f"-0.1000 ± 0.0000 against {tmp_path / 'one'}: beyond chance" in capsys.readouterr().out
    assert repeat.main([*one, f"against={tmp_path / 'one'}"], FAKE) == 2
    assert "that is this group itself" in capsys.readouterr().err
    assert repeat.main([*two, "optimizer.weight_decay=0.1"], FAKE) == 2
    assert "holds runs of other words" in capsys.readouterr().err
    assert repeat.main(["folds=2", "data.fold=1"], FAKE) == 2


def test_seeds_that_change_nothing_have_no_interval(tmp_path, capsys):
    assert repeat.main(["seeds=2", f"paths.logs={tmp_path}", "recipe=probe", "optimizer.lr=0.01"], FAKE) == 0
    told = capsys.readouterr().out
    assert "0.9000 each time" in told and "±" not in told
    words = [f"paths.logs={tmp_path}", "recipe=probe", f"against={tmp_path / 'repeat'}", "name=other"]
    assert repeat.main(["seeds=2", "optimizer.lr=0.001", *words], FAKE) == 0
    told = capsys.readouterr().out
    assert "-0.1000 ± 0.0000" in told and "the seed changes neither" in told and "beyond" not in told
    for units in ("seeds=[7,8]", "folds=2"):
        assert repeat.main([units, "data=folder", "data.root=.", *words], FAKE) == 2
        assert "these are no pairs" in capsys.readouterr().err
    assert repeat.main(["folds=2", "data=folder", "data.root=.", f"paths.logs={tmp_path}", "name=two"], FAKE) == 0
    words = ["folds=3", "data=folder", "data.root=.", f"paths.logs={tmp_path}", f"against={tmp_path / 'two'}"]
    assert repeat.main(words, FAKE) == 2 and "as many folds" in capsys.readouterr().err


def test_folds_are_the_words_of_a_merge(tmp_path):
    assert repeat.main(["folds=3", "data=folder", "data.root=.", f"paths.logs={tmp_path}"], FAKE) == 0
    assert [began(tmp_path / "repeat" / f"fold-{i}")[0]["data.fold"] for i in range(3)] == ["0", "1", "2"]


ENDS = [(None, 0), (KeyError, 1), (ConfigError, 2), (DataError, 3), (signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize("end, code", ENDS)
def test_a_door_tells_by_its_exit_code_how_it_ended(end, code, capsys):
    def work() -> None:
        if isinstance(end, signal.Signals):
            signal.raise_signal(end)
        elif end:
            raise end("why")

    before = {number: signal.getsignal(number) for number in signals.CODES}
    assert opened(work, "The same words go on.") == code
    for number, handler in before.items():
        signal.signal(number, handler)
    told = {1: "KeyError: 'why'\nDEBUG=1", 2: "why\n", 3: "why\n"}.get(code, "The same words go on." if code else "")
    assert told in capsys.readouterr().err


def test_the_interval_of_a_few_is_students():
    assert few.interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.30 / 3**0.5))
    assert few.paired({"a": 2.0, "b": 3.0}, {"a": 1.0, "b": 1.0, "c": 9.0}) == pytest.approx((1.5, 12.71 / 2, 2))
    ends = {"val/acc": (0, 1), "folds/test/iou/sky": (0, 1), "test/width/r2": (-2.8, 1), "test/mae": (0, 3.8)}
    ends |= {"test/qwk": (-1, 1), "val/mine": (-2.8, 3.8)}  # of a metric that is not known nothing is cut off
    for key, end in ends.items():
        assert few.bounds(key, [0.0, 0.25, 1.0]).keys() == {key, f"{key}/low", f"{key}/high"}
        found = few.bounds(key, [-0.8266, 0.5, 1.8266])  # ± 3.3
        assert (found[f"{key}/low"], found[f"{key}/high"]) == pytest.approx(end, abs=0.01)
    assert few.bounds("val/acc", [0.5]) == {"val/acc": 0.5}


def test_no_two_names_on_an_axis_of_the_plots_overlap_and_where_all_is_alike_nothing_decides(tmp_path, monkeypatch):
    from matplotlib import pyplot

    from src.search.report import plots

    losses = ["cross_entropy", "generalised_ce", "symmetric_ce", "balanced_softmax"]
    drawn = [{"rate": 10 ** (-i / 4), "near": 0.03 * 1.35**i, "loss": losses[i % 4], "mix": i / 9} for i in range(12)]
    trials = [SimpleNamespace(number=i, values=[0.8 + i / 99], params=p) for i, p in enumerate(drawn)]
    knobs = [SimpleNamespace(key=key, log=key in ("rate", "near")) for key in drawn[0]]
    study = SimpleNamespace(names=["val/acc"], complete=trials, best=lambda: trials[-1:], knobs=knobs)
    monkeypatch.setattr(pyplot, "close", lambda figure: None)
    plots(study, {"rate": 0.7, "near": 0.3}, tmp_path / "trials.png")
    figure = pyplot.gcf()
    for axis in (axis for axis in figure.axes if axis.axison):
        level = [t for t in axis.get_xticklabels(which="both") if t.get_text() and not t.get_rotation()]
        boxes = sorted((t.get_window_extent() for t in level), key=lambda box: box.x0)
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes)), axis.get_xlabel()
    monkeypatch.undo()
    pyplot.close(figure)
    alike = [SimpleNamespace(values=[1.0])] * 5
    assert Study.importance(SimpleNamespace(complete=alike)) == {}


@pytest.mark.slow
def test_a_search_of_real_trials(tmp_path):
    words = ["lr", "trials=2", "seeds=0", "debug=fast", "recipe=off", "select=last", f"paths.logs={tmp_path}"]
    more = ["trainer.accelerator=cpu", f"paths.cache={tmp_path / 'cache'}", "prune=none"]
    assert main([*words, *more]) == 0
    rows = trials(tmp_path / "search" / "lr")
    assert [row["state"] for row in rows] == ["complete", "complete"]
    assert all(0 <= float(row["val/acc"]) <= 1 for row in rows)
    for run in (tmp_path / "search" / "lr" / "trials").iterdir():
        assert not any(key.startswith("test/") for key in jobs.metrics(run))
        assert (run / "model" / "weights.safetensors").is_file()


@pytest.mark.slow
def test_heads_in_one_process_reach_what_a_run_of_each_reaches_and_leave_out_the_same_labels(tmp_path, zygote, capsys):
    from tests.test_auto import quarters

    plain = [word for word in words_of(quarters(tmp_path / "images", 6), tmp_path) if word != "recipe=off"]
    plain = ["recipe=probe", "model.pretrained=true", *(w for w in plain if not w.startswith("model."))]
    plain += ["model.name=test_byobnet.glyphs", "model.image_size=32"]
    assert main(["probe", "trials=6", "seeds=0", "objective={val/nll: min}", *plain]) == 0
    rows, screen = trials(tmp_path / "logs" / "search" / "probe"), capsys.readouterr().out
    assert [row["state"] for row in rows] == ["complete"] * 6
    assert len({row["val/nll"] for row in rows}) == 6
    for i in (0, 5):
        head = [f"{key}={value}" for key, value in rows[i].items() if key.startswith("probe.")]
        run = tmp_path / str(i)
        assert zygote.run(*plain, *head, "stages=[probe,select]", f"run_dir={run}") == 0, zygote.screen
        assert jobs.metrics(run)["val/nll"] == pytest.approx(float(rows[i]["val/nll"]), rel=1e-4)
        wrong = [row for row in tables.read(run / "suspects.csv") if row["left out"] == "yes"]
        assert f"{len(wrong)} training images are not learnt by any trial" in screen and len(wrong) > 18
    balanced = ["task.monitor=val/balanced_acc", "data.suspects=drop", f"name={tmp_path.name}"]
    assert main(["probe", "trials=1", *plain, *balanced]) == 2
    wrong = ["probe.head=whitened", "probe.strength=0.5", "probe.view=last", "stages=[probe,select]"]
    assert zygote.run(*plain, *wrong) == 2
    assert "It has lda, logistic, nearest, ridge on last, stages" in zygote.screen
