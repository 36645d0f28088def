"""Embeddings by which images of one class are found, also of classes that were never learnt: recall at 1 chooses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch

from src.contracts import UNLABELLED, DataError, Source, Task
from src.labels import Cells, OneClass
from src.names import refuse_lookalikes, shorten
from src.tasks.figures import similarities
from src.tasks.neighbours import nearest, precisions, recalls
from src.tasks.projections import close, moved, solve

APART = 20  # classes from which 15 % are three: whole classes are held out, since it is new ones that are to be found
Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Identities(OneClass):
    """The name of one class, or person, or product; the splits need not have the same ones. apart: whether val and
    test, where they are cut out, get whole classes of their own; auto: from 20 classes on, unless a given test set asks
    for the classes of train."""

    apart: bool | str = "auto"
    open: ClassVar[bool] = True

    def classes(self, where: str, found: Mapping[str, Collection[Cells]]) -> tuple[str, ...]:
        counts = {split: Counter(cell for (cell,) in items if cell) for split, items in found.items()}
        names = sorted({name for count in counts.values() for name in count})
        refuse_lookalikes(where, names)
        if len(counts.get("train", ())) < 2:
            sizes = ", ".join(f"{split} {count.total()}" for split, count in counts.items()) or "no images"
            raise DataError(
                f"{where}: train has {len(counts.get('train', ()))} class(es) ({sizes}); to learn what tells classes "
                "apart it needs two, with two images each. Put more classes into the train split."
            )
        return tuple(names)

    def holds_out_classes(self, found: Sequence[int], test: Sequence[int]) -> bool:
        if self.apart != "auto":
            return bool(self.apart)
        names, asked = set(found), set(test) - {UNLABELLED}
        return len(names) >= APART and len(asked & names) <= len(asked) / 2


def check(source: Source) -> Source:
    """Raises where nothing can be learnt or measured; notes what is left out, and what is new to the network."""
    notes, learnt = [], set(source.splits["train"].targets)
    for name, split in source.splits.items():
        if not split.labelled:
            continue
        count = Counter(split.targets)
        alone = [source.classes[c] for c, n in count.items() if n == 1]
        if len(alone) == len(count) or len(count) < 2:
            what = "no two of one class" if len(count) > 1 else f"all of the class {source.classes[split.targets[0]]!r}"
            raise DataError(
                f"task=retrieval: {name} has {len(split)} image(s), {what}, so there is nothing to find or to miss.\n"
                "Give each split at least two classes with two images each; where the template divides the images, "
                "task.labels.apart=true puts whole classes into val and test, and data.val_size, data.test_size or "
                "data.split_seed change which."
            )
        if alone:
            what = "are no queries" if name != "train" else "have nothing to be near to"
            notes.append(
                f"{name}: {len(alone)} image(s) are the only ones of their class and {what}: {shorten(sorted(alone))}."
            )
        if name != "train":
            notes.append(f"{name}: {len(set(count) - learnt)} of {len(count)} classes are new, without training image.")
    return replace(source, notes=(*source.notes, *notes))


def each(of: Callable[..., tuple[torch.Tensor, torch.Tensor]], **more: int) -> Score:
    """-> (embeddings, target) -> the scores of the images that have another of their class."""

    def scores(embeddings: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        found, there = of(embeddings, target, **more)
        return found[there]

    return scores


SCORES = {"recall_at_1": each(recalls, k=1), "recall_at_5": each(recalls, k=5), "map_at_r": each(precisions)}


def retrieval(classes: tuple[str, ...], monitor: str, mode: str, dimensions: int | None, targets: Any = None) -> Task:
    def metrics() -> Any:
        # imported here, since predicting needs no metrics
        from torchmetrics import MetricCollection

        from src.tasks.metrics import Whole

        found = {name: Whole(lambda z, target, of=of: of(z, target).mean()) for name, of in SCORES.items()}
        return MetricCollection(found, compute_groups=False)

    def decode(embeddings: torch.Tensor) -> list[dict[str, Any]]:
        pairs = zip(*nearest(embeddings), strict=True)
        return [{"nearest": place, "similarity": round(cosine, 6)} for place, cosine in pairs]

    return Task(
        outputs=dimensions or 0,
        target="identity",
        monitor=monitor,
        mode=mode,
        metrics=metrics,
        decode=decode,
        scores=SCORES.get(monitor.removeprefix("val/")),
        skill=lambda z, target: SCORES["recall_at_1"](z, target).mean(),
        constant=lambda target: torch.zeros(dimensions or 1),
        embeds=True,
        check=check,
        solve=partial(solve, outputs=dimensions),
        moved=moved,
        close=partial(close, outputs=dimensions),
        figure=similarities,
    )
