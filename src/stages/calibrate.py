"""Fits on val what the chosen model's answers are worth: probabilities, sets, a decision, and what is unfamiliar."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import load_file

from src import folder, world
from src.contracts import ConfigError, Run
from src.stages import probe
from src.stages.predict import measure, predictions, table, tuned
from src.stages.select import HELD_OUT

MOST = 2_000  # training images that others are compared with


def calibrate(run: Run) -> None:
    words, make = run.cfg["calibrate"], run.decisions
    held = _held_out(run)
    if why := _why_not(run, held):
        if run.leader:
            print(f"calibrate: left out, since {why}.")
        return
    index = held.pop("index")
    images, train = make.Images(**held), None
    if words["unfamiliar"] in make.FEATURES:
        network = run.load()
        train = known(run, network)
        features = predictions(run, network, "val", lambda image: network.both(image)[1])[1]
        images = make.Images(**held, features=features)
    if run.leader:
        doubted = run.cfg["data"]["suspects"] == "drop"
        plain, tensors, crossed = make.fit(words, run.task, images, train, run.cfg["seed"], doubted)
        facts = folder.model_json(run.model)
        if "scaling" in plain:
            if run.task.tune:  # a threshold is of the probabilities that are shipped
                run.home.update(tuned=run.task.tune(crossed, images.target))
            run.home.add_metrics(measure(run, "val", crossed, images.target))
            folder.write(run.home.path / "predictions_val.csv", table(run, "val", index, crossed))
        facts |= {"tuned": tuned(run), "calibration": make.save(run.model, plain, tensors)}
        folder.write(run.model / "model.json", json.dumps(facts, indent=1, ensure_ascii=False))
        _tell(plain)
    world.gather(None)  # the other ranks must not look for it before it is there


def known(run: Run, network: Any) -> Any:
    """Images of train with the features by which others are compared with them, no more than a probe had the time to
    look at; on every rank."""
    most = min(MOST, probe.read(run.home).images) if probe.there(run.home) else MOST
    only = probe.sample(len(run.source.splits["train"]), most, run.cfg["seed"])
    _, features, target = predictions(run, network, "train", lambda image: network.both(image)[1], only)
    return run.decisions.Images(torch.zeros(0), target, features)


def carried(run: Run, network: Any) -> dict[str, Any] | None:
    """What was fitted, for the network fitted again, on train and val (`run`)."""
    saved = folder.model_json(run.model).get("calibration")
    if not saved or not run.decisions.needs_features(saved):
        return saved
    train = known(run, network)
    return run.decisions.save(run.model, *run.decisions.carried(saved, run.task, train)) if run.leader else saved


def _held_out(run: Run) -> dict[str, torch.Tensor]:
    if run.task.target not in run.decisions.KINDS or run.cfg["trainer"]["limit_val_batches"] == 0:
        return {}
    file = run.home.path / HELD_OUT
    if not file.is_file():
        raise ConfigError(
            f"stages={run.cfg['stages']}: calibrate needs {file}, which the stage select writes.\n"
            "Add select to the stages; a run whose select was made by an older version must be made again."
        )
    return load_file(file)


def _why_not(run: Run, held: dict[str, torch.Tensor]) -> str:
    if run.cfg["trainer"]["limit_val_batches"] == 0:
        return "trainer.limit_val_batches=0 holds nothing out"
    if not held:
        return f"there is none for targets of the kind {run.task.target}"
    few = run.decisions.FEW
    return f"it takes {few} images of val, and there are {len(held['target'])}" if len(held["target"]) < few else ""


def _tell(plain: dict[str, Any]) -> None:
    told = []
    if scaling := plain.get("scaling"):
        factor = scaling["factor"]
        said = f"T {1 / factor:.3g}" if isinstance(factor, float) else f"{len(factor)} factors and shifts"
        told.append(f"probabilities by {scaling['method']} ({said})" if scaling["method"] != "none" else "")
    if sets := plain.get("sets"):
        own = f", {sets['own']} classes by themselves" if sets["own"] else ""
        told.append(f"sets by {sets['method']} that hold {100 * (1 - sets['alpha']):g} %{own}")
    if "margin" in plain:
        told.append("intervals of ± " + ", ".join(f"{m:.4g}" for m in plain["margin"]))
    if decision := plain.get("decision"):
        cut = f" from {decision['threshold']:.3g} on" if "threshold" in decision else ""
        told.append(f"decision by {decision['method']}{cut}")
    if strange := plain.get("unfamiliar"):
        told.append(f"unfamiliar by {strange['method']}, {100 * strange['false_alarm']:g} % false alarms")
    print(f"calibrate  {plain['images']} images of val: {'; '.join(filter(None, told)) or 'nothing'}")
    for note in plain["notes"]:
        print(f"           {note}")
