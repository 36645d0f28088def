"""Compares finished runs, without Hydra or Lightning: python -m src.compare RUN_DIR… [--html FILE].

A folder of runs, such as logs/NAME, stands for all that are finished in it. Runs that were given the same words but
another seed are put together. The first one is compared with each other on the same test images, image by image.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src import few, folder, stats
from src.contracts import ConfigError, DataError
from src.doors import opened
from src.factory import LABELS, TASK, make_within
from src.finished import Entry, logits, runs
from src.pages.blocks import Block, Section, Table, Text
from src.pages.page import html
from src.tables import read


def paired(first: Entry, other: Entry) -> tuple[float, float, float] | None:
    """By how much `other` is better than `first`, and the 95 % bounds of it: a bootstrap of the same images for both.
    None where the metric is none of single images. Raises where the images are not the same."""
    tables = [sorted(read(entry.path / "predictions.csv"), key=lambda row: row["path"]) for entry in (first, other)]
    columns = [key for key in tables[0][0] if key == "target" or key.startswith("target/")]
    if [row["path"] for row in tables[0]] != [row["path"] for row in tables[1]]:
        raise DataError(
            f"{other.path} was tested on other images than {first.path} ({len(tables[1])} and {len(tables[0])}).\n"
            "Compare runs of one data set and one data.split_seed."
        )
    for one, two in zip(*tables, strict=True):
        if [one.get(c) for c in columns] != [two.get(c) for c in columns]:
            raise DataError(
                f"{one['path']} has another target in {other.path} than in {first.path}.\n"
                "Compare runs of one data set, or train both again on the same labels."
            )
    if first.facts["dense"]:
        iou = [torch.tensor([float(row["iou"]) for row in rows]) for rows in tables]
        change = iou[1] - iou[0]
        return _bounds(change[~change.isnan()])  # an image without a pixel that counts has none
    tasks = [make_within(entry.facts["task"], TASK)(classes=tuple(entry.facts["classes"])) for entry in (first, other)]
    encode = make_within(first.facts["labels"], LABELS).encoder(tuple(first.facts["classes"]))
    target = torch.tensor([encode(tuple(row[c] for c in columns)) for row in tables[0]])
    found = [_seen(*three) for three in zip((first, other), tables, tasks, strict=True)]
    sign = 1 if tasks[0].mode == "max" else -1
    if tasks[0].scores is not None:
        old, new = (task.scores(x, target).double() for task, x in zip(tasks, found, strict=True))
        return _bounds(sign * (new - old), target if tasks[0].by_class else None)
    if tasks[0].score is None:
        return None
    score = [task.score for task in tasks]

    def gain(some: torch.Tensor) -> torch.Tensor:
        return sign * (score[1](found[1][some], target[some]) - score[0](found[0][some], target[some]))

    drawn = stats.resampled(gain, len(target), 0, stats.DRAWS)
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(gain(torch.arange(len(target)))), low, high


def _seen(entry: Entry, rows: list[dict[str, str]], task: Any) -> torch.Tensor:
    """Logits, or embeddings, in the order of the rows."""
    if not task.embeds:
        return logits(rows, task, entry.facts)
    place = {row["path"]: i for i, row in enumerate(read(entry.path / "predictions.csv"))}
    z = np.load(entry.path / "embeddings.npy", allow_pickle=False)
    return torch.from_numpy(z[[place[row["path"]] for row in rows]])


def _bounds(gain: torch.Tensor, strata: torch.Tensor | None = None) -> tuple[float, float, float]:
    if not gain.any():
        return 0.0, 0.0, 0.0
    return float(gain.double().mean()), *stats.bootstrap(gain, strata=strata, proportion=False)


def sections(entries: Sequence[Entry]) -> list[Section]:
    first = entries[0]
    runs: list[Block] = [Table(_head(first), [_row(entry, entries) for entry in entries])]
    if shared := _shared(entries):
        runs.append(Text(f"All were typed with {shlex.join(sorted(shared))}."))
    told = [Section("The runs", runs)]
    if grouped := list(_grouped(entries)):
        head = ["what was typed", "runs", "seeds", f"mean {first.headline} ± half of its 95 % interval"]
        told.append(Section("Seeds together", [Table(head, grouped)]))
    return [*told, Section(f"Against {first.name}, on the same images", list(_against(entries)))]


def _head(first: Entry) -> list[str]:
    return ["run", f"{first.split}/{first.headline}", "95 % interval", "images", "seconds", "seed", "what differs"]


def _row(entry: Entry, entries: Sequence[Entry]) -> list[object]:
    name, metrics = f"{entry.split}/{entry.headline}", entry.metrics
    low, high = metrics.get(f"{name}/low"), metrics.get(f"{name}/high")
    typed = [word for word in entry.words if word not in _shared(entries)]
    differs = [k for k in sorted(entry.keys) if len({e.keys.get(k) for e in entries}) > 1 and not _follows(k, typed)]
    return [
        *(entry.name, f"{entry.value:.4f}", "" if low is None or high is None else f"{low:.4f} – {high:.4f}"),
        *(int(metrics.get(f"{entry.split}/images", 0)), f"{sum(entry.state.get('seconds', {}).values()):.0f}"),
        *(str(entry.cfg["seed"]), "  ".join([*typed, *(f"{k}={entry.keys[k]}" for k in differs)])),
    ]


def _shared(entries: Sequence[Entry]) -> set[str]:
    return set.intersection(*(set(entry.words) for entry in entries))


def _follows(key: str, typed: Sequence[str]) -> bool:
    """Whether a key of the config only says again what was typed for this run: finetune._target_ behind finetune=head,
    data.source.root behind data.root=DIR."""
    names = [word.lstrip("+").partition("=")[0] for word in typed]
    if key.startswith("data.source."):  # made of the other words of data
        return any(name.partition(".")[0] == "data" for name in names)
    return any(key == name or (name != "data" and key.startswith(f"{name}.")) for name in names)


def _grouped(entries: Sequence[Entry]) -> Iterator[list[object]]:
    groups: dict[tuple[str, ...], list[Entry]] = {}
    shared = _shared(entries)
    for entry in entries:
        groups.setdefault(entry.words, []).append(entry)
    for words, some in groups.items():
        some = list({entry.cfg["seed"]: entry for entry in some}.values())  # the same one again is no other run
        if len(some) > 1:
            values = [entry.value for entry in some]
            seeds = ", ".join(str(entry.cfg["seed"]) for entry in some)
            own = " ".join(word for word in words if word not in shared)
            yield [
                own or ("these words" if shared else "the default"),
                len(some),
                seeds,
                few.told(*few.interval(values)),
            ]


def _against(entries: Sequence[Entry]) -> Iterator[Block]:
    first, *others = entries
    if first.split == "val" or not (first.path / "predictions.csv").is_file():
        yield Text("There are no labelled test images to compare them on.")
        return
    rows = []
    for other in others:
        if (found := paired(first, other)) is None:
            yield Text(f"{first.headline} is not known of single images, so there is no paired comparison.")
            return
        gain, low, high = found
        verdict = "better" if low > 0 else "worse" if high < 0 else "not told apart"
        rows.append([other.name, f"{gain:+.4f}", f"{low:+.4f} – {high:+.4f}", verdict])
    if first.facts["dense"]:
        yield Text("By the mean over images of each one's IoU: that of the whole split is no mean over images.")
    yield Table(["run", "better by", "95 % interval", ""], rows)


def show(told: Sequence[Section]) -> None:
    from rich.console import Console
    from rich.table import Table as Drawn
    from rich.text import Text as Plain

    console = Console()
    for section in told:
        console.print(f"\n{section.title}", style="bold", markup=False, highlight=False)
        for block in section.blocks:
            if isinstance(block, Table):
                drawn = Drawn(box=None, pad_edge=False, header_style="dim")
                for i, name in enumerate(block.head):  # what is cut off would not tell the runs apart
                    drawn.add_column(Plain(name), overflow="fold", no_wrap=i == 0)
                for row in block.rows:
                    drawn.add_row(*(Plain(f"{cell}") for cell in row))
                console.print(drawn)
            elif isinstance(block, Text):
                console.print(block.words, markup=False, highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m src.compare", description=__doc__)
    parser.add_argument("runs", metavar="RUN_DIR", nargs="+", help="run folders, or folders of runs such as logs/NAME")
    parser.add_argument("--html", metavar="FILE", help="write the same as a page, too")
    words = parser.parse_args()
    return opened(lambda: compare(words.runs, words.html))


def compare(asked: Sequence[str], page: str | None) -> None:
    """Shows the runs side by side, and writes it to `page`."""
    if page and not Path(page).absolute().parent.is_dir():
        raise ConfigError(f"--html {page}: there is no folder {Path(page).absolute().parent}. Make it.")
    told = sections(runs(asked))
    show(told)
    if page:
        folder.write(Path(page).absolute(), html("Runs side by side", " · ".join(asked), told))


if __name__ == "__main__":
    sys.exit(main())
