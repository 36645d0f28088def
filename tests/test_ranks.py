"""Several ranks, whatever the source and the task: no image is lost or repeated, and the test is that of one rank."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from src import world
from src.build import prepare
from src.checkpoint import NonFinite
from src.contracts import Source
from src.data.folder import folder
from src.data.huggingface import huggingface
from src.data.loader import Loaders
from src.data.torchvision import torchvision
from src.data.webdataset import webdataset
from src.factory import make
from src.folder import RunFolder
from src.models.timm_backbone import timm_backbone
from src.module import Module
from src.replan import Plan
from src.resume import plain
from src.stages.predict import measure, predictions, table
from tests import made
from tests.test_multihead import LEVELS, TYPED
from tests.test_sources import described, sharded, tables
from tests.yamls import node


@pytest.fixture(scope="module")
def sources(shapes, tmp_path_factory) -> dict[str, Source]:
    home = tmp_path_factory.mktemp("sources")
    shards = sharded(shapes, home / "shards", lambda name: {"cls": name.encode()})
    return {
        "folder": folder(shapes),
        "webdataset": webdataset(shards, home),
        "huggingface": huggingface(tables(shapes, home / "arrow", "arrow"), home),
        "torchvision": torchvision(described(shapes, home / "tv"), home, "DTD"),
    }


def loaders(source: Source, rank: int, world: int) -> Loaders:
    spec = replace(timm_backbone("test_byobnet.glyphs").spec, size=(20, 20), channels=3)
    found = Loaders(source, spec, 0, make(node("augment", "none")), batch_size=5)
    found.trainer = SimpleNamespace(global_rank=rank, world_size=world, overfit_batches=0, max_epochs=1)
    return found


def seen(source: Source, split: str, world: int, train: bool = False) -> tuple[list[int], Counter[bytes]]:
    """Which images count on all ranks together, and their pixels; each rank has as many batches as the others."""
    shards = [list(loaders(source, rank, world).loader(split, train=train)) for rank in range(world)]
    assert len({len(shard) for shard in shards}) == 1
    batches = [(b["index"][b["valid"]], b["image"][b["valid"]]) for shard in shards for b in shard]
    pixels = Counter(image.contiguous().numpy().tobytes() for _, images in batches for image in images)
    return sorted(torch.cat([index for index, _ in batches]).tolist()), pixels


@pytest.mark.parametrize("name", ["webdataset", "huggingface", "torchvision"])
def test_each_image_of_any_source_is_seen_by_one_rank_once(sources, name):
    for split in ("train", "val", "test"):
        index, pixels = seen(sources[name], split, 3)
        assert index == list(range(len(sources["folder"].splits[split])))
        assert pixels == seen(sources["folder"], split, 1)[1]
    assert seen(sources[name], "train", 3, train=True)[0] == list(range(48))


@pytest.mark.parametrize("mine, theirs", [(1.0, ""), (torch.nan, ""), (1.0, "b")])
def test_weights_that_are_not_finite_on_one_rank_are_saved_by_none(monkeypatch, mine, theirs):
    loss = {"sum": 1.0, "images": 8.0}
    monkeypatch.setattr(world, "gather", lambda said: [said, (loss, theirs)])
    module = SimpleNamespace(
        plan=Plan(4, 4), facts={}, pace=float, train_loss=loss, trainer=SimpleNamespace(global_step=3)
    )
    checkpoint = {
        "state_dict": {"a": torch.ones(2), "n": torch.tensor(1), "b": torch.tensor([0, mine])},
        "global_step": 3,
    }
    if mine == 1 and not theirs:
        Module.on_save_checkpoint(module, checkpoint)
        assert checkpoint["train_loss"] == [loss, loss]
        return
    with pytest.raises(NonFinite, match="b is not finite at step 3"):
        Module.on_save_checkpoint(module, checkpoint)


def words(case: str, home: Path, shapes: Path) -> list[str]:
    if case == "retrieval":
        shards = sharded(shapes, home / "shards", lambda name: {"cls": name.encode()})
        own = ["data=webdataset", f"data.root={shards}", "task=retrieval", "loss=supcon", "data.per_class=4"]
        return [*own, "model.in_chans=3", "model.name=test_resnet", "model.pretrained=false", "model.image_size=32"]
    root = {"multihead": made.cards, "quantile": made.bars}[case](home / "images", n=60)
    own = {
        "multihead": ["task=multihead", TYPED % ",".join(LEVELS)],
        "quantile": ["task=regression", "loss=quantile", "data.columns.target=[target,sine]"],
    }
    return ["data=csv", f"data.root={root}", "data.table=table.csv", "model.name=test_byobnet.glyphs", *own[case]]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["retrieval", "multihead", "quantile"])
def test_two_ranks_test_what_one_would(zygote, shapes, tmp_path, case):
    """The test of the model that two ranks have made, again in this process alone; 5 images a batch leave one rank with
    a batch less than the other."""
    where = tmp_path / "run"
    common = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_epochs=1", "recipe=off"]
    places = [f"run_dir={where}", f"paths.cache={tmp_path / 'cache'}", "logger=[csv]", "data.batch_size=5"]
    assert zygote.run(*words(case, tmp_path, shapes), *common, *places, ranks=2) == 0, zygote.screen
    assert zygote.screen.count("test/") == (5 if case == "multihead" else 1), "said once"
    cfg, home = plain(OmegaConf.load(where / "config.yaml")), RunFolder(where)
    cfg["trainer"] |= {"devices": 1, "strategy": "auto"}
    alone = prepare(cfg, home)
    index, logits, target = predictions(alone, alone.load(), "test")
    assert index.tolist() == list(range(len(alone.source.splits["test"])))
    assert (where / "predictions.csv").read_bytes().decode() == table(alone, "test", index, logits)
    said = json.loads((where / "metrics.json").read_text())
    for key, value in measure(alone, "test", logits, target).items():
        assert said[key] == pytest.approx(value, nan_ok=True), key
