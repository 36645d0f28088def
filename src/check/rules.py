"""What values make sense: by the type of the yaml's own value, and by one table of rules for what a type cannot say."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Any

from src.check.kinds import (
    BATCHES,
    BOOL,
    FRACTION,
    NODE,
    NULL,
    PRECISIONS,
    TEXT,
    Rule,
    is_whole,
    number,
    one_of,
    pair,
    real,
    said,
    whole,
)
from src.factory import allowed

# Dotted patterns; the first that matches decides. Keys without a rule are held to the type of their yaml value.
RULES: dict[str, Rule] = {
    "*_target_": Rule("a name that src/factory.py allows", allowed),
    "*_partial_": Rule("what the yaml says: the template builds on it", lambda v: False),
    "name": Rule("a folder's name, or a/b", lambda v: TEXT.holds(v) and v[0] != "/" and ".." not in v.split("/")),
    "seed": whole("0 <= x"),
    "recipe": one_of("off", "probe", "fast", "auto", "best"),
    "budget": Rule(
        "a time, as 90s, 10m or 2h", lambda v: isinstance(v, str) and re.fullmatch(r"\d+(\.\d+)?[smh]", v) is not None
    )
    | NULL,
    "start": one_of("random", "probe"),
    "sweep": Rule(
        "a list of different factors on the learning rate, of which the first is 1",
        lambda v: _is_list(v) and v[:1] == [1] and all(real(x) and x > 0 for x in v) and len(set(v)) == len(v),
    ),
    "probe.head": one_of("lda", "ridge", "logistic", "whitened", None, note=" (which of them, depends on the task)"),
    "probe.strength": number("0 < x") | NULL,
    "probe.view": one_of("last", "stages", None),
    "refit": one_of("none", "head", "all"),
    "select": Rule(
        "auto, or a candidate: best | last | ema | soup | rival | probe, then perhaps +closing or +blend, then +mirror",
        lambda v: (
            isinstance(v, str)
            and re.fullmatch(r"auto|(probe|(best|last|ema|soup|rival)(\+closing|\+blend)?)(\+mirror)?", v) is not None
        ),
    ),
    "run_dir": TEXT | NULL,
    "resume": Rule("a run folder, or auto", TEXT.holds) | NULL,
    "init_from": Rule("a run folder", TEXT.holds) | NULL,
    "data.batch_size": whole("1 <= x"),
    "data.per_class": whole("1 <= x"),
    "data.sampler": one_of("shuffled", "balanced", "sqrt", "group"),
    "data.num_workers": whole("0 <= x"),
    "data.timeout": number("0 <= x"),
    "data.leak": one_of("warn", "error", "drop"),
    "data.scan_limit": whole("1 <= x"),
    "data.cache_gb": number("0 <= x"),
    "data.split_seed": whole("0 <= x"),
    "data.fold": whole("0 <= x") | NULL,
    "data.folds": whole("2 <= x"),
    "data.columns.target": TEXT | Rule("a list of columns", lambda v: _is_list(v) and v != []) | NULL,
    **{
        f"data.{key}": TEXT | NULL
        for key in "group time suffix folder test_table test_folder columns.image shards.*".split()
    },
    "data.classes": Rule("a list of names", lambda v: _is_list(v) and v != []) | NULL,
    "data.count": whole("1 <= x"),
    "data.bad_images": one_of("error", "skip"),
    "data.resize": one_of("crop", "squash", "pad"),
    "data.progressive": number("0 < x < 1") | NULL,
    "data.flip": number("0 <= x <= 1"),
    "augment.colour": BOOL,
    "data.crop_scale": pair("0 < x <= 1"),
    "data.*_size": number("0 <= x < 1"),
    "model.name": TEXT,
    "model.weights": Rule("a file", TEXT.holds) | NULL,
    "model.candidates": Rule(
        "a list of timm's names, or a mapping from them to files of weights",
        lambda v: (_is_list(v) and len(v) > 0) or (isinstance(v, dict) and len(v) > 0),
    )
    | NULL,
    "model.image_size": whole("1 <= x") | NULL,
    "model.in_chans": whole("1 <= x") | NULL,
    "model.head": one_of("linear", "stages", "mlp", "cosine", "bnneck"),
    "model.head_scale": number("0 < x") | NULL,
    "model.pool": one_of("default", "avg", "max", "catavgmax", "gem"),
    "model.batchnorm": one_of("train", "frozen"),
    "model.drop*_rate": number("0 <= x < 1"),
    "finetune.until": TEXT | number("0 <= x <= 1"),
    "finetune.stem": number("0 < x <= 1"),
    "finetune.body": number("0 < x <= 1"),
    "finetune.stage": whole("0 <= x"),
    "finetune.layers": TEXT,
    "finetune.rank": whole("1 <= x"),
    "finetune.alpha": number("0 < x"),
    "loss.label_smoothing": number("0 <= x < 1"),
    "loss.gamma": number("0 <= x"),
    "loss.q": number("0 < x <= 1"),
    "loss.weights": one_of("none", "frequency"),
    "loss.negative": number("0 <= x"),
    "loss.positive": number("0 <= x"),
    "loss.margin": number("0 <= x < 1"),
    "loss.delta": number("0 < x"),
    "loss.balance": one_of("fixed", "uncertainty"),
    "loss.alpha": number("0 < x"),
    "loss.scale": number("0 < x"),
    "loss.rate": number("0 < x"),
    "loss.temperature": number("0 < x"),
    "loss.quantiles": Rule("rising levels between 0 and 1, with 0.5 inside, as [0.05,0.5,0.95]", lambda v: _levels(v)),
    "loss.interval": number("0 < x < 1"),
    "loss.weight": number("0 <= x"),
    "loss.class_weights": one_of("none", "inverse", "effective", "auto"),
    "loss.beta": number("0 <= x") | NULL,
    "loss.floor": number("x < 0"),
    "loss.tau": number("0 <= x"),
    "loss.strength": number("0 <= x"),
    "loss.memory": number("0 <= x < 1"),
    "mix.*alpha": number("0 < x"),
    "mix.probability": number("0 < x <= 1"),
    "mix.cut": number("0 < x < 1"),
    "mix.off_epochs": whole("0 <= x"),
    "penalty.alpha": number("0 <= x"),
    "penalty.beta": number("0 <= x"),
    "distill.alpha": number("0 < x <= 1"),
    "distill.temperature": number("0 < x") | NULL,
    "distill.teacher.*": TEXT,
    "robustness.images": whole("1 <= x"),
    "robustness.kinds": Rule("a list of corruptions", lambda v: _is_list(v) and v != []) | NULL,
    "robustness.severities": Rule("a list of 1 … 5", lambda v: _are(v, whole("1 <= x <= 5"))),
    "robustness.pixels": Rule("a list of whole numbers, each 1 <= x", lambda v: _are(v, whole("1 <= x"))),
    "robustness.degrees": Rule("a list of numbers, each 0 < x < 90", lambda v: _are(v, number("0 < x < 90"))),
    "robustness.eps": Rule("a list of numbers or fractions, as [4/255]", lambda v: _are(v, number("0 < x") | FRACTION)),
    "robustness.norm": one_of("linf", "l2"),
    **{f"robustness.{key}": whole("1 <= x") for key in ("steps", "restarts", "iterations", "queries")},
    "adversary.eps": number("0 <= x") | FRACTION,
    "adversary.steps": whole("1 <= x"),
    "adversary.norm": one_of("linf", "l2"),
    "adversary.step": number("0 < x") | NULL,
    "loss.ce": number("0 <= x"),
    "loss.dice": number("0 <= x"),
    "loss.focal": number("0 <= x"),
    "loss.lovasz": number("0 <= x"),
    "task.spread": Rule("what the yaml says: the loss decides it (loss.quantiles, loss.interval)", lambda v: False),
    "task.labels.values": Rule("a mapping of classes to values", lambda v: isinstance(v, dict) and v != {}) | NULL,
    "task.labels.ignore": whole("0 <= x") | NULL,
    "task.labels.stray": one_of("error", "nearest", "ignore"),
    "task.labels.apart": one_of("auto", True, False),
    "task.dimensions": whole("1 <= x") | NULL,
    "task.separator": TEXT,
    "task.heads": Rule(
        "a mapping of columns to multiclass | multilabel | regression | ordinal, or to {kind: …}",
        lambda v: isinstance(v, dict) and v != {},
    ),
    "task.labels.heads": Rule("what task.heads says: set that", lambda v: False),
    "task.labels.order": Rule("a list of levels, from low to high", lambda v: _is_list(v) and len(v) > 1) | NULL,
    "optimizer.lr": number("0 < x"),
    "optimizer.weight_decay": number("0 <= x"),
    "optimizer.momentum": number("0 <= x < 1"),
    "optimizer.betas": pair("0 <= x < 1", rising=False),
    "optimizer.rho": number("0 < x"),
    "optimizer.perturb": one_of("all", "norm"),
    "optimizer.fused": BOOL | NULL,
    "scheduler.warmup": number("0 <= x < 1"),
    "scheduler.shape.power": number("0 < x"),
    "scheduler.shape.decay": number("0 < x <= 1"),
    "scheduler.shape.factor": number("0 < x < 1"),
    "scheduler.shape.milestones": Rule(
        "rising parts of the run, each 0 < x < 1",
        lambda v: _is_list(v) and all(real(x) and 0 < x < 1 for x in v) and v == sorted(set(v)),
    ),
    "augment.scale": pair("0 < x <= 1") | NULL,
    "augment.ratio": pair("0 < x"),
    "augment.flip": number("0 <= x <= 1"),
    "augment.erase": number("0 <= x <= 1"),
    "augment.policy": NODE | NULL | one_of("auto"),
    "augment.policy.hue": number("0 <= x <= 0.5"),
    "augment.policy.brightness": number("0 <= x"),
    "augment.policy.contrast": number("0 <= x"),
    "augment.policy.saturation": number("0 <= x"),
    "augment.policy.num_ops": whole("0 <= x"),
    "augment.policy.magnitude": whole("0 <= x <= 30"),
    "augment.policy.jitter": number("0 <= x"),
    "augment.policy.severity": whole("1 <= x <= 10"),
    "augment.policy.mixture_width": whole("1 <= x"),
    "augment.policy.chain_depth": whole("1 <= x") | one_of(-1, note=" (1 to 3, by chance)"),
    "augment.policy.severities": pair("1 <= x <= 5"),
    "augment.policy.probability": number("0 < x <= 1"),
    "augment.policy.alpha": number("0 < x"),
    "calibrate.scaling": one_of("auto", "none", "temperature", "vector"),
    "calibrate.sets": one_of("none", "lac", "aps", "raps"),
    "calibrate.alpha": number("0 < x < 1"),
    "calibrate.unfamiliar": one_of("none", "energy", "mahalanobis", "knn"),
    "calibrate.false_alarm": number("0 < x < 1"),
    "calibrate.decision": one_of("none", "f1", "precision", "cost"),
    "calibrate.precision": number("0 < x < 1"),
    "calibrate.cost": Rule(
        "rows of numbers, as [[0,1],[10,0]]", lambda v: _is_list(v) and v != [] and all(map(_numbers, v))
    )
    | NULL,
    "callbacks.deadline.seconds": number("0 < x") | NULL,
    "callbacks.ema.decay": number("0 <= x < 1") | NULL,
    "callbacks.ema.memory": number("0 < x <= 1") | NULL,
    "callbacks.ema.last": number("0 < x <= 1") | NULL,
    "callbacks.last.every_minutes": number("0 < x") | NULL,
    "callbacks.last.every_n_train_steps": whole("1 <= x") | NULL,
    "callbacks.image_grid.images": whole("1 <= x"),
    "callbacks.early_stopping.patience": whole("0 <= x"),
    "callbacks.progress.every_seconds": number("0 <= x"),
    "callbacks.progress.bar": one_of("auto", True, False),
    "callbacks.lr_monitor.logging_interval": one_of("step", "epoch", None),
    "callbacks.best.save_top_k": whole("-1 <= x"),
    "*.mode": one_of("min", "max"),
    "trainer.accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.devices": Rule(
        "how many (2), which ([0,2]), or auto",
        lambda v: v in ("auto", -1) or (is_whole(v) and v > 0) or (_is_list(v) and v != [] and all(map(is_whole, v))),
    ),
    "trainer.num_nodes": whole("1 <= x"),
    "trainer.strategy": TEXT | NODE,
    "trainer.strategy.timeout.minutes": number("0 < x"),
    "trainer.precision": one_of(*PRECISIONS, 32, 16, 64),
    "trainer.matmul_precision": one_of("highest", "high", "medium"),
    "trainer.compile": BOOL | one_of("auto", "inductor", "aot_eager", "eager"),
    "trainer.effective_batch": whole("1 <= x") | NULL,
    "trainer.max_epochs": whole("1 <= x") | one_of(-1, None, note=" (no limit)"),
    "trainer.min_epochs": whole("0 <= x") | NULL,
    "trainer.max_steps": whole("1 <= x") | one_of(-1, note=" (no limit)"),
    "trainer.min_steps": whole("0 <= x") | NULL,
    "trainer.max_time": Rule(
        "DD:HH:MM:SS", lambda v: isinstance(v, str) and re.fullmatch(r"\d\d(:\d\d){3}", v) is not None
    )
    | NULL,
    "trainer.limit_val_batches": whole("0 <= x") | number("0 < x <= 1") | NULL,  # 0: no validation
    "trainer.limit_*_batches": BATCHES,
    "trainer.val_check_interval": BATCHES,
    "trainer.overfit_batches": whole("0 <= x") | number("0 <= x <= 1"),
    "trainer.fast_dev_run": BOOL | whole("1 <= x"),
    "trainer.check_val_every_n_epoch": whole("1 <= x") | NULL,
    "trainer.num_sanity_val_steps": whole("-1 <= x"),
    "trainer.log_every_n_steps": whole("1 <= x"),
    "trainer.accumulate_grad_batches": whole("1 <= x"),
    "trainer.gradient_clip_val": number("0 <= x") | NULL,
    "trainer.gradient_clip_algorithm": one_of("norm", "value", "agc"),
    "trainer.deterministic": BOOL | one_of("warn", None),
    "trainer.benchmark": BOOL | NULL,
    "trainer.profiler": one_of("simple", "advanced", "pytorch", None),
    "trainer.reload_dataloaders_every_n_epochs": whole("0 <= x"),
}


def rule(key: str, default: Any) -> Rule:
    """The rule of a key whose yaml value is `default`."""
    if key == "stages":
        known = [*default, "find_lr"]
        return Rule(f"a list of {', '.join(known)}", lambda v: isinstance(v, list) and all(x in known for x in v))
    key = re.sub(r"^loss\.losses\.\w+\.(?!_)", "loss.", key)  # a loss in a sum of several is as it is alone
    for pattern, found in RULES.items():
        if fnmatchcase(key, pattern):
            return found
    return _of_type(default)


def _of_type(default: Any) -> Rule:
    if isinstance(default, bool):
        return BOOL
    if isinstance(default, int):
        return Rule("a whole number", is_whole)
    if isinstance(default, float):
        return Rule("a number", real)
    if isinstance(default, str):
        return Rule("text (digits as text are quoted twice: 'key=\"7\"')", lambda v: isinstance(v, str))
    if isinstance(default, list):
        return _like(default)
    return Rule("anything", lambda v: True)


def _like(default: list[Any]) -> Rule:
    if default and all(map(real, default)):
        n = len(default)
        return Rule(
            f"a list of {n} numbers, as {said(default)}", lambda v: _is_list(v) and len(v) == n and all(map(real, v))
        )
    return Rule(f"a list, as {said(default)}", _is_list)


def _levels(value: Any) -> bool:
    if not (_is_list(value) and all(real(x) and 0 < x < 1 for x in value) and 0.5 in value[1:-1]):
        return False
    return sorted(set(value)) == value


def _are(values: Any, each: Rule) -> bool:
    return _is_list(values) and values != [] and all(map(each.holds, values))


def _numbers(value: Any) -> bool:
    return _is_list(value) and value != [] and all(map(real, value))


def _is_list(value: Any) -> bool:
    return isinstance(value, list)
