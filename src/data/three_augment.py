"""3-Augment: one of grey, solarised, blurred; then other light (Touvron et al. 2022, arXiv:2204.07118, section 3)."""

from __future__ import annotations

from torchvision.transforms import v2


class ThreeAugment(v2.Compose):
    """uint8 (C, H, W) -> the same. One of the three is taken for every image, each as often; then brightness, contrast
    and saturation change by up to `jitter`. Nothing moves, so masks stay right."""

    keeps_place = True

    def __init__(self, jitter: float = 0.3):
        one = [
            v2.RandomGrayscale(p=1.0),
            v2.RandomSolarize(threshold=128, p=1.0),
            v2.GaussianBlur(kernel_size=9, sigma=(0.1, 2.0)),
        ]
        super().__init__([v2.RandomChoice(one), v2.ColorJitter(jitter, jitter, jitter)])
