"""How pictures go bad: the fifteen corruptions of ImageNet-C in five degrees (Hendrycks & Dietterich 2019, 1903.12261).

The tables are the published ones: at 32 px those of CIFAR-10-C, at 224 px those of ImageNet-C, linear in between, and
blurs grow with the side above. Where photographs, ImageMagick or loops over pixels are used there, this is drawn anew:
frost is ridged noise instead of photographs of ice; glass takes each pixel from nearby instead of swapping pairs; the
first two degrees of `elastic` are below the third, as the published ones, which are another warp, are not.
`speckle_noise` and `gaussian_blur` are two of the four that were published beside the fifteen, to train or tune with.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import affine_grid, grid_sample, interpolate, pad
from torchvision.transforms.v2 import functional as F

Draw = np.random.Generator
Rows = list[tuple[float, ...]]  # the parameters in each of the five degrees


def _noise(image: torch.Tensor, draw: Draw) -> torch.Tensor:
    return torch.from_numpy(draw.standard_normal(image.shape, np.float32))


def gaussian_noise(image: torch.Tensor, draw: Draw, scale: float) -> torch.Tensor:
    return image + scale * _noise(image, draw)


def speckle_noise(image: torch.Tensor, draw: Draw, scale: float) -> torch.Tensor:
    return image + image * scale * _noise(image, draw)


def shot_noise(image: torch.Tensor, draw: Draw, photon: float) -> torch.Tensor:
    """photon: the light of one, of which white is 1."""
    return torch.from_numpy(draw.poisson(image.numpy() / photon) * photon).float()


def impulse_noise(image: torch.Tensor, draw: Draw, part: float) -> torch.Tensor:
    chance = torch.from_numpy(draw.random(image.shape, np.float32))
    return torch.where(chance < part / 2, 0.0, torch.where(chance < part, 1.0, image))


def gaussian_blur(image: torch.Tensor, draw: Draw, sigma: float) -> torch.Tensor:
    size = min(2 * math.ceil(3 * sigma) + 1, 2 * (min(image.shape[-2:]) // 2) - 1)
    return F.gaussian_blur(image, [size, size], [sigma, sigma])


def defocus_blur(image: torch.Tensor, draw: Draw, radius: float, alias: float) -> torch.Tensor:
    """A disc, whose edge is softened by a Gaussian."""
    reach = math.ceil(radius + 2)
    line = torch.arange(-reach, reach + 1).float()
    disc = (radius + 0.5 - torch.hypot(line[:, None], line[None])).clamp(0, 1)[None]
    disc = gaussian_blur(pad(disc, [1] * 4), draw, alias)
    wide = pad(image[None], [reach + 1] * 4, mode="replicate")
    return torch.nn.functional.conv2d(wide.transpose(0, 1), (disc / disc.sum())[None]).transpose(0, 1)[0]


def glass_blur(image: torch.Tensor, draw: Draw, sigma: float, reach: float) -> torch.Tensor:
    """reach: of a pixel, in all its passes."""
    height, width = image.shape[-2:]
    dy, dx = (np.rint(draw.uniform(-reach, reach, (height, width))).astype(int) for _ in range(2))
    y = (np.arange(height)[:, None] + dy).clip(0, height - 1)
    x = (np.arange(width)[None] + dx).clip(0, width - 1)
    return gaussian_blur(gaussian_blur(image, draw, sigma)[:, y, x], draw, sigma)


def motion_blur(image: torch.Tensor, draw: Draw, radius: float, sigma: float) -> torch.Tensor:
    return _smear(image, draw.uniform(-45, 45), radius, sigma)


def _smear(image: torch.Tensor, degrees: float, radius: float, sigma: float) -> torch.Tensor:
    """Half a Gaussian of 2 radius + 1 pixels in one direction, as ImageMagick has it."""
    steps, (height, width) = round(2 * radius) + 1, image.shape[-2:]
    wide, total, found = pad(image[None], [steps] * 4, mode="replicate")[0], 0.0, torch.zeros_like(image)
    for i in range(steps):
        weight = math.exp(-(i**2) / (2 * sigma**2))
        y = steps + round(i * math.sin(math.radians(degrees)))
        x = steps + round(i * math.cos(math.radians(degrees)))
        found += weight * wide[:, y : y + height, x : x + width]
        total += weight
    return found / total


def zoom_blur(image: torch.Tensor, draw: Draw, most: float) -> torch.Tensor:
    """The mean of the image and of eleven larger ones."""
    scale = 1 / torch.linspace(1, most, 11)
    theta = torch.zeros(11, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    grid = affine_grid(theta, [11, *image.shape], align_corners=False)
    larger = grid_sample(image.expand(11, -1, -1, -1), grid, padding_mode="reflection", align_corners=False)
    return (image + larger.sum(0)) / 12


def snow(
    image: torch.Tensor,
    draw: Draw,
    mean: float,
    scale: float,
    size: float,
    least: float,
    radius: float,
    sigma: float,
    kept: float,
) -> torch.Tensor:
    """Flakes, in two directions, before an image that is paler."""
    height, width = image.shape[-2:]
    small = [max(math.ceil(side / size), 1) for side in (height, width)]
    flakes = torch.from_numpy(draw.normal(mean, scale, (1, 1, *small))).float()
    flakes = interpolate(flakes, (height, width), mode="bilinear", align_corners=False)[0]
    flakes = _smear(torch.where(flakes < least, 0.0, flakes).clamp(0, 1), draw.uniform(-135, -45), radius, sigma)
    pale = torch.maximum(image, image.mean(0, keepdim=True) * 1.5 + 0.5)
    return kept * image + (1 - kept) * pale + flakes + flakes.flip(1, 2)


def plasma(height: int, width: int, draw: Draw, decay: float) -> torch.Tensor:
    """Noise in 0..1 (1, H, W), of which each octave has 1 / decay^2 of the one before, as by diamonds and squares."""
    found, cells, weight = torch.zeros(1, 1, height, width), 1, 1.0
    while cells < max(height, width):
        cells, weight = 2 * cells, weight / decay**2
        octave = torch.from_numpy(draw.uniform(-1, 1, (1, 1, cells + 1, cells + 1))).float()
        found += weight * interpolate(octave, (height, width), mode="bilinear", align_corners=True)
    found = found[0] - found.min()
    return found / found.max()


def frost(image: torch.Tensor, draw: Draw, kept: float, ice: float) -> torch.Tensor:
    height, width = image.shape[-2:]
    ridges = (1 - (2 * plasma(height, width, draw, 1.2) - 1).abs()) ** 2
    tint = torch.tensor([0.8, 0.9, 1.0] if len(image) == 3 else [0.9]).view(-1, 1, 1)
    return kept * image + ice * ridges * tint


def fog(image: torch.Tensor, draw: Draw, strength: float, decay: float) -> torch.Tensor:
    (height, width), most = image.shape[-2:], float(image.max())
    return (image + strength * plasma(height, width, draw, decay)) * most / (most + strength)


def brightness(image: torch.Tensor, draw: Draw, more: float) -> torch.Tensor:
    """Of HSV the V."""
    value = image.amax(0, keepdim=True)
    brighter = (value + more).clamp(0, 1)
    return torch.where(value > 0, image * brighter / value.clamp(min=1e-6), brighter)


def contrast(image: torch.Tensor, draw: Draw, part: float) -> torch.Tensor:
    mean = image.mean((1, 2), keepdim=True)
    return (image - mean) * part + mean


def elastic(image: torch.Tensor, draw: Draw, move: float, sigma: float, corner: float) -> torch.Tensor:
    """move: the standard deviation of where a pixel goes; sigma: over how far it goes with its neighbours; corner: how
    far three points of an affine map go; all in sides of the image."""
    height, width = image.shape[-2:]
    points = np.array([[1, 1, 1], [1, -1, 1], [-1, -1, 1]]) * np.array([2 / 3, 2 / 3, 1])
    moved = points[:, :2] + draw.uniform(-2 * corner, 2 * corner, (3, 2))
    theta = torch.from_numpy(np.linalg.solve(points, moved).T).float()[None]
    grid = affine_grid(theta, [1, *image.shape], align_corners=False)
    noise = torch.from_numpy(draw.standard_normal((2, height, width), np.float32))
    field = gaussian_blur(noise, draw, max(sigma * min(height, width), 0.3))
    field = 2 * move * field / field.std().clamp(min=1e-6)
    return grid_sample(image[None], grid + field.permute(1, 2, 0), padding_mode="reflection", align_corners=False)[0]


def pixelate(image: torch.Tensor, draw: Draw, part: float) -> torch.Tensor:
    height, width = image.shape[-2:]
    small = interpolate(image[None], [max(int(height * part), 1), max(int(width * part), 1)], mode="area")
    return interpolate(small, (height, width), mode="nearest")[0]


def jpeg(image: torch.Tensor, draw: Draw, quality: float) -> torch.Tensor:
    pixels = np.ascontiguousarray((image.permute(1, 2, 0) * 255).round().byte().numpy())
    out = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(out, "JPEG", quality=round(quality))
    found = np.array(Image.open(out)).reshape(pixels.shape)
    return torch.from_numpy(found).permute(2, 0, 1).float() / 255


def _columns(*columns: list[float]) -> Rows:
    return list(zip(*columns, strict=True))


# name -> how, its parameters at 32 px, and at 224 px
TABLE: dict[str, tuple[Callable[..., torch.Tensor], Rows, Rows]] = {
    "gaussian_noise": (
        gaussian_noise,
        _columns([0.04, 0.06, 0.08, 0.09, 0.1]),
        _columns([0.08, 0.12, 0.18, 0.26, 0.38]),
    ),
    "shot_noise": (
        shot_noise,
        _columns([1 / 500, 1 / 250, 1 / 100, 1 / 75, 1 / 50]),
        _columns([1 / 60, 1 / 25, 1 / 12, 1 / 5, 1 / 3]),
    ),
    "impulse_noise": (
        impulse_noise,
        _columns([0.01, 0.02, 0.03, 0.05, 0.07]),
        _columns([0.03, 0.06, 0.09, 0.17, 0.27]),
    ),
    "defocus_blur": (
        defocus_blur,
        _columns([0.3, 0.4, 0.5, 1, 1.5], [0.4, 0.5, 0.6, 0.2, 0.1]),
        _columns([3, 4, 6, 8, 10], [0.1, 0.5, 0.5, 0.5, 0.5]),
    ),
    "glass_blur": (
        glass_blur,
        _columns([0.05, 0.25, 0.4, 0.25, 0.4], [1, 1, 1, 1.41, 1.41]),
        _columns([0.7, 0.9, 1, 1.1, 1.5], [1.41, 2, 3.46, 4.24, 5.66]),
    ),
    "motion_blur": (
        motion_blur,
        _columns([6, 6, 6, 8, 9], [1, 1.5, 2, 2, 2.5]),
        _columns([10, 15, 15, 15, 20], [3, 5, 8, 12, 15]),
    ),
    "zoom_blur": (zoom_blur, _columns([1.05, 1.1, 1.15, 1.2, 1.25]), _columns([1.1, 1.15, 1.2, 1.25, 1.3])),
    "snow": (
        snow,
        [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ],
        [
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ],
    ),
    "frost": (
        frost,
        _columns([1, 1, 0.9, 0.85, 0.75], [0.2, 0.3, 0.4, 0.4, 0.45]),
        _columns([1, 0.8, 0.7, 0.65, 0.6], [0.4, 0.6, 0.7, 0.7, 0.75]),
    ),
    "fog": (
        fog,
        _columns([0.2, 0.5, 0.75, 1, 1.5], [3, 3, 2.5, 2, 1.75]),
        _columns([1.5, 2, 2.5, 2.5, 3], [2, 2, 1.7, 1.5, 1.4]),
    ),
    "brightness": (brightness, _columns([0.05, 0.1, 0.15, 0.2, 0.3]), _columns([0.1, 0.2, 0.3, 0.4, 0.5])),
    "contrast": (contrast, _columns([0.75, 0.5, 0.4, 0.3, 0.15]), _columns([0.4, 0.3, 0.2, 0.1, 0.05])),
    "elastic": (
        elastic,
        _columns([0.003, 0.005, 0.007, 0.012, 0.017], [0.03] * 5, [0.02] * 5),
        _columns([0.0015, 0.0025, 0.0036, 0.0051, 0.0087], [0.011] * 5, [0.022] * 5),
    ),
    "pixelate": (pixelate, _columns([0.95, 0.9, 0.85, 0.75, 0.65]), _columns([0.6, 0.5, 0.4, 0.3, 0.25])),
    "jpeg": (jpeg, _columns([80, 65, 58, 50, 40]), _columns([25, 18, 15, 10, 7])),
    "speckle_noise": (
        speckle_noise,
        _columns([0.06, 0.1, 0.12, 0.16, 0.2]),
        _columns([0.15, 0.2, 0.35, 0.45, 0.6]),
    ),
    "gaussian_blur": (gaussian_blur, _columns([0.4, 0.6, 0.7, 0.8, 1]), _columns([1, 2, 3, 4, 6])),
}
BESIDE = ("speckle_noise", "gaussian_blur")
FIFTEEN = tuple(name for name in TABLE if name not in BESIDE)
BLURS = ("defocus_blur", "glass_blur", "motion_blur", "gaussian_blur")  # their parameters are lengths


def corrupt(image: torch.Tensor, name: str, severity: float, draw: Draw) -> torch.Tensor:
    """uint8 (C, H, W) of 1 or 3 channels -> the same; severity: 1 … 5, also in between."""
    how, small, large = TABLE[name]
    side, place = min(image.shape[-2:]), min(max(severity, 1), 5) - 1
    part = min(max((side - 32) / (224 - 32), 0), 1)
    rows = (1 - part) * np.array(small) + part * np.array(large)
    low = int(place)
    row = rows[low] + (place - low) * (rows[min(low + 1, 4)] - rows[low])
    if name in BLURS:
        row = row * max(side / 224, 1)
    found = how(image.float() / 255, draw, *row.tolist())
    return (found.clamp(0, 1) * 255).round().byte()
