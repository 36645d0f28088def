"""Which networks are tried: model.candidates, in the order of what they know of these images, beside what they cost."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from src.contracts import ConfigError, Run
from src.facts import Ranked
from src.models.timm_backbone import known
from src.stages.rank import rank

TITLE = "## Networks"


def contenders(words: Mapping[str, Any], given: Collection[str]) -> list[dict[str, Any]]:
    """The config as it is, or with each of model.candidates in turn; what the recipe has yet to decide is left out."""
    model, wanted = words["model"], words["model"].get("candidates") or {}
    wanted = wanted if isinstance(wanted, dict) else dict.fromkeys(wanted)
    if wanted and (both := {"model.name", "model.weights", "init_from"} & set(given)):
        raise ConfigError(
            f"model.candidates and {' '.join(sorted(both))}: the candidates say which network it is, and its weights.\n"
            "Leave out one of the two."
        )
    files = {name: file and str(Path(file).expanduser()) for name, file in wanted.items()}
    named = [{**model, "name": name, "weights": file, "candidates": None, "top": 1} for name, file in files.items()]
    _refuse_unknown(named)
    words = {**words, "start": "random", "select": "last", "augment": dict(words["augment"])}
    words["data"] = {**words["data"], "suspects": "keep"}
    if words["augment"].get("policy") == "auto":
        words["augment"]["policy"] = None
    return [{**words, "model": each} for each in named or [model]]


def _refuse_unknown(models: Sequence[Mapping[str, Any]]) -> None:
    """ConfigError with all that is wrong with their names and files, before anything is computed for the first."""
    faults = []
    for model in models if models and models[0]["_target_"].endswith(".timm_backbone") else ():
        try:
            known(model["name"], model["pretrained"], model["weights"])
        except ConfigError as error:
            faults.append(f"model.candidates: {error}")
    if faults:
        raise ConfigError("\n\n".join(faults))


def ranked(runs: Sequence[Run], device: str, seconds: float | None) -> list[tuple[Run, Ranked]]:
    """The best first; each in its share of `seconds`."""
    rows, share = [], seconds / len(runs) if seconds else None
    for run in runs:
        begun = time.monotonic()
        parameters, macs = cost(run)
        score, knn = rank(run, device, share)
        spent = time.monotonic() - begun
        model = run.cfg["model"]
        rows.append(Ranked(model["name"], model["weights"], score, knn, parameters, macs, spent))
        print(f"ranking  {len(rows)} of {len(runs)}: {model['name']}, {spent:.1f} s", flush=True)
    return [(runs[i], rows[i]) for i in order([(row.score, row.knn) for row in rows])]


def order(scores: Sequence[tuple[float, float | None]]) -> list[int]:
    """The first of the probe stays first; the others by the mean of their places in the two orders, those that are
    level there by the probe. So it takes both to lose a place among the first, and only the probe to be the first."""
    columns = [score for score, _ in scores], [knn or 0.0 for _, knn in scores]
    places = [[sum(other > own for other in column) for own in column] for column in columns]
    return sorted(range(len(scores)), key=lambda i: (places[0][i] > 0, places[0][i] + places[1][i], places[0][i], i))


def cost(run: Run) -> tuple[float, float]:
    """(parameters, multiply-adds of an image), in millions."""
    network, spec = run.network().eval(), run.spec
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, spec.channels, *spec.size, dtype=torch.uint8))
    return sum(p.numel() for p in network.parameters()) / 1e6, counter.get_total_flops() / 2e6


def record(rows: Sequence[Ranked]) -> list[dict[str, Any]]:
    """As run.json keeps them."""
    return [{key: round(v, 4) if isinstance(v, float) else v for key, v in asdict(row).items()} for row in rows]


def table(
    state: Mapping[str, Any], fits: Mapping[str, Sequence[str]] | None = None, heads: Sequence[str] = ()
) -> list[list[str]]:
    """Of run.json: heading and rows. fits: name -> what its fits have shown, under `heads`."""
    found = [["network", "probe", "k-NN", "M parameters", "M multiply-adds", "seconds", *heads]]
    for row in state.get("networks", ()):
        knn = "–" if row["knn"] is None else f"{100 * row['knn']:.1f} %"
        told = [row["name"], f"{100 * row['score']:.1f} %", knn, f"{row['parameters']:.2f}", f"{row['macs']:,.0f}"]
        found.append([*told, f"{row['seconds']:.1f}", *(fits or {}).get(row["name"], [""] * len(heads))])
    return found


def screen(found: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*found, strict=True)]
    rows = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in found)
    return "\n".join(f"{'networks' if i == 0 else '':9}{row}" for i, row in enumerate(rows))


def noted(recipe: str, found: Sequence[Sequence[str]]) -> str:
    """recipe.md with this table before what was decided, in the place of an earlier one."""
    if len(found) < 2:
        return recipe
    before, _, after = recipe.partition("## Decided")
    rows = [f"| {' | '.join(row)} |" for row in found]
    rows.insert(1, "|" + "---|" * len(found[0]))
    why = "Held out: the best head of the probe, and the nearest training images (of masks there are none)."
    return "\n".join([before.partition(TITLE)[0] + TITLE, "", why, "", *rows, "", f"## Decided{after}"])
