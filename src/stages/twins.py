"""Images of val and test that are nearly images of an earlier split: scaled, compressed again, cropped a little."""

from __future__ import annotations

import csv
import io
from typing import Any

import torch
from torch.nn.functional import normalize

from src import folder, rng
from src.contracts import Run
from src.stages.embed import embed

# The cosine of standardised features. Measured on three sets (MobileNetV2, 128 px, 600 against 200 images): an image
# and itself, saved as JPEG 50 or cut by 4 % on each side, have 0.75 to 0.95 in the median; different images 0.78 at
# most, but for real near-duplicates in one of the sets, which this found (33; six of them were looked at, all true).
ALIKE = 0.9
# Simple images (8 x 8 digits) are all alike: there, a pair must also stand out from how near images are anyway, which
# the nearest neighbours of most images tell (their 10 % quantile, since up to nine in ten may be duplicates).
STANDS_OUT = 0.1


def twins(run: Run, network: Any, device: str, x: torch.Tensor, chosen: list[int], most: int) -> str:
    """Lists them in near_duplicates.csv; -> a sentence, '' where there are none. x (N, D): of the training images
    `chosen`. Nothing is decided by it, so test may be looked at."""
    columns = slice(network.features, None) if x.shape[1] > network.features else slice(None)
    mean, scale = x[:, columns].mean(0), x[:, columns].std(0) + 1e-5

    def direction(seen: torch.Tensor) -> torch.Tensor:
        return normalize((seen[:, columns] - mean) / scale, dim=1)

    equal = {place: i for i, group in enumerate(run.audit.copies) for place in group}
    earlier, found = [("train", chosen, direction(x))], []
    for split in (name for name in ("val", "test") if name in run.source.splits and most):
        n = len(run.source.splits[split])
        some = list(range(n)) if n <= most else sorted(rng.permutation(n, run.cfg["seed"], "twins")[:most].tolist())
        mine = direction(embed(run, network, device, split, some))
        for other, images, theirs in earlier:
            cosine, place = (mine @ theirs.T).max(1)
            usual = float(cosine.quantile(0.1))
            for i in torch.nonzero(cosine > max(ALIKE, 1 - STANDS_OUT * (1 - usual)))[:, 0].tolist():
                one, two = (split, some[i]), (other, images[int(place[i])])
                if equal.get(one, -1) != equal.get(two, -2):  # equal files are told by the audit
                    found.append((float(cosine[i]), one, two))
        earlier.append((split, some, mine))
    if not found:
        return ""
    found.sort(key=lambda pair: -pair[0])
    folder.write(run.home.path / "near_duplicates.csv", _table(run, found))
    counts = ", ".join(
        f"{n} of {name}" for name in ("val", "test") if (n := len({one for _, one, _ in found if one[0] == name}))
    )
    _, one, two = found[0]
    pair = f"{_path(run, one)} ~ {_path(run, two)}"
    return f"NEAR-DUPLICATES: {counts} are nearly images of an earlier split, such as {pair} (near_duplicates.csv)"


def _path(run: Run, place: tuple[str, int]) -> str:
    return run.source.splits[place[0]].paths[place[1]]


def _label(run: Run, place: tuple[str, int]) -> str:
    split = run.source.splits[place[0]]
    return "; ".join(run.source.labels.text(split.targets[place[1]], run.source.classes)) if split.labelled else ""


def _table(run: Run, found: list) -> str:
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["cosine", "split", "path", "label", "like split", "like path", "like label"])
    for cosine, one, two in found:
        places = [cell for place in (one, two) for cell in (place[0], _path(run, place), _label(run, place))]
        rows.writerow([f"{cosine:.3f}", *places])
    return out.getvalue()
