"""Images as they stand in a page: small, inlined, and with what is laid over them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

SIDE = 192  # pixels at the most; a page shows them at 147
# Okabe & Ito 2008, which the colour-blind can tell apart; the first class of a mask, mostly the ground, stays clear
COLOURS = ("#56B4E9", "#D55E00", "#009E73", "#F0E442", "#CC79A7", "#0072B2", "#E69F00")


def picture(image: torch.Tensor) -> Image.Image:
    """uint8 (C, h, w) of any number of channels: the first three, or the first."""
    pixels = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    found = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
    found.thumbnail((SIDE, SIDE))
    return found


def uri(image: Image.Image, lossless: bool | None = None) -> str:
    """lossless: None: where it is so small that it costs nothing."""
    out = io.BytesIO()
    exact = max(image.size) <= 64 if lossless is None else lossless
    image.save(out, "WEBP", quality=80, lossless=exact, method=4)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()


def heat(places: torch.Tensor) -> str:
    """(h, w) in -1..1 -> red where it is 1, blue where it is -1, clear where it is no further from 0 than the mean; to
    be stretched over its image."""
    scale = 28 / min(places.shape)
    size = (round(places.shape[1] * scale), round(places.shape[0] * scale))
    signed = np.asarray(Image.fromarray(places.numpy()).resize(size, Image.Resampling.BILINEAR))
    v = np.abs(signed)
    v = ((v - v.mean()) / max(v.max() - v.mean(), 1e-6)).clip(0, 1)
    strong, pale, up = np.full_like(v, 255), 235 * (1 - v) ** 1.5, signed > 0
    pixels = np.stack([np.where(up, strong, 0), pale, np.where(up, 0, strong), 170 * v**0.8], 2)
    return uri(Image.fromarray(pixels.round().astype(np.uint8), "RGBA"), lossless=True)


def colour(i: int) -> str:
    """Of the class i of a mask; '' for the first."""
    return COLOURS[(i - 1) % len(COLOURS)] if i else ""


def painted(image: torch.Tensor, classes: torch.Tensor) -> Image.Image:
    """The image under the colours of its pixels' classes (h, w); what is no class is grey."""
    base = picture(image).convert("RGBA")
    known = classes.numpy().astype(np.int64)
    pixels = np.zeros((*known.shape, 4), np.uint8)
    for i in np.unique(known):
        if i:
            name = colour(int(i)) if i < 255 else "#888888"
            pixels[known == i] = [*(int(name[k : k + 2], 16) for k in (1, 3, 5)), 130]
    over = Image.fromarray(pixels).resize(base.size, Image.Resampling.NEAREST)
    return Image.alpha_composite(base, over).convert("RGB")


def wrong(image: torch.Tensor, truth: torch.Tensor, found: torch.Tensor) -> Image.Image:
    """The image in grey, and what is wrong in it in red; of pixels without a class nothing is known."""
    base = picture(image).convert("L").convert("RGBA")
    pixels = np.zeros((*truth.shape, 4), np.uint8)
    pixels[((truth != found) & (truth < 255)).numpy()] = (230, 30, 30, 200)
    over = Image.fromarray(pixels).resize(base.size, Image.Resampling.NEAREST)
    return Image.alpha_composite(base, over).convert("RGB")


def shades(values: Sequence[Sequence[float]] | np.ndarray) -> str:
    """(h, w) in 0..1 -> the darker the more, a pixel each, in a colour that is seen on white and on black."""
    v = np.asarray(values, dtype=np.float64).clip(0, 1)
    pixels = np.full((*v.shape, 4), (47, 127, 229, 0), np.uint8)
    pixels[:, :, 3] = (255 * np.sqrt(v)).round()
    return uri(Image.fromarray(pixels), lossless=True)
