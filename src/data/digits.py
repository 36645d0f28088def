"""Handwritten digits that come with scikit-learn: 1,797 grey images, here without any network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from src.contracts import Source
from src.data.folder import folder

SIDE = 32  # 8 x 8 enlarged by 4, the size that UCI counted down from: crops and shifts are then finer than one stroke

# Position in the data set at which a split ends. The set is 14 blocks of about 130 digits, each beginning with 0..9
# three times over: one sitting of one writer. UCI counts 13 writers and does not say who wrote what, so two of the
# blocks may be by one hand.
ENDS = {"train": 516, "val": 776, "test": 1797}


def digits(cache: str | Path) -> Source:
    """scikit-learn's `load_digits` (UCI optical digits, its test part), laid out once under CACHE/digits.

    Bright ink on dark ground. The first 4 blocks are train, the next 2 val, the other 8 test.
    """
    root = lay_out(Path(cache) / "digits", _images())
    note = "digits: split by blocks of one writer each, 4 for train, 2 for val, 8 for test (src/data/digits.py)"
    source = folder(root)
    return replace(source, notes=(*source.notes, note))


def _images() -> Iterator[tuple[str, Image.Image]]:
    from sklearn.datasets import load_digits  # takes a second, and only the first run needs it

    data = load_digits()
    grey = (data.images * (255 / 16)).round().astype("uint8")
    for i, (image, digit) in enumerate(zip(grey, data.target, strict=True)):
        split = next(name for name, end in ENDS.items() if i < end)
        large = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        yield f"{split}/{digit}/{i:04d}.png", large


def lay_out(root: Path, images: Iterable[tuple[str, Image.Image]]) -> Path:
    """Writes (relative path, image) pairs under `root`, all of them or none; does nothing where `root` exists.

    Two processes may do this at once: each fills its own folder, and the first to finish gives its folder the name.
    """
    if root.is_dir():
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as private:
        made = Path(private) / root.name
        for path, image in images:
            file = made / path
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)
        try:
            made.rename(root)
        except OSError:
            if not root.is_dir():  # otherwise another process was first, with the same images
                raise
    return root
