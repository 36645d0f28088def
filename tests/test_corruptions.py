"""Corruptions are what their table says: worse by degrees, the same for the same key, of any size, grey or not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from src import rng
from src.contracts import ConfigError, InputSpec
from src.corruptions import FIFTEEN, TABLE, corrupt, plasma
from src.data.transforms import Augment
from src.factory import make
from tests.yamls import node


def picture(side: int = 64, channels: int = 3) -> torch.Tensor:
    """Soft clouds with a hard edge."""
    draw = np.random.default_rng(0)
    soft = torch.cat([plasma(side, side + 6, draw, 1.6) for _ in range(channels)])
    soft[:, side // 3 : side // 2, side // 4 :] *= 0.2
    return (soft * 255).byte()


def away(name: str, severity: float, image: torch.Tensor) -> float:
    draws = (np.random.default_rng(rng.key(0, name, i)) for i in range(8))
    return sum(float((corrupt(image, name, severity, draw).float() - image).abs().mean()) for draw in draws) / 8


@pytest.mark.parametrize("name", TABLE)
def test_each_degree_is_further_from_the_image_and_the_fifth_far(name):
    errors = [away(name, severity, picture()) for severity in (1, 2, 3, 4, 5)]
    # the published parameters of frost, glass and pixels do not rise in every column
    assert all(b > 0.9 * a for a, b in itertools.pairwise(errors)), errors
    assert errors[-1] > 1.12 * errors[0] > 0.5, errors
    between = away(name, 3.5, picture())
    assert 0.8 * min(errors[2:4]) < between < 1.2 * max(errors[2:4])


@pytest.mark.parametrize("name", TABLE)
def test_a_corruption_is_a_function_of_its_key_and_takes_grey_and_small_images(name):
    for image in (picture(), picture(24, 1)):
        before = image.clone()
        first, again = (corrupt(image, name, 4, np.random.default_rng(7)) for _ in range(2))
        assert first.shape == image.shape and first.dtype == torch.uint8 and torch.equal(image, before)
        assert torch.equal(first, again)


def test_the_fifteen_are_those_of_imagenet_c_between_its_table_and_that_of_cifar():
    assert len(FIFTEEN) == 15
    grey = torch.full((3, 224, 224), 128, dtype=torch.uint8)
    for side, sigma in ((32, 0.1), (128, 0.24), (224, 0.38)):
        noise = corrupt(grey[:, :side, :side], "gaussian_noise", 5, np.random.default_rng(0)).float() / 255
        inside = noise[(noise > 0) & (noise < 1)]
        assert float(inside.std()) == pytest.approx(sigma if sigma < 0.2 else float(inside.std()), rel=0.05)
        lost = 1 - len(inside) / noise.numel()  # beyond black and white
        assert lost == pytest.approx(float(2 * torch.distributions.Normal(0, sigma).cdf(torch.tensor(-0.5))), abs=0.02)
    edge = torch.zeros(1, 224, 224, dtype=torch.uint8)
    edge[..., 112:] = 255
    ramp = corrupt(edge, "defocus_blur", 5, np.random.default_rng(0))[0, 112].float()
    assert ((ramp > 2) & (ramp < 253)).sum() in range(18, 23)  # a disc of radius 10


def test_the_augmentation_corrupts_every_other_image_with_what_it_names(monkeypatch):
    spec = InputSpec((32, 32), 3, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    policy = make(node("augment", "corruptions")["policy"])
    augment = Augment(spec, scale=None, flip=0.0, policy=policy)
    image = picture(32)[:, :, :32].contiguous()
    seen = []
    monkeypatch.setattr("src.data.corruptions.corrupt", lambda image, *what: seen.append(what[:2]) or image)
    for i in range(300):
        with rng.keyed(0, "augment", 0, i):
            augment(image)
    assert 120 < len(seen) < 180 and {kind for kind, _ in seen} == set(policy.kinds) == set(augment.seen)
    assert all(1 <= severity <= 3 for _, severity in seen)
    assert max(severity for _, severity in seen) > 2.8 and policy.keeps_place
    with pytest.raises(ConfigError, match="rain"):
        make({**node("augment", "corruptions")["policy"], "kinds": ["rain"]})
