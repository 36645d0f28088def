"""Labels that the other images contradict, and images that are in two splits."""

from __future__ import annotations

from collections.abc import Iterator

from src.contracts import LEFT, SUSPECTS
from src.pages import pictures
from src.pages.blocks import Card, Gallery, Section, Text
from src.pages.facts import SHOWN, Facts


def doubts(facts: Facts) -> Iterator[Section]:
    if rows := facts.table(SUSPECTS):
        told = f"{len(rows):,} training labels are contradicted by the other images ({SUSPECTS}): wrong, or only hard."
        yield Section(
            "Labels to look at again",
            [Text(f"{told} The surest first."), Gallery([_suspect(facts, row) for row in rows[:SHOWN]])],
        )


def duplicates(facts: Facts) -> Iterator[Section]:
    if rows := facts.table("near_duplicates.csv"):
        images = len({(row["split"], row["path"]) for row in rows})
        told = f"{images:,} images of val and test are nearly images of an earlier split (near_duplicates.csv)."
        yield Section(
            "Nearly the same images", [Text(told), Gallery([_pair(facts, row) for row in rows[: SHOWN // 2]])]
        )
    if rows := facts.table("leaks.csv"):
        yield Section("The same images in two splits", [Text(f"{len(rows):,} pairs of images are equal: leaks.csv.")])


def _suspect(facts: Facts, row: dict[str, str]) -> Card:
    own, other = row.get("probability/label", ""), row.get("probability/rather", "")
    lines = [f"label {_two(own)}{row['label']}", f"rather {_two(other)}{row['rather']}"]
    lines += ["not learnt"] if row.get(LEFT) == "yes" else []
    return Card(_pictures(facts, [("train", row["path"])]), lines, path=row["path"])


def _pair(facts: Facts, row: dict[str, str]) -> Card:
    pair = [[row[f"{like}{key}"] for key in ("split", "path", "label")] for like in ("", "like ")]
    lines = [f"{split} {label}: {path}" for split, path, label in pair]
    return Card(_pictures(facts, [(split, path) for split, path, _ in pair]), [*lines, f"cosine {row['cosine']}"])


def _pictures(facts: Facts, places: list[tuple[str, str]]) -> list[str]:
    views = [facts.named(*place) for place in places]
    return [pictures.uri(pictures.picture(view)) for view in views if view is not None]


def _two(p: str) -> str:
    return f"{float(p):.2f}: " if p else ""
