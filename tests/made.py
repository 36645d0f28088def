"""Small data sets of each task whose truth is known: they are drawn, and a table says what was drawn."""

import csv
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 32


def drawn(root: Path, rows: list[dict[str, object]], images: list[Image.Image]) -> Path:
    """-> root, with table.csv and an image a row."""
    root.mkdir(parents=True)
    for row, image in zip(rows, images, strict=True):
        image.save(root / str(row["path"]))
    with (root / "table.csv").open("w", newline="") as stream:
        out = csv.DictWriter(stream, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    return root


def _split(i: int, n: int) -> str:
    return "train" if i < 0.6 * n else "val" if i < 0.75 * n else "test"


def _canvas(draw: np.random.Generator) -> Image.Image:
    return Image.fromarray(draw.integers(0, 60, (SIDE, SIDE), dtype=np.uint8))


def bars(root: Path, n: int = 240) -> Path:
    """A bar turned by an angle of 0 to 90 degrees: target 1000 + 2 x the angle, and the angle's sine."""
    draw, rows, images = np.random.default_rng(0), [], []
    for i in range(n):
        image, angle = _canvas(draw), float(draw.uniform(0, 90))
        x, y = (SIDE / 2 + draw.uniform(-3, 3) for _ in range(2))
        a = math.radians(angle)
        dx, dy = 11 * math.cos(a), 11 * math.sin(a)
        ImageDraw.Draw(image).line([x - dx, y + dy, x + dx, y - dy], fill=230, width=4)
        target = {"target": round(1000 + 2 * angle, 3), "sine": round(math.sin(a), 4)}
        rows.append({"path": f"{i:03d}.png", "split": _split(i, n), **target})
        images.append(image)
    return drawn(root, rows, images)


def noisy(root: Path, n: int = 600) -> Path:
    """A square; 1000 + 20 x its side is the target in the mean, with a deviation of 5 where it is full, and of 40 where
    it is a frame; and minus that, in thousands."""
    draw, rows, images = np.random.default_rng(0), [], []
    for i in range(n):
        image, side, doubt = _canvas(draw), float(draw.uniform(6, 26)), i % 2
        box = [16 - side / 2, 16 - side / 2, 16 + side / 2, 16 + side / 2]
        ImageDraw.Draw(image).rectangle(box, fill=None if doubt else 220, outline=220, width=2)
        target = round(1000 + 20 * side + draw.normal() * (40 if doubt else 5), 3)
        row = {"path": f"{i:04d}.png", "split": _split(i, n), "target": target, "minus": -target / 1e3}
        rows.append(row)
        images.append(image)
    return drawn(root, rows, images)


def discs(root: Path, n: int = 240) -> Path:
    """A disc of one of five sizes: the level."""
    draw, rows, images = np.random.default_rng(0), [], []
    names = ("tiny", "small", "middle", "large", "huge")
    for i in range(n):
        image, level = _canvas(draw), int(draw.integers(5))
        radius, (x, y) = 3 + 2.2 * level + draw.uniform(-0.6, 0.6), draw.uniform(13, 19, 2)
        ImageDraw.Draw(image).ellipse([x - radius, y - radius, x + radius, y + radius], fill=200)
        rows.append({"path": f"{i:03d}.png", "split": _split(i, n), "target": names[level]})
        images.append(image)
    return drawn(root, rows, images)


def signs(root: Path, n: int = 320) -> Path:
    """In each quarter, perhaps, a sign: a disc (often), a frame, a cross, two lines (seldom). The labels are which."""
    draw, rows, images = np.random.default_rng(0), [], []
    chance = {"disc": 0.5, "frame": 0.35, "cross": 0.25, "lines": 0.12}
    for i in range(n):
        image, place = _canvas(draw), draw.permutation(4)
        there = [name for name, p in chance.items() if draw.random() < p]
        for name, corner in zip(there, place, strict=False):
            x, y = 16 * (corner % 2) + 3, 16 * (corner // 2) + 3
            pen, box = ImageDraw.Draw(image), [x, y, x + 9, y + 9]
            if name == "disc":
                pen.ellipse(box, fill=230)
            elif name == "frame":
                pen.rectangle(box, outline=230, width=2)
            elif name == "cross":
                pen.line(box, fill=230, width=2)
                pen.line([x, y + 9, x + 9, y], fill=230, width=2)
            else:
                pen.line([x, y + 2, x + 9, y + 2], fill=230, width=2)
                pen.line([x, y + 7, x + 9, y + 7], fill=230, width=2)
        rows.append({"path": f"{i:03d}.png", "split": _split(i, n), "labels": "|".join(there)})
        images.append(image)
    return drawn(root, rows, images)


def cards(root: Path, n: int = 360, missing: float = 0.25) -> Path:
    """A shape of three, as wide as `width` says (in hundredths of a pixel, from 1000 on), over one to four dots (the
    level), between perhaps a line on the left, one on the right, and one on top (tags). A part of the cells is empty;
    whole.csv has them all."""
    draw, rows, images = np.random.default_rng(0), [], []
    for i in range(n):
        image, shape, dots = _canvas(draw), int(draw.integers(3)), int(draw.integers(4))
        pen, half = ImageDraw.Draw(image), float(draw.uniform(3, 8))
        x, y = 16 + draw.uniform(-1.5, 1.5), 13
        box = [x - half, y - half, x + half, y + half]
        if shape == 0:
            pen.ellipse(box, fill=220)
        elif shape == 1:
            pen.rectangle(box, outline=220, width=2)
        else:
            pen.line(box, fill=220, width=3)
            pen.line([box[0], box[3], box[2], box[1]], fill=220, width=3)
        for k in range(dots + 1):
            pen.rectangle([5 + 6 * k, 26, 8 + 6 * k, 29], fill=200)
        lines = {"left": [1, 4, 1, 27], "right": [30, 4, 30, 27], "top": [3, 1, 28, 1]}
        tags = [name for name, chance in (("left", 0.5), ("right", 0.3), ("top", 0.2)) if draw.random() < chance]
        for name in tags:
            pen.line(lines[name], fill=240, width=2)
        row = {"shape": ("disc", "frame", "cross")[shape], "width": round(1000 + 200 * half, 1)}
        row |= {"tags": "|".join(tags) or "|", "dots": ("one", "two", "three", "four")[dots]}
        rows.append({"path": f"{i:03d}.png", "split": _split(i, n), **row})
        images.append(image)
    drawn(root, rows, images)
    (root / "table.csv").rename(root / "whole.csv")
    holes = [
        {k: "" if k not in ("path", "split") and draw.random() < missing else v for k, v in row.items()} for row in rows
    ]
    with (root / "table.csv").open("w", newline="") as stream:
        out = csv.DictWriter(stream, list(rows[0]))
        out.writeheader()
        out.writerows(holes)
    return root


def shapes(root: Path, n: int = 90, width: int = 56, height: int = 40) -> Path:
    """Rectangles, and lines three pixels thin, on a dark ground, of a size that is no multiple of 32 and not square:
    masks have 0, 100 and 200 for ground, block and line."""
    draw, rows = np.random.default_rng(0), []
    (root / "masks").mkdir(parents=True)
    for i in range(n):
        image = Image.fromarray(draw.integers(0, 50, (height, width), dtype=np.uint8))
        mask = Image.new("L", image.size, 0)
        x, y, wide, high = (int(draw.integers(a, b)) for a, b in ((2, 24), (2, 14), (10, 24), (8, 20)))
        for picture, block, line in ((image, 140, 235), (mask, 100, 200)):
            pen = ImageDraw.Draw(picture)
            pen.rectangle([x, y, x + wide, y + high], fill=block)
            pen.line([0, 3 + i % 30, width, height - 3 - i % 30], fill=line, width=3)
        image.save(root / f"{i:03d}.png")
        mask.save(root / "masks" / f"{i:03d}.png")
        rows.append({"path": f"{i:03d}.png", "split": _split(i, n), "mask": f"masks/{i:03d}.png"})
    with (root / "table.csv").open("w", newline="") as stream:
        out = csv.DictWriter(stream, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    return root


def scribbles(root: Path, classes: int = 30, each: int = 12, splits: bool = True) -> Path:
    """Each class is a path of five strokes of its own, drawn elsewhere, turned, larger or smaller, and with other pens.
    The first 60 % of the classes are train, then val, then test: nobody has seen those. Without splits, folders."""
    draw, rows = np.random.default_rng(0), []
    for c in range(classes):
        points = draw.uniform(-10, 10, (6, 2))
        for i in range(each):
            image, a, scale = _canvas(draw), draw.normal(0, 0.3), draw.uniform(0.6, 1)
            turn = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) * scale
            line = points @ turn.T + SIDE / 2 + draw.uniform(-6, 6, 2) + draw.normal(0, 0.5, points.shape)
            ink, pen = int(draw.integers(150, 255)), int(draw.integers(1, 4))
            ImageDraw.Draw(image).line([tuple(p) for p in line], fill=ink, width=pen, joint="curve")
            path = f"{c:02d}_{i:02d}.png" if splits else f"class_{c:02d}/{i:02d}.png"
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            image.save(root / path)
            rows.append({"path": path, "split": _split(c, classes), "target": f"class_{c:02d}"})
    if splits:
        with (root / "table.csv").open("w", newline="") as stream:
            out = csv.DictWriter(stream, list(rows[0]))
            out.writeheader()
            out.writerows(rows)
    return root
