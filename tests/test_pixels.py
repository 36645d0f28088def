"""The probe of pixels: what is solved on some of them is what the network then answers for all, and as good."""

import json

import pytest
import torch

from src.data import masks
from src.models.dense import DenseNetwork
from src.models.timm_backbone import timm_backbone
from src.stages import pixels
from tests import made
from tests.test_segmentation import words


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return made.shapes(tmp_path_factory.mktemp("pixels") / "shapes")


def glyphs(outputs: int = 3) -> DenseNetwork:
    torch.manual_seed(0)
    return DenseNetwork(timm_backbone("test_byobnet.glyphs", pretrained=False, image_size=64), outputs).eval()


def test_a_linear_head_answers_what_was_solved_on_pixels():
    """At the centres of the finest stage, which no interpolation moves."""
    network, draw = glyphs(), torch.Generator().manual_seed(0)
    image = torch.randint(0, 255, (2, 1, 64, 64), dtype=torch.uint8, generator=draw)
    weight, bias = torch.randn(3, sum(network.widths), generator=draw), torch.randn(3, generator=draw)
    network.answer(weight, bias)
    with torch.no_grad():
        found = network.head(network.maps(network._normalised(image)))
        side = found.shape[-1]
        y, x = (2 * torch.cartesian_prod(torch.arange(side), torch.arange(side)).T + 1) / side - 1
        seen = network.pixels(image, torch.stack([x, y], 1).expand(2, -1, -1))
        torch.testing.assert_close(
            found, (seen @ weight.T + bias).movedim(1, 2).unflatten(2, (side, side)), atol=1e-3, rtol=1e-3
        )
        assert network(image).shape == (2, 3, 64, 64) and network.stages


def test_the_mirror_image_is_asked_at_the_places_of_what_is_shown():
    network, draw = glyphs(), torch.Generator().manual_seed(0)
    image = torch.randint(0, 255, (1, 1, 64, 64), dtype=torch.uint8, generator=draw)
    place = torch.tensor([[[-0.5, 0.25], [0.75, -0.25]]])
    with torch.no_grad():
        there = network.pixels(image.flip(3), torch.tensor([[[0.5, 0.25], [-0.75, -0.25]]]))
        torch.testing.assert_close(network.pixels(image, place, mirror=True), there)
        assert (there - network.pixels(image, place)).abs().max() > 1e-3


def test_rare_classes_are_looked_at_too_and_each_pixel_stands_for_its_like():
    mask = torch.zeros(40, 50, dtype=torch.long)
    mask[0, :7], mask[1:9], mask[9] = 1, 2, masks.IGNORE
    places, stands = pixels._some(mask, 100, 3, seed=0)
    counts = torch.bincount(mask.flatten()[places], minlength=3).tolist()
    assert counts[1] == 7 and 25 < counts[2] < 55 and 50 < counts[0] < 80 and len(set(places.tolist())) == sum(counts)
    for c in range(3):
        there = mask.flatten()[places] == c
        assert float(stands[there].sum()) == pytest.approx(int((mask == c).sum()))
    assert torch.equal(places, pixels._some(mask, 100, 3, seed=0)[0])
    assert len(pixels._some(torch.full((4, 4), masks.IGNORE), 100, 3, seed=0)[0]) == 0


@pytest.mark.slow
def test_the_probe_of_pixels_ships_a_model_that_is_as_good_as_it_says(zygote, root, tmp_path):
    more = (f"run_dir={tmp_path / 'run'}", "recipe=probe", "model.image_size=64")
    assert zygote.run(*words(root, tmp_path), *more) == 0, zygote.screen
    said, state = (json.loads((tmp_path / "run" / name).read_text()) for name in ("metrics.json", "run.json"))
    recipe = (tmp_path / "run" / "recipe.md").read_text()
    held_out = float(recipe.split("The probe: ")[1].split(" %")[0]) / 100
    assert said["test/miou"] > 0.9 and held_out - 0.05 < said["test/miou"] < held_out + 0.08  # which sees it at 64 px
    assert "mirrored images" not in recipe, "nothing is trained"
    assert state["chosen"].startswith("probe") and "fit" not in state["done"]
    assert json.loads((tmp_path / "run" / "model" / "model.json").read_text())["stages"] is True


@pytest.mark.slow
def test_a_fit_may_start_from_the_probe_of_pixels(zygote, root, tmp_path):
    more = ("start=probe", "recipe=auto", "trainer.max_epochs=1", "model.image_size=64", "select=last")
    assert zygote.run(*words(root, tmp_path), *more, f"run_dir={tmp_path / 'run'}") == 0, zygote.screen
    assert "the probe on mirrored images" in (tmp_path / "run" / "recipe.md").read_text()
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test/miou"] > 0.8
    assert json.loads((tmp_path / "run" / "model" / "model.json").read_text())["stages"] is True
