"""Pictures of what was predicted, from the rows of predictions.csv."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

Rows = Sequence[Mapping[str, str]]
PANEL = 5.0  # inches of a part of a picture


def counts(rows: Rows, classes: tuple[str, ...]) -> torch.Tensor:
    """(C, C): row = the truth, column = what was predicted."""
    place = {c: i for i, c in enumerate(classes)}
    found = torch.zeros(len(classes), len(classes), dtype=torch.long)
    for row in rows:
        found[place[row["target"]], place[row["prediction"]]] += 1
    return found


def confusion(rows: Rows, classes: tuple[str, ...], place: Any = None) -> Any:
    """Rows are normalised for the colour, counts are written where they can be read (25 classes at the most)."""
    found, n = counts(rows, classes), len(classes)
    share = found / found.sum(1, keepdim=True).clamp(min=1)
    side = min(max(4.0, 0.5 * n + 2), 20)
    figure, axes = _one(side, side, place)
    axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    every = max(1, -(-n // 50))  # more than 50 labels on an axis cannot be read
    ticks = range(0, n, every)
    axes.set_xticks(ticks, [classes[i][:24] for i in ticks], rotation=90)
    axes.set_yticks(ticks, [classes[i][:24] for i in ticks])
    axes.set(xlabel="predicted", ylabel="true", title="Test images by true and predicted class")
    for i, j in ((i, j) for i in range(n) for j in range(n) if n <= 25 and found[i, j]):
        colour = "white" if share[i, j] > 0.5 else "black"
        axes.text(j, i, str(int(found[i, j])), ha="center", va="center", color=colour)
    return figure


def scatter(rows: Rows, classes: tuple[str, ...], place: Any = None) -> Any:
    """Predicted over true numbers, in units of their range where there are several, with the line of equality."""
    figure, axes = _one(5, 5, place)
    several, start = len(classes) > 1, 0.0
    for name in classes:
        suffix = f"/{name}" if several else ""
        true, found = (torch.tensor([float(row[key + suffix]) for row in rows]) for key in ("target", "prediction"))
        low, wide = (true.min(), (true.max() - true.min()).clamp(min=1e-12)) if several else (0.0, 1.0)
        start = start if several else float(true.mean())  # the axes are to show the numbers, and need not show 0
        axes.plot((true - low) / wide, (found - low) / wide, ".", alpha=0.4, label=name)
    axes.axline((start, start), slope=1, color="grey", linewidth=1)
    unit = ", from the least true one (0) to the largest (1)" if several else ""
    axes.set(xlabel=f"true{unit}", ylabel="predicted", title="Test images")
    axes.legend()
    return figure


def chances(rows: Rows, classes: tuple[str, ...], place: Any = None, *, separator: str) -> Any:
    """How likely each class was said to be: of images that have it, and of those that do not."""
    figure, axes = _one(7, max(3.0, 0.3 * len(classes) + 1), place)
    there = [row["target"].split(separator) for row in rows]
    for i, name in enumerate(classes):
        for colour, has, up in (("lightgrey", False, 0.15), ("tab:blue", True, -0.15)):
            p = [float(row[f"prob/{name}"]) for row, names in zip(rows, there, strict=True) if (name in names) == has]
            axes.plot(p, [i + up] * len(p), "|", color=colour, alpha=0.5)
    axes.set_yticks(range(len(classes)), [c[:24] for c in classes])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="probability; blue: of images that have the class", title="Test images by class")
    return figure


def similarities(rows: Rows, classes: tuple[str, ...], place: Any = None) -> Any:
    """How near the nearest image is: where it is of the same class, and where it is not."""
    figure, axes = _one(7, 4, place)
    least = min((float(row["similarity"]) for row in rows), default=-1.0)
    for colour, right, said in (("tab:blue", True, "same class"), ("tab:red", False, "another class")):
        found = [float(row["similarity"]) for row in rows if (row["prediction"] == row["target"]) == right]
        axes.hist(found, bins=40, range=(least, 1), color=colour, alpha=0.6, label=f"{said}: {len(found)}")
    axes.set(xlabel="cosine of the nearest image", ylabel="images", title="Test images and their nearest neighbours")
    axes.legend()
    return figure


def beside(rows: Rows, parts: Sequence[tuple[str, tuple[str, ...], Any]]) -> Any:
    """A picture of each part (column, classes, its figure), side by side, of the images whose label is known."""
    across = min(len(parts), 3)
    figure = _empty(PANEL * across, PANEL * -(-len(parts) // across))
    places = figure.subfigures(-(-len(parts) // across), across, squeeze=False).ravel()
    for place, (column, classes, draw) in zip(places, parts, strict=False):
        own = [dict(_own(row, column)) for row in rows if row.get(f"target/{column}", row.get("target"))]
        place.suptitle(f"{column}, of {len(own)} images", weight="bold")
        if own:
            draw(own, classes, place)
    return figure


def _own(row: Mapping[str, str], column: str) -> Iterator[tuple[str, str]]:
    """prob/COLUMN/CLASS -> prob/CLASS: what the table of the part alone would say."""
    for key, cell in row.items():
        said, _, rest = key.partition("/")
        if key == "target" or rest == column:
            yield said, cell
        elif rest.startswith(f"{column}/"):
            yield f"{said}/{rest.removeprefix(f'{column}/')}", cell


def _one(width: float, height: float, place: Any) -> tuple[Any, Any]:
    figure = place or _empty(width, height)
    return figure, figure.add_subplot()


def _empty(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # takes half a second that predicting need not wait for

    return Figure(figsize=(width, height), layout="constrained")
