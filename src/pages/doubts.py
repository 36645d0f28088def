"""Labels that the other images contradict, and images that are in two splits."""

from __future__ import annotations

from collections.abc import Iterator

from src.contracts import LEFT, SUSPECTS
from src.pages import pictures
from src.pages.blocks import Card, Gallery, Section, Text
from src.pages.facts import SHOWN, Facts


def doubts(facts: Facts) -> Iterator[Section]:
    if rows := facts.table(SUSPECTS):
        told = f"{len(rows):,} training labels are contradicted by the other images ({SUSPECTS}); the surest first."
        yield Section("Labels to look at again", [Text(told), Gallery([_suspect(facts, row) for row in rows[:SHOWN]])])


def duplicates(facts: Facts) -> Iterator[Section]:
    if rows := facts.table("near_duplicates.csv"):
        told = f"{len(rows):,} images of val and test are nearly images of an earlier split (near_duplicates.csv)."
        yield Section(
            "Nearly the same images", [Text(told), Gallery([_pair(facts, row) for row in rows[: SHOWN // 2]])]
        )
    if rows := facts.table("leaks.csv"):
        yield Section("The same images in two splits", [Text(f"{len(rows):,} pairs of images are equal: leaks.csv.")])


def _suspect(facts: Facts, row: dict[str, str]) -> Card:
    own, other = row.get("probability/label", ""), row.get("probability/rather", "")
    lines = [f"label {row['label']} {_two(own)}", f"rather {row['rather']} {_two(other)}"]
    lines += ["not learnt"] if row.get(LEFT) == "yes" else []
    return Card(_pictures(facts, [("train", row["path"])]), lines, path=row["path"])


def _pair(facts: Facts, row: dict[str, str]) -> Card:
    places = [(row["split"], row["path"]), (row["like split"], row["like path"])]
    lines = [f"{row['split']} {row['label']} ~ {row['like split']} {row['like label']}", f"cosine {row['cosine']}"]
    return Card(_pictures(facts, places), lines, path=f"{row['path']} ~ {row['like path']}")


def _pictures(facts: Facts, places: list[tuple[str, str]]) -> list[str]:
    views = [facts.named(*place) for place in places]
    return [pictures.uri(pictures.picture(view)) for view in views if view is not None]


def _two(p: str) -> str:
    return f"{float(p):.2f}" if p else ""
