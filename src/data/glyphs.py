"""Printed characters, rendered at low resolution from the fonts that matplotlib ships: images to pre-train on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache as remember
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from src.contracts import DataError, Source
from src.data.digits import SIDE, lay_out
from src.data.folder import folder

# Without the letters that look like another one once size is normalised: O o 0, I l 1, C c, S s, ...
CHARACTERS = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZabdefghijmnqrty"

# The files of matplotlib that have all of these characters; its others are symbols, sizes of symbols and fallbacks.
FONTS = (
    *(f"DejaVuSans{s}.ttf" for s in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{s}.ttf" for s in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{s}.ttf" for s in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{s}.ttf" for s in ("", "Bol", "Italic", "BolIta")),
    *(f"cm{s}10.ttf" for s in ("b", "r", "ss", "ti", "tt")),
)

CANVAS = 96  # pixels in which a character is drawn and bent, before its resolution is lowered
MESH = 3  # cells per side of the grid that bends it


def glyphs(cache: str | Path, count: int = 40_000, seed: int = 0) -> Source:
    """`count` characters of 49 classes, laid out once under CACHE/glyphs-SEED-COUNT; 5 % are val and 5 % test.

    The printed digits are among them, handwriting is not. An image is a function of (seed, its index).
    """
    least = 3 * len(CHARACTERS)
    if count < least:
        raise DataError(
            f"data.count={count}: {least} images are the least that fill three splits. Set data.count higher."
        )
    root = lay_out(Path(cache) / f"glyphs-{seed}-{count}", _images(count, seed))
    note = f"glyphs: {len(CHARACTERS)} printed characters from {len(FONTS)} fonts, 5 % for val and 5 % for test"
    source = folder(root)
    return replace(source, notes=(*source.notes, note))


def _images(count: int, seed: int) -> Iterator[tuple[str, Image.Image]]:
    for i in range(count):
        character = CHARACTERS[i % len(CHARACTERS)]
        split = {0: "val", 1: "test"}.get(i // len(CHARACTERS) % 20, "train")
        yield f"{split}/{_name(character)}/{i:06d}.png", glyph(character, np.random.default_rng((seed, i)))


def _name(character: str) -> str:
    """A folder name that stays unique where the file system ignores case."""
    kind = "digit" if character.isdigit() else "upper" if character.isupper() else "lower"
    return f"{kind}_{character}"


def glyph(character: str, rng: np.random.Generator) -> Image.Image:
    """One grey image of SIDE x SIDE pixels with bright ink on dark ground, as `rng` has it."""
    font = _font(FONTS[rng.integers(len(FONTS))])
    image = _bend(_draw(character, font, stroke=rng.uniform(0, 3)), rng)
    return _lower(image.crop(image.getbbox()), rng)


@remember
def _font(name: str) -> ImageFont.FreeTypeFont:
    import matplotlib  # only where glyphs are rendered

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, CANVAS // 2)


def _draw(character: str, font: ImageFont.FreeTypeFont, stroke: float) -> Image.Image:
    image = Image.new("L", (CANVAS, CANVAS))
    middle = (CANVAS / 2, CANVAS / 2)
    ImageDraw.Draw(image).text(middle, character, fill=255, font=font, anchor="mm", stroke_width=stroke)
    return image


def _bend(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Rotates, shears, scales and bends: a grid over the output looks up displaced points of the input."""
    turn, shear = rng.normal(0, 0.15), rng.normal(0, 0.25)  # radians; shift of x per y
    rotate = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = rotate @ np.array([[1, shear], [0, 1]]) * 1.3  # 1.3: what is sheared still fits the canvas
    line = np.linspace(-0.5, 0.5, MESH + 1)
    grid = np.stack(np.meshgrid(line, line), -1) @ linear.T  # (rows, columns, xy)
    grid = (grid + rng.normal(0, rng.uniform(0, 0.05), grid.shape) + 0.5) * CANVAS
    edge = np.linspace(0, CANVAS, MESH + 1).round().astype(int).tolist()
    cells = []
    for r in range(MESH):
        for c in range(MESH):
            corners = grid[r, c], grid[r + 1, c], grid[r + 1, c + 1], grid[r, c + 1]  # as Pillow's QUAD wants them
            cells.append(((edge[c], edge[r], edge[c + 1], edge[r + 1]), np.concatenate(corners).tolist()))
    return image.transform(image.size, Image.Transform.MESH, cells, Image.Resampling.BILINEAR)


def _lower(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Fits the ink into 8 x 8 pixels, as the handwritten digits were, with other contrast and some noise."""
    tall = 8 * rng.uniform(0.85, 1.05)
    wide = np.clip(tall * image.width / image.height * rng.uniform(0.8, 1.25), 2, 8)
    scale = np.array([image.width / wide, image.height / tall])  # source pixels per pixel of the result
    corner = np.array(image.size) / 2 - 4 * scale + rng.normal(0, 0.3, 2) * scale
    affine = (scale[0] / 4, 0, corner[0], 0, scale[1] / 4, corner[1])
    fine = image.transform((32, 32), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    grey = np.asarray(fine.reduce(4), dtype=float) / 255
    grey = np.clip(grey * rng.uniform(0.8, 1.6), 0, 1) + rng.normal(0, rng.uniform(0, 0.06), grey.shape)
    result = Image.fromarray((grey.clip(0, 1) * 255).round().astype("uint8"))
    return result.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
