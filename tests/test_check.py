"""Each wrong word is told with what to write instead, all at once, before torch; what is right passes."""

import random
import re
import shlex
import shutil
import string
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from src.check import configs, help, kinds, mistakes, nearest, rules
from src.factory import ALLOWED
from tests.conftest import ROOT

GROUPS = [(group, option) for group, options in configs.groups().items() for option in options]
FILL = {
    "data=folder": ["data.root=DIR"],
    "data=csv": ["data.root=DIR", "data.table=t.csv"],
    "distill=run": ["distill.teacher.folder=DIR"],
    "distill=timm": ["distill.teacher.name=resnet18", "distill.teacher.weights=FILE"],
    "data=huggingface": ["data.root=DIR"],
    "data=torchvision": ["data.root=DIR", "data.dataset=CIFAR10"],
    "task=multihead": ["task.heads={a: regression}"],
    "data=webdataset": ["data.root=DIR", 'data.shards.train="train-{000..009}.tar"', "data.shards.val=val-*.tar"],
}


def words(group, option):
    return [f"{group}={option}", *FILL.get(f"{group}={option}", [])]


BAD = {  # words -> what the answer must say, a regular expression
    # keys
    "trainr.max_epochs=5": r"Did you mean trainer\.max_epochs=5\?",
    "trainer.max_epoch=5": r"Did you mean trainer\.max_epochs=5\?",
    "max_epochs=5": r"Did you mean trainer\.max_epochs=5\?",
    "lr=0.1": r"Did you mean optimizer\.lr=0\.1\?",
    "model.lr=0.1": r"Did you mean optimizer\.lr=0\.1\?",
    "learning_rate=0.1": r"Did you mean optimizer\.lr=0\.1\?",
    "model.pretraned=false": r"Did you mean model\.pretrained=false\?",
    "optimizer={lrr: 0.1}": r"Did you mean optimizer\.lr=0\.1\?",
    "optim=sgd": "the group optimizer.*adamw, sam, sgd",
    "finetune.stem=0.1": "comes with finetune=llrd",
    "stem=0.1": r"finetune\.stem=0\.1 with finetune=llrd",
    "callbacks.early_stopping.patience=3": "comes with callbacks=early_stopping",
    "zzzzzz=1": "The groups: data, model",
    "+trainer.max_epoch=5": r"adds none.*trainer\.max_epochs=5",
    "++trainer.max_epoch=5": r"adds none.*trainer\.max_epochs=5",
    "+seed=1": "needs no .*Write seed=1",
    "~seed": r"~ leaves out: .*~callbacks\.best",
    "~logger": r"Write 'logger=\[\]'",
    "data@other=digits": "Write data=OPTION",
    "paths=logs": r"paths\.logs, paths\.cache",
    "task=multihead": r"task\.heads has no value",
    "task=multihead task.heads=colour": "mapping of columns to multiclass",
    "task=multihead task.heads={colour: multiclas}": r"colour: multiclas is no kind. Did you mean multiclass\?",
    "task=multihead task.heads={a: {kind: ordinal, ordr: [x,y]}}": "ordinal knows no word 'ordr'. Did you mean order",
    "task=multihead task.heads={a: {kind: ordinal, order: [x]}}": "list of levels",
    "task=multihead task.heads={a: {kind: regression, separator: x}}": "regression knows no word 'separator'",
    "task=multihead task.heads={a: {kind: multilabel, weight: -1}}": "a: weight=-1 must be a number, 0 <= x",
    "task=multihead task.heads={a: {loss: mse}}": "a: is neither a kind nor a mapping with a kind",
    "task=multihead task.heads={a: {kind: regression, loss: msee}}": "a: no loss 'msee'. Did you mean mse",
    "task=multihead task.heads={a.b: regression}": "must have no dot",
    "task=multihead task.heads={a: regression} loss.balance=learnt": r"fixed \| uncertainty",
    "task=multihead task.heads={a: regression} loss.losses.focal.gamma=-1": "0 <= x",
    "task=multihead task.heads={a: regression} loss.losses.focl.gamma=1": r"loss\.losses\.focal\.gamma",
    "task=multihead task.heads={a: regression} task.labels.heads={b: regression}": "what task.heads says",
    # groups
    "loss=focall": "It has: .*focal.*Did you mean focal",
    "model=resnet50": r"model\.name=resnet50",
    "loss=adamw": "Did you mean optimizer=adamw",
    "logger=[tensorbord,csv]": "no option tensorbord.*Did you mean tensorboard",
    "loss=[focal,poly1]": "takes one option",
    "data=null": "no option null",
    "data=base": "no option base",
    "+experiment=pretrain_glyphs": r"is not for groups",
    "debug=fats": "Did you mean fast",
    # how a word is written
    "trainer.max_epochs 5": r"without spaces.*Write trainer\.max_epochs=5",
    "trainer.max_epochs = 5": r"Write trainer\.max_epochs=5",
    "trainer.max_epochs= 5": r"Write trainer\.max_epochs=5",
    "--max_epochs=5": r"no dashes.*trainer\.max_epochs=5",
    "--lr 0.1": r"optimizer\.lr=0\.1",
    "digits": "data=digits",
    "name=a=b": r"cannot be read.*'name=\"a=b\"'",
    "seed=0,1": "add -m",
    "stages=fit,test": r"'stages=\[fit,test\]'",
    "logger=csv,wandb": r"'logger=\[csv,wandb\]'",
    "seed=0,1 -m loss=focal": "both sides",
    "seed=1 seed=2": "seed=1 seed=2\n  seed is said 2 times",
    "finetune=head seed=1 finetune=full": "finetune is said 2 times",
    "optimizer.lr=0.1 ++optimizer.lr=0.1": "optimizer.lr is said 2 times",
    # values
    "trainer.max_epochs=abc": "whole number, 1 <= x",
    "trainer.max_epochs=0": "whole number, 1 <= x",
    "trainer.max_epochs=-1": r"Set trainer\.max_steps",
    "data.batch_size=3.5": "whole number",
    "data.batch_size=0": "whole number, 1 <= x; the yaml has 32",
    "data.batch_size=true": "whole number",
    "data.num_workers=-1": "0 <= x",
    "data.bad_images=maybe": r"error \| skip",
    "data.resize=foo": r"crop \| squash \| pad",
    "data.val_size=1.2": "0 <= x < 1",
    "data.val_size=0.6 data.test_size=0.5": "nothing to train on",
    "data.crop_scale=[1,0.5]": r"\[low,high\]",
    "data.crop_scale=0.5": r"\[low,high\]",
    "seed=-1": "0 <= x",
    "seed=null": "whole number",
    "name=7": "name",
    "model.pretrained=no": r"true \| false",
    "model.image_size=0": "1 <= x.*null",
    "model.in_chans=0": "1 <= x.*null",
    "model.drop_rate=1": "0 <= x < 1",
    "model.drop_path_rate=-0.1": "0 <= x < 1",
    "optimizer.lr=-1": "0 < x",
    "optimizer.lr=0": "0 < x",
    "optimizer.lr=nan": "0 < x",
    "optimizer.betas=[0.9]": "two numbers",
    "optimizer={lr: -1}": r"optimizer\.lr must be",
    "loss.label_smoothing=1.5": "0 <= x < 1",
    "scheduler.warmup=2": "0 <= x < 1",
    "recipe=foo": "off | probe | fast | auto",
    "select=foo": r"best \| last",
    "select=soup+closing": "takes two fits",
    "sweep=[0.5,1]": "the first is 1",
    "sweep=[1,1]": "different factors",
    "refit=both": r"none \| head \| all",
    "recipe=fast model.candidates=[resnet18]": "probe that ranks them",
    "model.top=0": "1 <= x",
    "model.top=2": "model.candidates names 0 of them",
    "model.top=3 model.candidates=[resnet18,resnet34,resnet18]": "names 2 of them",
    "model.top=2 model.candidates=[resnet18,resnet34] recipe=probe": "Nothing is fine-tuned",
    "model.top=2 model.candidates=[resnet18,resnet34] stages=[probe,select]": "It is fits that are compared",
    "model.top=2 model.candidates=[resnet18,resnet34] trainer.limit_val_batches=0": "val that chooses",
    "model.top=2 model.candidates=[a,b] select=soup recipe=best": "No network has two fits when",
    "sweep=[1,0.5] trainer.limit_val_batches=0": "val that compares the rates",
    "budget=10m callbacks=[best,last,ema]": "that callback that ends the fit in time",
    "init_from=a model.weights=b": "weights of its own",
    "model.top=2 model.candidates=[a,b] trainer.max_epochs=-1 trainer.max_steps=50": "part of their epochs",
    "stages=[fit,test]": "no model for test: it is select that writes",
    "stages=[fit,calibrate,refit]": "no model for calibrate, refit",
    "stages=[fit": r"bracket is not closed.*'stages=\[fit,select,test\]'",
    "stages=[fit,tset]": "fit, select, calibrate, refit, test, robustness, report",
    "resume=true": "run folder, or auto",
    "resume=a init_from=b": "Leave one out",
    "data=folder data.root=. data.folds=3": "for data.fold, which is not given",
    "augment=none data.flip=0.3": "augment=none does not do it",
    "augment=colour data.crop_scale=[0.5,1]": "augment=colour does not do it",
    "trainer.precision=foo": "bf16-mixed",
    "trainer.effective_batch=0": "whole number, 1 <= x",
    "trainer.auto_batch=yes": r"true \| false",
    "trainer.compile=maybe": r"true \| false, or auto \| inductor",
    "trainer.matmul_precision=tf32": r"highest \| high \| medium",
    "model.grad_checkpointing=some": r"true \| false",
    "trainer.effective_batch=64 trainer.accumulate_grad_batches=2": "Leave out one of the two",
    "model.grad_checkpointing=true trainer.compile=auto": "decides itself",
    "optimizer=sam trainer.effective_batch=64": "second look",
    "optimizer=sam trainer.auto_batch=true": "trainer.auto_batch=true\n.*second look",
    "trainer=ddp trainer.strategy=ddp_spawn": r"auto \| ddp \(trainer=fsdp",
    "trainer.strategy=fsdp trainer.devices=2": "trainer=fsdp",
    "trainer.strategy=deepspeed": r"auto \| ddp",
    "trainer.devices=0": r"\[0,2\]",
    "trainer.max_time=3h": "DD:HH:MM:SS",
    "trainer.max_time=00:01:00:00 data.progressive=0.5": "cuts the schedule short",
    "data=folder": r"data\.root has no value.*Add data\.root=",
    "loss._target_=os.system": "allows",
    "optimizer._partial_=false": "the template builds on it",
    # sweeps
    "-m seed=0,-1": "0 <= x",
    "-m loss=focal,focall": "Did you mean focal",
    "-m optimizer.lr=1e-3,abc": "0 < x",
    "-m data.batch_size=range(0,4)": "1 <= x",
    "-m loss=focal,poly1 loss.gamma=1": "comes with loss=focal",
    "-m optimizer.lr=interval(0,1)": "A,B,C",
    "-m seed=glob(*)": "with the values to try",
    "loss=choice(focal)": "add -m",
    "~callbacks.best=1": "takes no value",
    "-m seed=0,1 trainer=ddp trainer.devices=2": r"for a in seed=0 seed=1; do python train\.py trainer=ddp "
    r"trainer\.devices=2 \"\$a\"; done",
    "-m seed=0,1 run_dir=x": "run_dir=x with -m\n.*one folder.*name=NAME",
    "-m seed=0,1 run_dir=x,y": "one folder",
    "-m seed=0,1 resume=logs/a/b": "Leave resume out",
    "-m seed=0,1 trainer.devices=1,2": "for b in",
}
GOOD = [
    "", "seed=3", "trainer.max_epochs=5 optimizer.lr=1e-4", "optimizer.lr=1", "model.image_size=96", "data.flip=0",
    "data.root=x data=folder", "data=csv data.root=d data.table=t.csv data.columns.path=file",
    "callbacks=[default,early_stopping] callbacks.early_stopping.patience=3", "logger=[csv]", "~callbacks.lr_monitor",
    "trainer.devices=[0,2]", "trainer.devices=auto", "trainer.gradient_clip_val=null", "trainer.strategy=ddp",
    "callbacks.last.every_minutes=0.5", "augment.scale=[0.6,1]", "model.name=${data.backbone}", "optimizer.betas.0=0.8",
    "finetune=freeze finetune.until=layer2", "finetune=freeze finetune.until=0.3", "++seed=3", "optimizer={lr: 0.1}",
    "trainer.max_epochs=-1 trainer.max_steps=50", "resume=logs/a/b data=folder", "resume=auto", "--cfg job data=folder",
    "resume=a stages=[test]", "stages=[probe,select,test]",
    "seed=1 seed=1", "-m seed=1 run_dir=x", "-m run_dir=x,y", "-m seed=0,1 resume=auto",
    "-m seed=0,1 run_dir=x/${seed}", "-m seed=0,1 run_dir=x/${seed} stages=[test]", "trainer.strategy=auto",
    "run_dir=tests stages=[test]",
    "-m seed=0,1,2", "-m loss=focal,poly1 optimizer.lr=1e-3,1e-4", "-m seed=range(1,4)", "-m seed=choice(1,2)",
    "-m loss=glob(*)", "-m trainer=ddp trainer.devices=1", "-m seed=0,1 trainer.devices=[1]", "--hydra-help",
    "experiment=pretrain_glyphs debug=fast", "experiment=pretrain_glyphs data.count=100", "name=\"a b\"",
    "task=multihead task.heads={a: regression, b: {kind: ordinal, order: [x,y], weight: 2, loss: corn}}",
    "hydra.run.dir=\"x\" hydra.job.name=train_ddp_process_1 hydra.output_subdir=null", "-sc install=bash",
    "augment=randaug augment.policy.magnitude=5", "augment=randaug augment.policy=null", "-cd elsewhere foo.bar=1",
]  # fmt: skip


def split(text):
    """By blanks, but not inside brackets or quotes, as the shell does after quoting."""
    return [
        w.replace('"', "") if w.startswith("hydra") else w
        for w in re.findall(r"(?:[^\s\[{\"]|\[.*?(?:\]|$)|\{.*?\}|\".*?\")+", text)
    ]


@pytest.mark.parametrize("typed", BAD)
def test_a_wrong_word_is_answered_with_the_right_one(typed):
    found = mistakes(split(typed))
    assert re.search(BAD[typed], "\n".join(found), re.S), found


@pytest.mark.parametrize("typed", GOOD)
def test_right_words_pass(typed):
    assert mistakes(split(typed)) == []


@pytest.mark.parametrize(("group", "option"), GROUPS)
def test_every_option_passes_and_is_composed_as_hydra_composes_it(group, option):
    assert mistakes(words(group, option)) == []
    assert ours({group: option}) == hydras([f"{group}={option}"])


def test_presets_are_layered_as_hydra_layers_them():
    for chosen in ({"experiment": "pretrain_glyphs", "debug": "overfit"}, {"debug": "overfit", "augment": "light"},
                   {"callbacks": ["best", "early_stopping"], "logger": []}):  # fmt: skip
        assert ours(chosen) == hydras([f"{group}={kinds.said(option)}" for group, option in chosen.items()])


def test_of_two_presets_the_later_one_chooses_the_group(tmp_path, monkeypatch):
    shutil.copytree(configs.ROOT, tmp_path / "configs")
    text = "# @package _global_\ndefaults:\n  - override /augment: trivial\nseed: 1\n"
    (tmp_path / "configs" / "experiment" / "a.yaml").write_text(text)
    monkeypatch.setattr(configs, "ROOT", tmp_path / "configs")
    forget()
    try:
        assert ours({"experiment": "a", "debug": "overfit"}) == hydras(["experiment=a", "debug=overfit"])
        assert ours({"experiment": "a"}) == hydras(["experiment=a"])
    finally:
        forget()


def forget():
    for cached in (configs.read, configs.groups, configs.defaults, configs.several, configs.everywhere):
        cached.cache_clear()


def ours(chosen):
    config, presets = configs.compose(chosen)
    for body in presets.values():
        config = configs.merged(config, body)
    return config


def hydras(overrides):
    with initialize_config_dir(str(configs.ROOT), version_base="1.3"):
        return OmegaConf.to_container(compose("train", overrides))


@pytest.mark.parametrize("command", help.COMMANDS)
def test_the_commands_of_the_help_are_right(command):
    assert mistakes(shlex.split(command)[2:]) == []


VALUES = "5 -1 1e-3 abc true null [1,2] [a] [[1]] {a:1} {} csv a,b range(1,3) glob(*) choice(1,2) nan ${name}"


def test_mutilated_words_are_answered_not_crashed_on():
    draw = random.Random(0)
    keys = [*configs.groups(), *configs.everywhere()]
    for _ in range(500):
        word = list(draw.choice(["", "", "+", "++", "~"]) + draw.choice(keys) + "=" + draw.choice(VALUES.split()))
        for _ in range(draw.randrange(3)):
            word[draw.randrange(len(word))] = draw.choice(string.punctuation + "aé ")
        assert all(isinstance(told, str) and told for told in mistakes(["".join(word), "seed=1"]))


def test_all_mistakes_are_told_together_and_once():
    found = mistakes(["-m", "seed=0,1", "loss=focal,poly1", "lr=1", "data.resize=foo", "optimizer=adam", "data.flip=7"])
    assert [text.split("\n")[0] for text in found] == ["optimizer=adam", "lr=1", "data.resize=foo", "data.flip=7"]


def test_a_preset_is_held_to_the_same_rules(monkeypatch):
    body = {"trainer": {"max_epoch": 5}, "seed": -1, "loss": {"label_smoothing": 0.1}}
    file = configs.Yaml(configs.ROOT / "experiment/new.yaml", "", "_global_", [{"override /loss": "focal"}], body)
    real = configs.read
    monkeypatch.setattr(configs, "read", lambda name: file if name == "experiment/new" else real(name))
    monkeypatch.setattr(configs, "groups", lambda: {**GROUPED, "experiment": ("new",)})
    found = "\n".join(mistakes(["experiment=new", "loss.gamma=1"]))
    assert re.search(r"experiment/new.yaml: trainer.max_epoch=5\n.*trainer.max_epochs=5", found)
    assert re.search(r"experiment/new.yaml: seed=-1\n.*0 <= x", found)
    assert re.search(r"loss.label_smoothing=0.1\n.*comes with loss=.*cross_entropy", found)
    assert "gamma" not in found


GROUPED = configs.groups()


def test_a_target_outside_the_allowed_ones_is_told(monkeypatch):
    monkeypatch.setattr("src.factory.ALLOWED", ALLOWED - {"torch.optim.AdamW"})
    assert "optimizer._target_=torch.optim.AdamW" in mistakes([])[0]


def test_no_rule_and_no_synonym_is_stale():
    known = {*configs.everywhere(), *configs.keys(configs.compose({})[0])}
    assert set(nearest.SYNONYMS.values()) <= known
    for pattern in rules.RULES:
        assert (
            "_target_" in pattern or "_partial_" in pattern or any(map(re.compile(as_regex(pattern)).fullmatch, known))
        ), pattern


def as_regex(pattern):
    return re.escape(pattern).replace(r"\*", ".*")


def python(*argv):
    return subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


LOADED = (
    "import sys, runpy, atexit; sys.argv = sys.argv[1:]\n"
    "atexit.register(lambda: print('LOADED', [m for m in ('torch', 'hydra') if m in sys.modules]))\n"
    "runpy.run_path('train.py', run_name='__main__')"
)


def test_mistakes_end_with_2_on_one_screen_without_torch():
    done = python("-W", "error", "-c", LOADED, "train.py", "trainr.max_epochs=5", "loss=focall")
    assert done.returncode == 2
    assert "2 mistakes; nothing was run." in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 24
    assert "torch" not in done.stdout


def test_help_fits_the_terminal_and_needs_neither_torch_nor_hydra():
    done = python("-W", "error", "-c", LOADED, "train.py", "seed=1", "--help")
    assert done.returncode == 0
    *page, loaded = done.stdout.splitlines()
    assert loaded == "LOADED []"
    assert max(map(len, page)) <= 100
    for group, option in GROUPS:
        assert re.search(rf"^  {group} .*", done.stdout, re.M)
        assert re.search(rf"[ *]{option}\b", done.stdout)


def test_the_config_is_printed_without_torch():
    done = python("-W", "error", "-c", LOADED, "train.py", "--cfg", "job", "data=folder", "seed=7")
    assert done.returncode == 0, done.stderr
    assert "seed: 7" in done.stdout
    assert "root: ???" in done.stdout
    assert "LOADED ['hydra']" in done.stdout
