"""What the factory promises: a config builds what the project offers, and can run nothing else."""

from __future__ import annotations

import functools
import pickle
import sys
from pathlib import Path

import pytest
import torch

from src.contracts import ConfigError
from src.factory import ALLOWED, LABELS, SOURCE, TASK, allowed, make, make_within, targets
from src.losses.focal import Focal
from tests.yamls import CONFIGS, names, node

DANGEROUS = [  # Hydra 1.3.8's own blocklist lets all of the first group through
    "torch.load", "torch.hub.load", "torch.utils.cpp_extension.load_inline", "torch.package.PackageImporter",
    "pandas.read_pickle", "joblib.load", "numpy.load", "pip.main", "builtins.open", "pathlib.Path.write_text",
    "shutil.unpack_archive", "urllib.request.urlretrieve", "torch.utils.benchmark.Timer", "sympy.sympify",
    "os.system", "subprocess.Popen", "builtins.eval", "builtins.__import__", "functools.partial", "timm.create_model",
    "hydra.utils.instantiate", "src.factory.make", "src.run.job", "src.folder.shutil.rmtree",
    "src.data.cache._create", "src.data.scan._remember", "src.data.table._file", "src.data.folder.existing",
    "src.data.digits.lay_out", "src.data.cache.copies",
]  # fmt: skip
ALIASES = [  # what a room imports is not what it offers
    "src.models.weights.torch.load", "src.models.weights.load_file", "src.models.network.importlib.import_module",
    "src.models.network.Path", "src.models.timm_backbone.timm.create_model", "src.models.timm_backbone.replace",
    "src.callbacks.last.torch.load", "src.callbacks.last.signals.os.kill", "src.data.images.np.load",
    "src.data.images.Path", "src.losses.focal.torch.load", "src.losses.focal.nn.Module", "src.tasks.multiclass.Any",
    "src.finetune.policy.ABC", "src.models.weights.CLASSIFIERS", "src.models.weights.CLASSIFIERS.index",
]  # fmt: skip
BROKEN = [
    "src.losses.focal.Focal.__init__", "src.losses.focal.__builtins__.eval", "src.losses.focal.Focal.forward",
    "src.losses.no_such_file.Loss", "src.losses.focal.NoSuchLoss", "src.losses.", "src.losses", "src.lossesX.a.b", "",
    ".", "Focal", None, 3, ["torch.load"], {"_target_": "torch.load"},
]  # fmt: skip


class Evil:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def trap(tmp_path) -> tuple[Path, dict]:
    """(a file that appears when the pickle runs, words under which most loaders would run it)."""
    trace, file = tmp_path / "it ran", tmp_path / "payload.pkl"
    file.write_bytes(pickle.dumps(Evil(trace)))
    return trace, {"f": str(file), "file": str(file), "path": str(file), "weights_only": False, "allow_pickle": True}


@pytest.mark.parametrize("target", DANGEROUS + ALIASES + BROKEN, ids=str)
@pytest.mark.parametrize("partial", [False, True])
def test_a_config_can_call_only_what_the_project_offers(trap, target, partial):
    trace, words = trap
    with pytest.raises(ConfigError):
        make({"_target_": target, "_partial_": partial, **words})
    assert not trace.exists()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda bad: {"loss": {"gamma": 2.0, "inner": bad}},
        lambda bad: [1, [bad]],
        lambda bad: (bad,),
        lambda bad: {"_target_": "src.losses.focal.Focal", "gamma": bad},
        lambda bad: {"_target_": "src.losses.focal.Focal", "gamma": {"a": [{"b": bad}]}},
        lambda bad: {"_target_": "src.schedulers.Schedule", "_partial_": True, "shape": bad},
    ],
)
@pytest.mark.parametrize("target", ["torch.load", "src.models.weights.torch.load"])
def test_nodes_inside_nodes_are_checked_too(trap, wrap, target):
    trace, words = trap
    with pytest.raises(ConfigError, match=r"The config names (torch|src\.models\.weights\.torch)\.load"):
        make(wrap({"_target_": target, **words}))
    assert not trace.exists()


FOLDER = {"_target_": "src.data.folder.existing", "root": "/"}
TABLE = {"_target_": "src.data.table._file", "root": "/", "name": "x.csv"}
PAYLOADS = [{"_target_": "src.data.cache._create", "file": FOLDER, "table": 0},
            {"_target_": "src.data.scan._remember", "file": TABLE, "found": {}}]  # fmt: skip


@pytest.mark.parametrize("bad", [*PAYLOADS, {"_target_": "src.losses.focal.Focal"}])
@pytest.mark.parametrize(
    ("target", "rooms"),
    [("src.tasks.multiclass.multiclass", TASK), ("src.labels.Levels", LABELS), ("src.data.folder.folder", SOURCE)],
)
def test_what_came_with_a_model_names_nothing_beyond_its_room(monkeypatch, bad, target, rooms):
    monkeypatch.setattr("src.factory._build", lambda *_, **__: pytest.fail("it was built"))
    for saved in (bad, {"_target_": target, "_partial_": True, "monitor": [bad]}, {"inner": bad}, None):
        with pytest.raises(ConfigError, match="asks for|names"):
            make_within(saved, rooms)


def test_nothing_is_built_when_something_in_the_node_is_refused(monkeypatch):
    made = []
    monkeypatch.setattr(Focal, "__init__", lambda *_, **__: made.append(1))
    with pytest.raises(ConfigError, match=r"torch\.load"):
        make([{"_target_": "src.losses.focal.Focal"}, {"_target_": "torch.load"}])
    assert not made


def test_a_refused_name_is_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "freshly_planted.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for target in ("freshly_planted.run", "freshly_planted", "src.losses.focal.freshly_planted.run"):
        with pytest.raises(ConfigError):
            make({"_target_": target})
    assert "freshly_planted" not in sys.modules


@pytest.mark.parametrize("target", sorted(ALLOWED))
def test_each_allowed_name_exists(target):
    assert callable(make({"_target_": target, "_partial_": True}))


GROUPS = sorted(folder.name for folder in CONFIGS.iterdir() if folder.is_dir())


@pytest.mark.parametrize("group", GROUPS)
def test_every_target_in_every_yaml_is_allowed(group):
    for name in names(group):
        text = (CONFIGS / group / f"{name}.yaml").read_text()
        said = [line.split("_target_:")[1].split()[0].rstrip(",") for line in text.splitlines() if "_target_:" in line]
        assert all(allowed(target) for target in said), name


def test_targets_lists_every_node_with_its_key():
    tree = {"a": {"_target_": "x", "b": [{"_target_": "y"}, 3]}, "c": {"d": ({"_target_": "z"},)}}
    assert list(targets(tree)) == [("a", "x"), ("a.b.0", "y"), ("c.d.0", "z")]


def test_plain_values_pass_and_lists_and_mappings_become_pythons():
    assert make(None) is None and make(3) == 3 and make("x") == "x"
    found = make({"a": [{"_target_": "src.losses.focal.Focal", "gamma": 1.5}], "b": (1, 2)})
    assert isinstance(found["a"][0], Focal) and found["a"][0].gamma == 1.5 and found["b"] == [1, 2]


def test_a_partial_node_waits_for_the_rest():
    waits = make({"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1})
    assert isinstance(waits, functools.partial)
    assert waits([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"] == 0.1
    done = make({"_target_": "torch.optim.SGD", "lr": 0.1}, params=[torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(done, torch.optim.SGD)


def test_the_node_is_not_changed():
    cfg = node("scheduler", "polynomial")
    before = repr(cfg)
    make(cfg)(total=5)
    assert repr(cfg) == before


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("src.losses.focal.Focal", {"gama": 2.0}),
        ("src.finetune.llrd.LLRD", {"stem": 0.1, "decay": 0.75}),
        ("torch.optim.AdamW", {"lr": 0.1, "wight_decay": 0.1}),
        ("src.schedulers.Schedule", {"warm_up": 0.1}),
    ],
)
def test_an_argument_that_does_not_exist_is_refused_at_once_and_named(target, words, partial):
    with pytest.raises(ConfigError) as caught:
        make({"_target_": target, "_partial_": partial, **words})
    assert target in str(caught.value) and all(word in str(caught.value) for word in words)


def test_a_missing_argument_is_named():
    with pytest.raises(ConfigError, match="total"):
        make({"_target_": "src.schedulers.Schedule", "shape": 1})


def test_an_error_of_the_constructor_keeps_its_own_words():
    with pytest.raises(ConfigError, match=r"loss\.q=7"):
        make(node("loss", "generalised_ce", q=7))
