"""How the fit went, from metrics.csv."""

from __future__ import annotations

from collections.abc import Iterator

from src.pages import plots
from src.pages.blocks import Drawing, Section
from src.pages.facts import Facts

MOST = 400  # points of a line
LOSSES = (
    "train: of images as the training sees them, changed by chance; val: of images as they are. They need not meet."
)
WHILE = "Of the weights that are being trained, after each epoch."
RATES = "The highest and the lowest of all layers."


def curves(facts: Facts) -> Iterator[Section]:
    rows, monitor = facts.table("metrics.csv"), f"val/{facts.headline}"
    losses = {"train/loss_step": plots.FAINT, "train/loss": plots.FIRST, "val/nll": plots.SECOND}
    shipped = f" What is shipped is {chosen}, measured above." if (chosen := facts.state.get("chosen")) else ""
    found = [
        _curves(rows, "loss", losses, LOSSES),
        _curves(rows, monitor, {monitor: plots.SECOND}, WHILE + shipped, facts.metrics.get("select/epoch")),
        _curves(rows, "learning rate", dict.fromkeys(_ends(rows), plots.THIRD), RATES),
    ]
    if drawn := [drawing for drawing in found if drawing]:
        yield Section("How the fit went", drawn)


def _ends(rows: list[dict[str, str]]) -> set[str]:
    """The groups of the lowest and of the highest learning rate; the others are between them."""
    highest: dict[str, float] = {}
    for row in rows:
        for name in (name for name in row if name.startswith("lr-") and row[name]):
            highest[name] = max(highest.get(name, 0.0), float(row[name]))
    return {min(highest, key=highest.__getitem__), max(highest, key=highest.__getitem__)} if highest else set()


def _curves(
    rows: list[dict[str, str]], name: str, columns: dict[str, str], says: str, chosen: float | None = None
) -> Drawing | None:
    points = {c: [(int(r["step"]), float(r[c])) for r in rows if r.get(c) and r.get("step")] for c in columns}
    points = {c: some[:: max(1, len(some) // MOST)] for c, some in points.items() if len(some) > 1}
    if not points:
        return None
    figure, own = plots.axes()
    several = len(points) > 1 and name == "loss"
    for column, some in points.items():
        wide = 1.0 if column == "train/loss_step" else 1.8
        plots.line(own, some, columns[column], linewidth=wide, label=column, marker="." if len(some) < 3 else "")
    own.set(xlabel="update", ylabel=name)
    if several:
        plots.legend(own)
    ends = {r["epoch"]: int(r["step"]) for r in rows if r.get(f"{name}") and r.get("epoch")}
    if chosen is not None and (place := ends.get(str(int(chosen)))) is not None:
        own.axvline(place, color=plots.FAINT, linestyle="--", linewidth=1)
        own.annotate(
            "chosen", (place, 1.01), xycoords=("data", "axes fraction"), color=plots.INK, fontsize=11, ha="right"
        )
    return Drawing(plots.svg(figure, f"curve {name}"), says)
