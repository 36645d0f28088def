"""Tests a finished run again: python -m src.evaluate RUN_DIR [KEY=VALUE …], on its test images or on others.

  python -m src.evaluate RUN_DIR                                     its own test split
  python -m src.evaluate RUN_DIR data.root=DIR                       other images, laid out as those of the run
  python -m src.evaluate RUN_DIR data=csv data.root=DIR data.table=labels.csv name=night
  python -m src.evaluate RUN_DIR robustness=corruptions|attacks|shifts|all robustness.images=500

Other data: their test split, or all images where they have none of their own; classes go by their names. What was
measured is in RUN_DIR/evaluations/NAME/: metrics.json, predictions.csv, robustness.json.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from src import check, folder, tables
from src.check import configs
from src.check.words import Word, parsed, sorted_out
from src.columns import column
from src.contracts import ConfigError, DataError, Run, Source, Split
from src.doors import opened
from src.world import ALONE

# What beside the data may be said; everything else was decided by the training.
FREE = frozenset(
    """
    data.batch_size data.num_workers data.timeout data.bad_images data.scan_limit data.cache_gb
    trainer.accelerator trainer.precision paths.cache robustness name
    """.split()
)
TRAINING = ("val_size", "test_size", "split_seed", "fold", "folds")  # the division


def option(data: Mapping[str, Any]) -> str:
    """Which yaml of configs/data a run was made with."""
    if (name := configs.option("data", data)) not in configs.groups()["data"]:
        raise ConfigError(
            f"The run read its images with {data['source']['_target_']}, which no yaml in configs/data names.\n"
            "Put that yaml back, or name other data: data=folder data.root=DIR."
        )
    return name


def words(texts: Sequence[str], was: str) -> tuple[list[Word], dict[str, Any]]:
    """-> (the words, what they choose composed with the defaults of train.yaml); raises with all that is wrong."""
    _, texts, wrong = sorted_out(list(texts))
    read = [parsed(text) for text in texts]
    wrong += [word for word in read if isinstance(word, str)]
    said = [word for word in read if isinstance(word, Word)]
    wrong += [f"{word.text}\n  Evaluations are made one at a time." for word in said if word.sweep]
    for word in (word for word in said if word.key in ("data", "robustness")):
        if word.values[0] not in configs.groups()[word.key]:
            wrong.append(f"{word.text}\n  {word.key} has: {', '.join(configs.groups()[word.key])}.")
    if wrong:
        raise ConfigError("\n\n".join(wrong))
    chosen = {"data": was} | {word.key: word.values[0] for word in said if word.key in ("data", "robustness")}
    config, _ = configs.compose(chosen)
    base, source = configs.read("data/base").body, configs.read(f"data/{chosen['data']}").body
    other = {f"data.{key}" for key in set(source) - set(base) - {"source", *TRAINING}} | {"data"}
    for word in said:
        if word.key in FREE | other or word.key.startswith("robustness."):
            wrong += [] if word.group else check.faults(word, config)
        elif configs.lookup(config, word.key) is configs.MISSING and word.key not in configs.groups():
            wrong += check.faults(word, config)
        else:
            free = ", ".join(sorted(FREE | other))
            wrong.append(f"{word.text}\n  It was decided by the training. What may be said here: {free}.")
    if wrong:
        raise ConfigError("\n\n".join(wrong))
    return said, config


def configured(saved: dict[str, Any], said: list[Word], composed: dict[str, Any], was: str) -> dict[str, Any]:
    """The config of the run with these words; and in `elsewhere`, whether they name other images."""
    from omegaconf import OmegaConf

    from src import resume

    values = {word.key: word.values[0] for word in said if not word.group}
    chosen = {word.key: word.values[0] for word in said if word.group}
    elsewhere = {key for key in (*values, *chosen) if key.startswith("data") and key not in FREE}
    data = saved["data"]
    if elsewhere:
        tree, same = configs.tree(f"data/{chosen.get('data', was)}"), chosen.get("data", was) == was
        kept = set(tree) - {"source"} if same else set(configs.read("data/base").body)
        data = {**tree, **{key: value for key, value in data.items() if key in kept}, "test_size": 0}
        data |= {"fold": None} if "fold" in data else {}
    gaps = [f"data.{key}" for key, value in data.items() if value == "???" and f"data.{key}" not in values]
    if gaps:
        raise ConfigError("\n".join(f"{key} has no value. Add {key}=VALUE." for key in gaps))
    cfg = {**composed, **saved, "data": data, "robustness": composed["robustness"]}
    cfg["trainer"] = {**composed["trainer"], **saved["trainer"], **ALONE}
    made = OmegaConf.create(cfg)
    for key, value in values.items():
        OmegaConf.update(made, key, value)
    resume.absolute(made)
    found = OmegaConf.to_container(made, resolve=True)
    assert isinstance(found, dict)
    return {**{str(key): value for key, value in found.items()}, "elsewhere": bool(elsewhere)}


def finished(home: folder.RunFolder) -> dict[str, Any]:
    """The config of a run whose model is there."""
    saved = home.words()
    if "select" not in (done := home.state().get("done", [])) or not (home.path / "model" / "model.json").is_file():
        raise ConfigError(
            f"RUN_DIR={home.path}: the run has no model yet; its stages {', '.join(done) or 'none'} are done.\n"
            f"Finish it: python train.py resume={home.path}"
        )
    return saved


def splits(run: Path, labels: Any, classes: tuple[str, ...]) -> dict[str, Split]:
    """The splits of a run as it wrote them down: so its training images need not be there any more."""
    file, encode, blank = run / "split.csv", labels.encoder(classes), labels.blank(classes)
    parts: dict[str, list[tuple[int, str, tuple[str, ...]]]] = {"train": [], "val": [], "test": []}
    line = 1
    for line, row in enumerate(tables.read(file, ("path", "split", *labels.columns)), start=2):
        if row["split"] not in parts:
            raise tables.damaged(file, line, f"{row['split']!r} is no split")
        parts[row["split"]].append((line, row["path"], tuple(row[column] for column in labels.columns)))
    if lacking := [name for name in ("train", "val") if not parts[name]]:
        raise tables.damaged(file, line, f"it ends without an image of {lacking[0]}")

    def target(line: int, cells: tuple[str, ...]) -> Any:
        try:
            return encode(cells)
        except (KeyError, ValueError) as error:
            raise tables.damaged(file, line, f"{', '.join(cells)!r} is no label of this run") from error

    found = {}
    for name, rows in ((name, rows) for name, rows in parts.items() if rows):
        there = name != "test" or any(any(cells) for *_, cells in rows)
        targets = tuple(target(line, cells) if there else blank for line, _, cells in rows)
        found[name] = Split(tuple(path for _, path, _ in rows), targets, labelled=there)
    return found


def matched(other: Source, classes: tuple[str, ...]) -> tuple[Split, tuple[str, ...]]:
    """The images of other data that are tested, and the classes by which their targets count: those of the run, by
    name; behind them new ones, where the task has open classes."""
    foreign, missing = (sorted(set(a) - set(b)) for a, b in ((other.classes, classes), (classes, other.classes)))
    if (foreign or missing) and not other.labels.open:
        parts = (("does not know", foreign), ("knows, and they have no image of", missing))
        told = "; ".join(f"{what} {len(names)} class(es): {', '.join(names[:10])}" for what, names in parts if names)
        raise DataError(
            f"{other.root}: classes {', '.join(other.classes[:10])}{' …' if len(other.classes) > 10 else ''}.\n"
            f"Of them the run {told}.\n"
            "Name the classes as in the run, and bring images of each; of ROOT/{train,val,test} name the one that is "
            "meant: data.root=ROOT/test."
        )
    classes = (*classes, *foreign) if other.labels.open else classes
    tested = other.splits["test"] if "test" in other.splits else other.splits["train"].joined(other.splits["val"])
    encode = other.labels.encoder(classes)
    if tested.labelled:
        targets = column(encode(other.labels.text(target, other.classes)) for target in tested.targets)
        tested = replace(tested, targets=targets, groups=())
    return tested, classes


def prepared(run: Path, cfg: dict[str, Any], home: folder.RunFolder) -> Run:
    """The Run that stages take, with the model of the run as its network and the images that are to be tested."""
    from src import buffers
    from src.build import equipped, task_of
    from src.data import masks
    from src.data.audit import audit
    from src.data.scan import scan
    from src.factory import LABELS, SOURCE, make_within
    from src.hardware import layout, refuse_impossible
    from src.models.saved import load_model

    refuse_impossible(cfg)
    buffers.folder = Path(cfg["paths"]["cache"])
    network, facts = load_model(run / "model")
    labels, classes, data = make_within(facts["labels"], LABELS), tuple(facts["classes"]), cfg["data"]
    known, found = splits(run, labels, classes), make_within(data["source"], SOURCE)
    if cfg["elsewhere"]:
        tested, classes = matched(found, classes)
    elif "test" not in known:
        raise ConfigError(f"RUN_DIR={run}: the run had no test split.\nName other data: data.root=DIR.")
    else:
        tested = known["test"]
    alone = replace(
        found, classes=classes, splits={"train": tested}, labels=found.labels if tested.labelled else labels
    )
    alone = scan(alone, network.spec.channels, data["bad_images"], Path(cfg["paths"]["cache"]), data["scan_limit"])
    alone = masks.check(alone, data["scan_limit"]) if labels.files and tested.labelled else alone
    if cfg["elsewhere"]:
        refuse_learnt(replace(alone, splits={"test": alone.splits["train"]}), run, cfg)
    source = replace(alone, splits={**known, "test": alone.splits["train"]})
    task = task_of(cfg, source)
    r = equipped(cfg, home, source, audit(alone, 0), task, network.spec, facts, run / "checkpoints")
    return replace(r, load=lambda: load_model(run / "model", *layout(cfg))[0], model=run / "model")


def refuse_learnt(source: Source, run: Path, cfg: Mapping[str, Any]) -> None:
    """Other images of which the run, or one that it began with, has learnt some: told, or refused, by data.leak."""
    from src.data.learnt import elders, learnt

    for elder, word in ({run: f"RUN_DIR={run}"} | elders(cfg)).items():
        places, what = learnt(source, elder, word)
        if places and cfg["data"]["leak"] == "error":
            raise DataError(f"data.leak=error, as in the run: {what}.\nTest on others; these are known to it.")
        if what:
            print(f"LEAK: {what}." if places else what, flush=True)


def evaluate(run_dir: str, texts: Sequence[str]) -> dict[str, float]:
    run = folder.RunFolder(Path(run_dir).expanduser().absolute())
    saved = finished(run)
    said, composed = words(texts, was := option(saved["data"]))
    from src.run import quiet
    from src.stages.robustness import robustness, tests
    from src.stages.test import test

    quiet()
    cfg = configured(saved, said, composed, was)
    name = next((str(w.values[0]) for w in said if w.key == "name"), None) or _named(cfg)
    place = run.path / "evaluations" / name
    where = {"data": cfg["data"]["source"]} if cfg["elsewhere"] else {"data": None}
    home = folder.RunFolder(place)
    if home.state().get("of", where) != where:
        raise ConfigError(f"name={name}: {place} holds an evaluation on other data.\nSet name to another one.")
    shared = not cfg["elsewhere"] and any(word.key == "robustness" for word in said)  # it is the run's, too
    with home.lock(), run.lock() if shared else nullcontext():
        r = prepared(run.path, cfg, home)
        tests(r)
        for old in ("metrics.json", "predictions.csv", "robustness.json"):
            (place / old).unlink(missing_ok=True)
        state = run.state()
        home.update(of=where, words=list(texts), tuned=state.get("tuned", {}), started=time.strftime("%FT%T%z"))
        print(f"run      {run.path}\ndata     {r.source.root}: {len(r.source.splits['test']):,} images", flush=True)
        test(r)
        _tell(home.metrics(), run.metrics())
        robustness(r)
        if shared and (file := place / "robustness.json").is_file():
            folder.write(run.path / "robustness.json", file.read_bytes())
    print(f"in       {place}", flush=True)
    return home.metrics()


def _named(cfg: Mapping[str, Any]) -> str:
    if not cfg["elsewhere"]:
        return "test"
    parts = [Path(str(cfg["data"][key])).stem for key in ("root", "table") if cfg["data"].get(key)]
    return re.sub(r"[^\w.-]+", "_", "-".join(parts)).strip("._-") or "other"


def _tell(found: Mapping[str, float], was: Mapping[str, float]) -> None:
    for key, value in found.items():
        if key.endswith(("/low", "/high", "/images")) or value is None:
            continue
        low, high = found.get(f"{key}/low"), found.get(f"{key}/high")
        bounds = "" if low is None else f"  (95 % interval {low:.4f} – {high:.4f})"
        before = f"  in the run {was[key]:.4f}" if was.get(key) is not None else ""
        print(f"{key:24} {value:.4f}{bounds}{before}")


def main() -> int:
    if len(sys.argv) < 2 or {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return 0 if len(sys.argv) > 1 else 2

    def work() -> None:
        evaluate(sys.argv[1], sys.argv[2:])

    return opened(work)


if __name__ == "__main__":
    sys.exit(main())
