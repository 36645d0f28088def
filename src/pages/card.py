"""The model card: model/README.md in the form of the Hugging Face hub, with what the run knows and nothing else."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from src.contracts import Run
from src.folder import measured, model_json
from src.pages.facts import by_label
from src.pages.headline import again_on_val

MOST = 50  # classes that are listed
PIPELINE = {"class": "image-classification", "labels": "image-classification", "mask": "image-segmentation"}
PIPELINE |= {"identity": "image-feature-extraction"}
METRICS = {"acc": "accuracy", "f1_macro": "f1", "auroc": "roc_auc", "mae": "mae", "miou": "mean_iou"}

SETS = (("sets", "sets", "set_size", "classes on average"), ("intervals", "margin", "interval_width", "wide"))


def card(run: Run) -> str:
    facts = model_json(run.home.path / "model")
    parts = [
        front(run, facts),
        f"# {plain(run.cfg['name'])}",
        "\n".join(_network(run, facts)),
        "## Data\n\n" + "\n".join(_data(run)),
        "## Numbers\n\n" + "\n".join(_numbers(run)),
        "## What its answers are worth\n\n" + "\n".join(_worth(run, facts)),
        "## What it is fed\n\n" + "\n".join(_input(facts)),
        "## Limits\n\n" + "\n".join(_limits(run)),
        "## Use\n\n" + _use(facts),
    ]
    return "\n\n".join(parts) + "\n"


def plain(text: Any, most: int = 80) -> str:
    """As Markdown shows it, whatever it is: no line of its own, no HTML, no markup; short."""
    line = "".join(c if c.isprintable() else " " for c in str(text))
    line = line if len(line) <= most else f"{line[: most - 1]}…"
    return re.sub(r"([\\`*_\[\]|~#$!])", r"\\\1", html.escape(line, quote=False))


def front(run: Run, facts: Mapping[str, Any]) -> str:
    """YAML, of which JSON is a part: whatever a name holds, it stays one."""
    base, licence = origin(run, facts)
    names = [name.removeprefix("test/") for name in run.home.metrics()]
    said = {
        "license": licence,
        "base_model": base,
        "pipeline_tag": PIPELINE.get(run.task.target),
        "tags": ["timm", "pytorch"],
        "metrics": list(dict.fromkeys(METRICS[name] for name in names if name in METRICS)),
    }
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in said.items() if value), "---"])


def origin(run: Run, facts: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Where the weights came from on the hub, and their licence; None where that is not known."""
    words, known = run.cfg["model"], facts.get("timm") or {}
    hub, name = known.get("hub") or "", words.get("name") or ""
    elsewhere = run.cfg["init_from"] or words.get("weights") or not words.get("pretrained")
    if elsewhere or not f"{hub.rpartition('/')[2]}.".startswith(f"{name}."):
        return None, None
    return hub, known.get("license")


def _network(run: Run, facts: Mapping[str, Any]) -> list[str]:
    base, licence = origin(run, facts)
    words, chosen, state = run.cfg["model"], facts.get("chosen", {}), run.home.state()
    came = f"began with the weights of {plain(base)}" if base else "began with random weights"
    if not base and (run.cfg["init_from"] or words.get("weights") or words.get("pretrained")):
        file = run.cfg["init_from"] or words.get("weights")
        came = (
            f"began with other weights{f' ({plain(Path(file).name)})' if file else ''}, whose licence is not known here"
        )
    elif base:
        came += f", whose licence timm gives as {plain(licence)}" if licence else ", whose licence timm does not name"
    read = "the pixels of all stages" if facts["dense"] else "all stages, pooled"
    head = read if facts["stages"] else "the pixels of the last features" if facts["dense"] else "the last features"
    asked = (
        f"task {_name(run.cfg['task'])}, finetune {_name(run.cfg['finetune'])}, {_epochs(run)}seed {run.cfg['seed']}"
    )
    made = f"was fine-tuned on the images below ({asked})"
    if str(chosen.get("candidate")).startswith("probe"):
        made = f"was kept as it was: only its head learnt the images below (task {_name(run.cfg['task'])})"
    lines = [
        f"A {plain(words.get('name') or words['_target_'])} that {came}, and {made}.",
        "",
        f"- its {facts['head']} head reads {head}; {facts['outputs']} outputs",
        f"- chosen on val: {plain(chosen.get('candidate', '?'))}"
        + (f"; then {again} on train and val" if (again := again_on_val(chosen)) else ""),
    ]
    lines += ["- it looks at an image and its mirror image, and takes the mean"] if facts["mirror"] else []
    lines += ["- the head also reads a second backbone, as it was before the fine-tune"] if facts.get("frozen") else []
    versions, day = facts.get("versions", {}), str(state.get("started", "")).partition("T")[0]
    lines += [f"- made {day} with " + ", ".join(f"{k} {versions[k]}" for k in ("torch", "timm") if k in versions)]
    return [*lines, f"- weights.safetensors, sha256 {state.get('weights', facts['sha256'])}"]


def _name(node: Mapping[str, Any]) -> str:
    return plain(str(node["_target_"]).rpartition(".")[2])


def _epochs(run: Run) -> str:
    count = run.home.metrics().get("fit/epochs")
    return f"{int(count)} epochs, " if count else ""


def _data(run: Run) -> list[str]:
    classes, train = run.source.classes, run.source.splits["train"]
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in run.source.splits.items())
    lines = [f"{sizes} images from {plain(Path(str(run.source.root)).name)}."]
    counts = run.source.labels.counts(train.targets, classes)
    if run.task.parts:
        lines += ["", *(f"- {plain(line)}" for line in run.source.labels.card(train.targets, classes))]
    elif counts and len(counts) == len(classes):
        lines += ["", "| class | training images |", "|---|---|"]
        lines += [f"| {plain(name)} | {n:,} |" for name, n in list(zip(classes, counts, strict=True))[:MOST]]
        lines += [f"| … and {len(classes) - MOST} more | |"] if len(classes) > MOST else []
    else:
        lines += ["", f"{len(classes)} names: {', '.join(map(plain, classes[:MOST]))}"]
    return [*lines, *(["", *(f"- {plain(note, 400)}" for note in run.source.notes)] if run.source.notes else [])]


def _numbers(run: Run) -> list[str]:
    found = run.home.metrics()
    names, aside = dict.fromkeys(key.partition("/")[2] for key in measured(found)), by_label(run)
    lines = ["| metric | val | test | 95 % interval of test | best blind answer |", "|---|---|---|---|---|"]
    for name in (name for name in names if name not in aside):
        low, high = found.get(f"test/{name}/low"), found.get(f"test/{name}/high")
        between = f"{low:.4g} – {high:.4g}" if low is not None and high is not None else ""
        values = _shown([found.get(f"val/{name}"), found.get(f"test/{name}")])
        (blind,) = _shown([found.get(f"test/{name}/constant")])
        lines.append(f"| {plain(name)} | {' | '.join(values)} | {between} | {blind} |")
    if not any(k.startswith("test/") for k in found):
        lines += ["", "There was no test split with labels."]
    return [*lines, "", "Val chose the model, so that its numbers are optimistic."]


def _shown(values: Iterable[float | None]) -> list[str]:
    return ["" if value is None else f"{round(value, 9):.4g}" for value in values]


def _worth(run: Run, facts: Mapping[str, Any]) -> Iterator[str]:
    """What was calibrated, what that holds on test, and how it stands what happens to images."""
    found, fitted = run.home.metrics(), facts.get("calibration") or {}
    yield f"- calibrated on {fitted['images']:,} images of val" if fitted else "- nothing is calibrated"
    yield from (f"- {plain(name)}: tuned on val (model.json)" for name in facts.get("tuned") or {})
    before, after = (found.get(f"test/ece{end}") for end in ("/uncalibrated", ""))
    if scaling := fitted.get("scaling"):
        error = "" if before is None else f"; calibration error on test {before:.4g} before, {after:.4g} after"
        yield "- probabilities: " + (
            "as they were" if scaling["method"] == "none" else f"by {scaling['method']}{error}"
        )
    aim = f"{100 * (1 - run.cfg['calibrate']['alpha']):g} %"
    for what, part, unit, of in SETS:
        if fitted.get(part):
            held = [found.get(f"test/{key}") for key in ("coverage", "coverage/low", "coverage/high", unit)]
            told = "" if None in held else "; on test {:.3f} ({:.3f} – {:.3f}), {:.4g} {}".format(*held, of)
            yield f"- {what} that are to hold the truth in {aim} of all cases{told}"
    if strange := fitted.get("unfamiliar"):
        called = found.get("test/unfamiliar")
        told = "" if called is None else f"; {100 * called:.1f} % of the test images are called so"
        yield f"- `unfamiliar`: by {strange['method']}, {100 * strange['false_alarm']:g} % false alarms on val{told}"
    file = run.home.path / "robustness.json"
    exams = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for name, part in ((name, part) for name, part in exams.items() if isinstance(part, Mapping)):
        told = [f"{k} {v:.4g}" for k, v in part.items() if isinstance(v, int | float)]
        told += [f"{k} {v['error']:.4g}" for k, v in part.items() if isinstance(v, Mapping) and "error" in v]
        told += [f"{v['worst']:.4g} at {eps}" for eps, v in part.get("eps", {}).items() if "worst" in v]
        hidden = "; not to be trusted: gradients seem to be hidden" if part.get("hidden") else ""
        what = "accuracy under attack, an upper bound," if name == "attacks" else f"error under {name}"
        yield f"- {what} on {exams.get('images', '?')} test images: {', '.join(told)}{hidden}".replace("_", " ")


def _input(facts: Mapping[str, Any]) -> list[str]:
    spec = facts["input"]
    cut = f", of which the middle {spec['crop']} is kept" if facts["resize"] == "crop" else ""
    return [
        f"- {spec['channels']} × {spec['size'][0]} × {spec['size'][1]} pixels, upright, resized by "
        f"`{facts['resize']}` ({spec['interpolation']}{cut})",
        f"- values of 0 to 1, of which mean {spec['mean']} is taken and what is left is divided by {spec['std']}",
    ]


def _limits(run: Run) -> list[str]:
    found, state = run.home.metrics(), run.home.state()
    counts = run.source.labels.counts(run.source.splits["train"].targets, run.source.classes)
    tested = found.get("test/images")
    lines = (
        [f"- The numbers are of {int(tested)} test images; of images that are unlike them nothing is known."]
        if (tested)
        else ["- It was not tested."]
    )
    if counts and min(counts) < 50:
        lines.append(f"- {sum(n < 50 for n in counts)} classes had fewer than 50 training images.")
    if state.get("beaten") is False:
        lines.append("- It is not better than the best answer that does not look at the image.")
    return lines


def _use(facts: Mapping[str, Any]) -> str:
    script = Path(__file__).parents[2] / "docs" / "load_model.py"
    plainly = facts.get("timm") and facts["head"] == "linear" and facts["target"] in ("class", "labels", "numbers")
    plainly = plainly and facts["outputs"] == len(facts["classes"])
    if not plainly or not script.is_file():
        return "With the template that wrote it: `python -m src.predict MODEL_DIR IMAGES`."
    return f"Without the template that wrote it:\n\n```python\n{script.read_text(encoding='utf-8')}```"
