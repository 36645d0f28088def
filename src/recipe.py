"""What is decided for the user: (facts, config) -> overrides that the user could have typed, each with its reason.

Pure: it reads no file and no clock. It goes by declared facts (family, counts, what the probe measured), never by names
of networks or data sets. The constants were raced on development data (benchmarks/race.py), or say where they are from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from src import halving, length
from src.facts import Facts, Probed


@dataclass(frozen=True)
class Decision:
    key: str
    value: Any
    reason: str

    @property
    def override(self) -> str:
        """As it is typed."""
        return f"{self.key}={_typed(self.value)}"


@dataclass(frozen=True)
class Family:
    lr: float  # of the head
    body: float  # the backbone's learning rate, as a part of the head's
    stem: float  # that of its first layer, likewise
    weight_decay: float
    drop_path: float


FAMILIES = {
    "batchnorm": Family(lr=5e-4, body=1.0, stem=0.3, weight_decay=0.02, drop_path=0.0),
    "attention": Family(lr=1e-3, body=0.3, stem=0.1, weight_decay=0.05, drop_path=0.1),
    "other": Family(lr=1e-3, body=0.3, stem=0.1, weight_decay=0.05, drop_path=0.1),
}
ADAMW = 1e-3  # the learning rate of its yaml, with which those of the other optimizers' yamls go
OWN_STATISTICS = 1e-3  # the learning rate where the batches are normalised by themselves, or nothing is learnt yet
DECODER = 2e-3  # of a new decoder of masks, raced: 89.4 against 87.9 % miou at 5e-4 on cells, 92.8 against 53.6 (3e-3)
GENTLE = 0.2  # times the learning rate, where classes are to be told apart that are not there to learn from (see _rate)
SETTLES = 600  # updates from which BatchNorm learns better statistics than it was given
SHORT = 5  # seconds of fitting that are not worth it
TECHNIQUES = ("finetune", "loss", "optimizer", "scheduler", "augment")
RATES = ("optimizer.lr", "finetune.body", "finetune.stem")
NAMES = {"batchnorm": "a convnet with BatchNorm", "attention": "a network with attention", "other": "without BatchNorm"}
FLIP = 0.04  # of mirrored images, the loss above which mirroring changes the meaning; places: x 0.25, masks: x 2.5
RARE = 10  # images of the most frequent class for one of the rarest
FEW = 2.25  # images that may be lost by chance: 1.5 standard errors of a count
SWEEP = [1, 0.5, 2]  # times the learning rate
REFIT = 50  # images a class below which those of val are worth a second fit
GREY = 0.10  # likewise without colours


def plan(facts: Facts, cfg: Mapping[str, Any], given: Collection[str]) -> list[Decision]:
    """All decisions in the order of the yaml. Those on `given` keys are left out: the user has decided them."""
    alone = "" if "stages" in given and "fit" in cfg["stages"] else probe_alone(facts, cfg)
    made = [*_input(facts), *([] if alone else _what(facts, cfg, given)), *_finish(facts, cfg, alone)]
    return [d for d in made if not _given(d.key, given)]


def _given(key: str, given: Collection[str]) -> bool:
    """Whether the user named this key, or chose the technique that it belongs to (`loss=focal` for its smoothing; but
    `data=folder` says nothing of `data.flip`, and `optimizer=sgd` and `finetune=llrd` leave their rates open)."""
    chosen = {g for g in given if "." in g or (g in TECHNIQUES and key not in RATES)}
    return key in given or any(key.startswith(f"{g}.") for g in chosen)


def _input(facts: Facts) -> Iterator[Decision]:
    if (one := facts.chosen) is not None:
        knn = "" if one.knn is None else f", {100 * one.knn:.1f} % by k-NN"
        beside = f"; fitted side by side with {facts.rivals - 1} more" if facts.rivals > 1 else ""
        told = f"network {facts.place}: {100 * one.score:.1f} % held out by the probe{knn}{beside}"
        yield Decision("model.name", one.name, told)
        yield Decision("model.weights", one.weights, "those of this candidate")
    if (probed := facts.probed) is None:
        return
    if probed.noise is not None:
        left = f"the likeliest {probed.wrong:,} are not learnt" if probed.wrong else "too few to leave any out"
        told = f"about {100 * probed.noise:.0f} % wrong labels: {left}"
        yield Decision("data.suspects", "drop" if probed.wrong else "keep", told)
    if len(probed.resize) > 1:
        best = max(probed.resize, key=lambda policy: probed.resize[policy])
        kept = best != "squash" and probed.resize["squash"] >= probed.resize[best] - 2 * _error(probed)
        scores = ", ".join(f"{policy} {100 * score:.1f}" for policy, score in probed.resize.items())
        choice, why = ("squash", "cuts nothing off, and is within two standard errors") if kept else (best, "the best")
        yield Decision("data.resize", choice, f"probe on {probed.asked} images: {scores} %; {why}")
    if probed.mirrored is not None:
        luck = -probed.mirrored * probed.asked < FEW and not facts.geometric  # images
        limit = FLIP * (0.25 if facts.geometric else 2.5 if facts.dense else 1)
        flip = 0.5 if luck or probed.mirrored > -limit else 0.0
        meaning = "mirrored images keep their meaning" if flip else "mirroring changes what is seen"
        yield Decision("data.flip", flip, f"the probe on mirrored images: {_points(probed.mirrored)}; {meaning}")


def _what(facts: Facts, cfg: Mapping[str, Any], given: Collection[str]) -> Iterator[Decision]:
    family, name = FAMILIES[facts.family], NAMES[facts.family]
    epochs, why, size = cfg["trainer"]["max_epochs"], "", cfg["data"]["batch_size"]
    if not _given("trainer.max_epochs", given):
        epochs, why = length.epochs(facts, size if _given("data.batch_size", given) else None, cfg["trainer"])
    if facts.budget is not None:
        seconds = length.fit_seconds(facts, facts.budget) / fits(facts, cfg, given)
        possible = length.possible(facts, facts.budget, seconds)
        if possible < length.passes(facts, epochs, cfg["trainer"]["max_steps"]):
            epochs, why = possible, f"what {seconds:.0f} s of fitting are expected to allow"
        yield Decision("callbacks.deadline.seconds", round(seconds, 1), "what the other stages leave of the budget")
    if not _given("trainer.max_epochs", given):
        yield Decision("trainer.max_epochs", epochs, why)
    if not _given("data.batch_size", given):
        size, why = length.batch_size(facts, epochs, cfg["trainer"])
        yield Decision("data.batch_size", size, why)
    linear = cfg["model"].get("head", "linear") in ("linear", "stages")
    if facts.probed and linear and not facts.dense:
        yield Decision("start", "probe", "the head that the probe solved: the fine-tune begins where the probe ends")
    whole = not _given("finetune", given)
    layered = (whole or cfg["finetune"]["_target_"].endswith(".LLRD")) and facts.ordered and facts.pretrained
    if layered and whole:
        yield Decision("finetune", "llrd", "all layers learn, the first ones slowest")
    updates = length.updates(facts, size, epochs, cfg["trainer"])
    settles = size >= 16 and updates >= SETTLES
    if "batchnorm" in cfg["model"] and facts.family == "batchnorm" and facts.pretrained:
        few = "a short run would only replace good statistics by those of a few distorted images"
        why = f"{updates:,} updates: {'so many can learn statistics of their own' if settles else few}"
        yield Decision("model.batchnorm", "train" if settles else "frozen", why)
    lr = _rate(facts, layered, settles)
    head = DECODER if facts.dense and layered else lr
    if layered:
        part = lr / head
        yield Decision("finetune.body", round(family.body * part, 4), f"{name}: the backbone's part of the head's rate")
        yield Decision("finetune.stem", round(family.stem * part, 4), f"{name}: the first layer's part of it")
    new = ", a new decoder" if head != lr else ", as this finetune asks" if facts.rate else ""
    yield from _optimizer(facts, cfg, given, head, f"{name}, {updates:,} updates in all{new}")
    if "drop_path_rate" in cfg["model"] and family.drop_path and facts.images < 50_000:
        yield Decision("model.drop_path_rate", family.drop_path, f"{name}, {facts.images:,} images")
    if not _given("augment", given):
        yield from _augment(facts, cfg["data"], given)
    if cfg["loss"]["_target_"].endswith(".CrossEntropy"):
        yield Decision("loss.label_smoothing", 0.1, "the usual 0.1: targets of cropped images are not certain")


def _optimizer(
    facts: Facts, cfg: Mapping[str, Any], given: Collection[str], head: float, why: str
) -> Iterator[Decision]:
    """AdamW at this rate; another optimizer at its yaml's, by as much as AdamW's is changed."""
    if not _given("optimizer", given):
        yield Decision("optimizer.lr", head, f"AdamW, {why}")
        yield Decision("optimizer.weight_decay", FAMILIES[facts.family].weight_decay, NAMES[facts.family])
    elif own := cfg["optimizer"].get("lr"):
        reason = f"its {own:g}, times what AdamW's {ADAMW:g} is given: {why}"
        yield Decision("optimizer.lr", float(f"{own * head / ADAMW:.3g}"), reason)


def _rate(facts: Facts, layered: bool, settles: bool) -> float:
    """Of the head, or of all, where the policy knows no order of layers. Raced for embeddings (MobileNetV2 at 96 px, 8
    epochs, half of 10 classes are new, 34 images of each other one): recall at 1 and MAP@R of what is shipped are, on
    clothing and signs, seed 0, 70.8 and 32.1, 92.4 and 42.5 by proxy-anchor at 5e-4 in batches of 8; 78.6 and 32.3,
    87.0 and 54.0 at 1e-4 in batches of 32; 78.2 and 40.7, 93.0 and 57.4 by ArcFace so; frozen 73.6 and 28.8, 86.0 and
    44.2."""
    family = FAMILIES[facts.family]
    if facts.rate:
        return facts.rate
    if not facts.pretrained:
        return OWN_STATISTICS
    own = facts.family == "batchnorm" and settles
    lr = OWN_STATISTICS if own else family.lr if layered else family.lr * family.body
    return lr * GENTLE if facts.embeds else lr


def _augment(facts: Facts, data: Mapping[str, Any], given: Collection[str]) -> list[Decision]:
    grey = facts.probed.grey if facts.probed else None
    if not data["colour"]:
        return [Decision("augment", "none" if facts.geometric else "light", "data.colour=false: no colour changes")]
    if grey is not None and grey < -GREY:
        told = f"no colour changes: without colours the probe has {_points(grey)}"
        return [Decision("augment", "none" if facts.geometric else "light", told)]
    if facts.dense:
        reason = "masks move with their images; what turns or shears is left out"
        return [Decision("augment", "jitter" if facts.channels in (1, 3) else "light", reason)]
    if facts.geometric:
        reason = "where, how large or which way round something is may be the target: only the light changes"
        if facts.channels not in (1, 3):
            return [Decision("augment", "none", reason)]
        leaves = {"flip": "flip", "crop_scale": "scale"}
        borne = [word for word in leaves if f"data.{word}" in given]
        why = "data.{} says that the target bears it"
        said = [Decision(f"augment.{leaves[word]}", data[word], why.format(word)) for word in borne]
        return [Decision("augment", "colour", reason), *said]
    if facts.channels not in (1, 3):
        return [Decision("augment", "light", f"random colours are not known for {facts.channels} channels")]
    if facts.probed and facts.probed.turned:  # raced: docs/results.md, which way up
        turned, blind = facts.probed.turned
        if turned < blind - 2 * math.sqrt(blind * (1 - blind) / facts.probed.asked):
            told = f"upside down the probe has {100 * turned:.1f} %, less than a blind answer ({100 * blind:.1f} %)"
            return [Decision("augment", "jitter", f"{told}: which way up images are is their class; none is turned")]
    if facts.probed and (seen := facts.probed.shaken) and seen.lost:
        told = f"turned, sheared and recoloured, the probe has {100 * seen.trivial:.1f} %, not {100 * seen.still:.1f}"
        still = Decision("augment", "jitter", f"{told}: too little is left; none is turned or sheared")
        whole = [] if "data.crop_scale" in given else [Decision("augment.scale", None, "nor is any cropped")]
        return [still, *whole]
    asked = "" if grey is None else f": without colours the probe has {_points(grey)}"
    return [Decision("augment", "trivial", f"nothing speaks against random colours and shapes{asked}")]


def _finish(facts: Facts, cfg: Mapping[str, Any], alone: str) -> Iterator[Decision]:
    if facts.device == "gpu" and facts.bf16:
        yield Decision("trainer.precision", "bf16-mixed", "this GPU computes in bf16")
    if facts.imbalance > RARE and cfg["task"]["monitor"] == "val/acc":
        reason = f"{max(facts.counts)} : {min(facts.counts)} images a class; accuracy alone would forget the rare ones"
        yield Decision("task.monitor", "val/balanced_acc", reason)
    if alone:
        yield Decision("select", "probe", alone)
        yield Decision("stages", [s for s in cfg["stages"] if s != "fit"], alone)
    else:
        yield Decision("select", "auto", "the best on val of all candidates, where it is better beyond chance")
        if cfg["recipe"] == "best":
            yield Decision("sweep", SWEEP, "recipe=best: two learning rates to the end, and their average")
        if refits(facts, cfg):
            few = f"{facts.each:.3g} images a class" if facts.counts else f"{facts.images} training images"
            reason = f"{few}: once chosen, the {facts.val} of val are worth a second fit"
            yield Decision("refit", "all", reason if cfg["recipe"] != "best" else "recipe=best: val is learnt, too")


def refits(facts: Facts, cfg: Mapping[str, Any]) -> bool:
    """Raced: with 4, 17 and 34 images a class to train on, a second fit with those of val brings 4.6, 2.3 and 0.4
    points (means of three sets and seeds), and the closing head alone, solved with them, 1.8, 0.7 and 0.5."""
    return (facts.each < REFIT or cfg["recipe"] == "best") and facts.val > 0 and not facts.dense


def fits(facts: Facts, cfg: Mapping[str, Any], given: Collection[str]) -> float:
    """How many times the fit is made: with several networks at first; at two rates, after a start of a third; then
    again, with val's images, too."""
    sweeps = len(cfg["sweep"]) > 1 if "sweep" in given else cfg["recipe"] == "best"
    again = cfg["refit"] == "all" if "refit" in given else refits(facts, cfg)
    return (2.2 if sweeps else 1.0) * (2.2 if again else 1.0) + halving.cost(facts.rivals) - 1


def probe_alone(facts: Facts, cfg: Mapping[str, Any]) -> str:
    """Why nothing is fine-tuned, or ''."""
    if cfg["recipe"] == "probe":
        return "recipe=probe ends with the probe"
    short = facts.budget is not None and facts.probed is not None and length.fit_seconds(facts, facts.budget) < SHORT
    return f"the budget leaves less than {SHORT} s to fit in" if short else ""


def _error(probed: Probed) -> float:
    """One standard error of the best score."""
    p = max(probed.resize.values())
    return math.sqrt(max(p * (1 - p), 1e-4) / max(probed.asked, 1))


def _points(change: float) -> str:
    return f"{100 * change:+.1f} points"


def _typed(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str) and not re.fullmatch(r"[\w./-]+", value):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'  # a path may have spaces
    return f"{value:g}" if isinstance(value, float) else str(value)
