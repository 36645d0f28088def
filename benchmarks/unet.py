"""The yardstick of the masks: segmentation-models-pytorch's U-Net on the same files, with the same backbone and
weights, trained as its examples are (Adam 2e-4, cosine, Dice loss, mirrored images): `python benchmarks/unet.py 0
--data DIR/wbc --weights FILE` for seed 0.

Needs `pip install --no-deps segmentation-models-pytorch` (0.6.0 was run). 45 of the training images choose the epoch.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import interpolate

VALUES = np.array([0, 128, 255])
EPOCHS, SIDE, BATCH, VAL = 8, 128, 16, 45


def load(root: Path, row: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """(the image at the input's size, the mask in its own)"""
    image = Image.open(root / row["path"]).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    grey = np.array(Image.open(root / row["mask"])).astype(int)
    return np.array(image), np.abs(grey[..., None] - VALUES).argmin(-1).astype(np.uint8)


def resized(mask: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(mask).resize((SIDE, SIDE), Image.Resampling.NEAREST))


def batch(images: list[np.ndarray]) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255 - mean) / std


def miou(network: torch.nn.Module, items: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Of the whole split, in the masks' own sizes."""
    network.eval()
    counts = np.zeros((len(VALUES), len(VALUES)))
    with torch.no_grad():
        for image, mask in items:
            answer = interpolate(network(batch([image])), mask.shape, mode="bilinear").argmax(1)[0].numpy()
            np.add.at(counts, (mask.ravel(), answer.ravel()), 1)
    hit = np.diag(counts)
    return float((hit / (counts.sum(0) + counts.sum(1) - hit)).mean())


def main() -> None:
    import segmentation_models_pytorch as smp

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    words = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(words.seed)
    draw, root = np.random.default_rng(words.seed), Path(words.data)
    with (root / "splits.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    split = {name: [load(root, row) for row in rows if row["split"] == name] for name in ("train", "test")}
    order = np.random.default_rng(0).permutation(len(split["train"]))
    val, train = ([split["train"][i] for i in part] for part in (order[:VAL], order[VAL:]))
    network = smp.Unet("tu-mobilenetv2_100", encoder_weights=None, classes=len(VALUES))
    own = network.encoder.state_dict()
    state = load_file(words.weights)
    network.encoder.load_state_dict({name: state[name.removeprefix("model.")] for name in own})
    loss = smp.losses.DiceLoss("multiclass")
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
    steps = EPOCHS * -(-len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-5)
    best, kept, began = 0.0, {}, time.monotonic()
    for _ in range(EPOCHS):
        network.train()
        order = draw.permutation(len(train))
        for some in (order[i : i + BATCH] for i in range(0, len(order), BATCH)):
            pairs = [(image, resized(mask)) for image, mask in (train[i] for i in some)]
            pairs = [(i[:, ::-1].copy(), m[:, ::-1].copy()) if draw.random() < 0.5 else (i, m) for i, m in pairs]
            found = loss(
                network(batch([i for i, _ in pairs])), torch.from_numpy(np.stack([m for _, m in pairs])).long()
            )
            optimizer.zero_grad()
            found.backward()
            optimizer.step()
            schedule.step()
        if (score := miou(network, val)) > best:
            best, kept = score, {name: value.clone() for name, value in network.state_dict().items()}
    spent = time.monotonic() - began
    network.load_state_dict(kept)
    print(f"seed {words.seed}: test/miou {100 * miou(network, split['test']):.1f} %, {spent:.0f} s")


if __name__ == "__main__":
    main()
