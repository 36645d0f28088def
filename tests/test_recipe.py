"""The recipe is sane for every kind of data set, and what the user says wins."""

import itertools
from dataclasses import replace

import pytest

from src import check, recipe
from src.check import configs
from src.facts import Budget, Facts, Probed, Shaken
from src.recipe import FAMILIES


def facts(each=100, classes=10, imbalance=1.0, size=128, family="batchnorm", device="cpu", probed=None) -> Facts:
    counts = tuple(max(1, round(each * imbalance ** (-i / max(classes - 1, 1)))) for i in range(classes))
    return Facts(
        images=sum(counts),
        val=max(classes, sum(counts) // 7),
        counts=counts,
        size=size,
        channels=3,
        family=family,
        pretrained=True,
        ordered=True,
        device=device,
        bf16=device == "gpu",
        probed=probed,
    )


def probed(**more) -> Probed:
    said = {"squash": 0.8, "crop": 0.8, "pad": 0.8}
    common = {
        "head": "lda 0.5 on stages",
        "score": 0.8,
        "last": 0.7,
        "asked": 400,
        "resize": said,
        "mirrored": 0.0,
        "turned": (0.5, 0.1),
        "grey": 0.0,
    }
    return Probed(**{**common, **more})


def config(*words: str) -> dict:
    chosen = {k: v for k, _, v in (w.partition("=") for w in words) if k in configs.groups()}
    return configs.compose(chosen)[0]


def decided(found: list[recipe.Decision]) -> dict:
    return {d.key: d.value for d in found}


GRID = itertools.product(
    (5, 20, 300, 10_000), (2, 10, 1000), (1, 10, 100), (32, 224, 512), tuple(FAMILIES), ("cpu", "gpu"), (None, probed())
)


def test_over_the_whole_grid_every_decision_is_a_word_that_a_user_could_type():
    seen = set()
    for each, classes, imbalance, size, family, device, asked in GRID:
        f = facts(each, classes, imbalance, size, family, device, asked)
        thorough = (each + classes) % 2 == 0  # half of the grid with recipe=best, which decides a little more
        found = recipe.plan(f, {**config(), "recipe": "best" if thorough else "auto"}, frozenset())
        said = decided(found)
        assert (said.get("sweep") == [1, 0.5, 2]) == thorough
        assert (said.get("refit") == "all") == (thorough or f.each < 50)
        assert all(len(d.reason) > 10 for d in found)
        assert len(said) == len(found), "a key is decided once"
        assert 1 <= said["data.batch_size"] <= min(f.images, 128)
        assert 5 <= said["trainer.max_epochs"] <= 100
        assert 1e-5 <= said["optimizer.lr"] <= 1e-2
        assert 0 < said["finetune.stem"] <= said["finetune.body"] <= 1
        updates = f.images / said["data.batch_size"] * said["trainer.max_epochs"]
        assert updates >= min(100, f.images), (f, said)
        seen.add(tuple(d.override for d in found))
    for words in seen:
        assert check.mistakes(list(words)) == []


def test_fewer_images_are_seen_more_often_and_in_smaller_batches():
    sizes = [facts(each=n) for n in (5, 50, 500, 5000)]
    said = [decided(recipe.plan(f, config(), frozenset())) for f in sizes]
    assert [s["trainer.max_epochs"] for s in said] == sorted((s["trainer.max_epochs"] for s in said), reverse=True)
    assert [s["data.batch_size"] for s in said] == sorted(s["data.batch_size"] for s in said)


def test_several_processes_share_a_batch_and_make_as_many_updates():
    alone = decided(recipe.plan(facts(family="attention"), config(), []))
    four = decided(recipe.plan(replace(facts(family="attention"), ranks=4), config(), []))
    assert alone["data.batch_size"] == 4 * four["data.batch_size"]
    changed = {key for key in alone if alone[key] != four[key]}
    assert changed == {"data.batch_size"}


@pytest.mark.parametrize("mirrored, flip", [(-0.01, 0.5), (0.02, 0.5), (-0.09, 0.0)])
def test_images_are_mirrored_only_where_the_probe_still_knows_them(mirrored, flip):
    found = decided(recipe.plan(facts(probed=probed(mirrored=mirrored)), config(), frozenset()))
    assert found["data.flip"] == flip


def test_few_images_do_not_forbid_mirroring_by_chance():
    assert (
        decided(recipe.plan(facts(probed=probed(mirrored=-2 / 16, asked=16)), config(), frozenset()))["data.flip"]
        == 0.5
    )
    assert (
        decided(recipe.plan(facts(probed=probed(mirrored=-4 / 16, asked=16)), config(), frozenset()))["data.flip"] == 0
    )


@pytest.mark.parametrize(
    "updates, batchnorm, lr", [((20, 8), "frozen", 5e-4), ((100, 8), "frozen", 5e-4), ((400, 8), "train", 1e-3)]
)
def test_short_runs_keep_the_statistics_of_batchnorm(updates, batchnorm, lr):
    each, epochs = updates
    cfg = config()
    cfg["trainer"]["max_epochs"] = epochs
    found = decided(recipe.plan(facts(each=each), cfg, frozenset({"trainer.max_epochs"})))
    assert (found["model.batchnorm"], found["optimizer.lr"]) == (batchnorm, lr)


def test_a_budget_is_shared_by_all_fits_that_are_planned():
    f = replace(facts(each=20), budget=Budget(600, 0, 0.01, 0.005, 100))
    seconds = [
        decided(recipe.plan(f, {**config(), **more}, frozenset(more)))["callbacks.deadline.seconds"]
        for more in ({"refit": "head"}, {}, {"recipe": "best"}, {"recipe": "best", "sweep": [1]})
    ]
    assert seconds[0] > 2 * seconds[1] > 4 * seconds[2] > 0
    assert seconds[3] == pytest.approx(seconds[1], abs=0.2)


@pytest.mark.parametrize("seconds, alone", [(3, True), (600, False)])
def test_a_budget_too_short_for_a_fit_leaves_the_probe(seconds, alone):
    from dataclasses import replace

    budget = Budget(total=seconds, spent=0, train=0.03, predict=0.01, test=100)
    found = decided(recipe.plan(replace(facts(probed=probed()), budget=budget), config(), frozenset()))
    assert (found["select"] == "probe") == alone
    assert ("callbacks.deadline.seconds" in found) != alone
    if not alone:
        assert found["trainer.max_epochs"] * 1000 * 0.03 <= 1.2 * seconds
        assert found["callbacks.deadline.seconds"] < seconds


@pytest.mark.parametrize(
    "scores, policy",
    [
        ({"squash": 0.80, "crop": 0.81, "pad": 0.79}, "squash"),
        ({"squash": 0.80, "crop": 0.90, "pad": 0.79}, "crop"),
        ({"squash": 0.60, "crop": 0.62, "pad": 0.79}, "pad"),
    ],
)
def test_squash_is_left_only_for_a_clear_gain(scores, policy):
    found = decided(recipe.plan(facts(probed=probed(resize=scores)), config(), frozenset()))
    assert found["data.resize"] == policy


def test_wrong_labels_are_left_out_where_the_probe_has_found_them():
    found = {d.key: d for d in recipe.plan(facts(probed=probed(noise=0.38, wrong=290)), config(), ())}
    assert found["data.suspects"].value == "drop"
    assert "38 %" in found["data.suspects"].reason and "290" in found["data.suspects"].reason
    assert decided(recipe.plan(facts(probed=probed(noise=0.02)), config(), ()))["data.suspects"] == "keep"
    assert "data.suspects" not in decided(recipe.plan(facts(probed=probed()), config(), ())), "it was not asked"


def test_colours_are_left_alone_where_they_carry_the_label():
    assert decided(recipe.plan(facts(probed=probed(grey=-0.2)), config(), frozenset()))["augment"] == "light"
    assert decided(recipe.plan(facts(probed=probed(grey=-0.02)), config(), frozenset()))["augment"] == "trivial"


def test_colours_that_the_user_says_are_what_counts_are_not_changed():
    cfg = {**config(), "data": {**config()["data"], "colour": False}}
    assert decided(recipe.plan(facts(), cfg, frozenset()))["augment"] == "light"
    assert decided(recipe.plan(replace(facts(), geometric=True), cfg, frozenset()))["augment"] == "none"


def test_of_numbers_what_is_said_of_mirrors_and_crops_is_obeyed():
    cfg, level = config("data=folder"), replace(facts(), geometric=True)
    cfg["data"] |= {"flip": 0.3, "crop_scale": [0.6, 1.0]}
    found = decided(recipe.plan(level, cfg, frozenset({"data.flip", "data.crop_scale"})))
    assert (found["augment"], found["augment.flip"], found["augment.scale"]) == ("colour", 0.3, [0.6, 1.0])
    assert not {"augment.flip", "augment.scale"} & set(decided(recipe.plan(level, cfg, frozenset())))


def test_rare_classes_count_as_much_as_frequent_ones_where_the_counts_are_far_apart():
    assert decided(recipe.plan(facts(imbalance=50), config(), frozenset()))["task.monitor"] == "val/balanced_acc"
    assert "task.monitor" not in decided(recipe.plan(facts(imbalance=5), config(), frozenset()))


def test_what_the_user_says_is_not_decided_again():
    words = ("data=digits", "trainer=ddp", "optimizer.lr=3e-4", "finetune=head", "trainer.max_epochs=3", "augment=none")
    found = decided(recipe.plan(facts(probed=probed()), config(*words), configs.given(words)))
    assert not {"optimizer.lr", "data.flip", "trainer.max_epochs", "augment"} & set(found), "digits.yaml says data.flip"
    assert not [key for key in found if key.startswith("finetune")]
    assert {"optimizer.weight_decay", "data.batch_size", "data.resize"} <= set(found)


def test_given_knows_words_presets_and_the_yaml_of_the_data():
    found = configs.given(["experiment=pretrain_glyphs", "finetune.stem=0.3", "loss=focal"])
    assert {"optimizer.lr", "trainer.max_epochs", "data", "finetune.stem", "loss", "data.flip"} <= found
    assert not {"optimizer", "trainer", "finetune"} & found


def test_without_a_probe_nothing_is_said_that_only_it_could_know():
    found = decided(recipe.plan(facts(), config(), frozenset()))
    assert not {"start", "data.flip", "data.resize"} & set(found)


def test_a_probe_alone_trains_nothing():
    known = facts(probed=replace(probed(), mirrored=None))  # which is not asked
    found = decided(recipe.plan(known, {**config(), "recipe": "probe"}, frozenset()))
    assert found["select"] == "probe"
    assert "fit" not in found["stages"]
    assert set(found) == {"data.resize", "select", "stages"}, "what is decided of a fit that is not made"
    typed = decided(recipe.plan(known, {**config(), "recipe": "probe", "stages": ["probe", "fit"]}, {"stages"}))
    assert {"finetune", "trainer.max_epochs", "data.batch_size"} <= set(typed), "where stages are typed, it is made"
    assert typed["select"] == "auto"


def test_where_place_may_be_the_target_only_the_light_changes_and_mirroring_must_be_harmless():
    moved = probed(mirrored=-0.02, asked=400)
    classes, numbers = (
        decided(recipe.plan(replace(facts(probed=moved), **kind), config(), frozenset()))
        for kind in ({}, {"geometric": True, "counts": ()})
    )
    assert (classes["augment"], classes["data.flip"]) == ("trivial", 0.5)
    assert (numbers["augment"], numbers["data.flip"]) == ("colour", 0.0)
    assert "task.monitor" not in numbers
    red = replace(facts(probed=probed(grey=-0.8)), geometric=True, counts=())  # the number is a colour
    assert decided(recipe.plan(red, config(), frozenset()))["augment"] == "none"


def test_another_optimizer_has_its_own_rate_by_as_much_as_that_of_adamw_is_changed():
    few = facts(each=20, probed=probed())
    said = []
    for words in ((), ("optimizer=sgd",)):
        cfg = config(*words)
        cfg["trainer"]["max_epochs"] = 8
        given = {"trainer.max_epochs", *(word.partition("=")[0] for word in words)}
        said.append(decided(recipe.plan(few, cfg, frozenset(given))))
    usual, sgd = said
    assert usual["optimizer.lr"] == 5e-4 and sgd["optimizer.lr"] == 5e-3  # half of what the yamls say
    assert "optimizer.weight_decay" not in sgd
    typed = frozenset({"optimizer", "optimizer.lr"})
    assert "optimizer.lr" not in decided(recipe.plan(few, config("optimizer=sgd", "optimizer.lr=0.02"), typed))


def test_images_are_not_turned_where_the_way_up_is_their_class():
    """Worse than blind, beyond chance: what is upside down is taken for another class."""
    found = {
        turned: decided(recipe.plan(facts(probed=probed(turned=turned)), config(), frozenset()))["augment"]
        for turned in ((0.15, 0.25), (0.22, 0.25), (0.3, 0.1), None)
    }
    assert list(found.values()) == ["jitter", "trivial", "trivial", "trivial"]


def test_images_are_neither_bent_nor_cropped_where_the_probe_then_knows_less_than_half_of_them():
    """Of 80 points above a blind answer."""

    def augment(trivial: float, *given: str) -> dict:
        seen = Shaken(still=0.9, blind=0.1, trivial=trivial)
        found = decided(recipe.plan(facts(probed=probed(shaken=seen)), config(), given))
        return {key: value for key, value in found.items() if key.startswith("augment")}

    assert augment(0.52) == {"augment": "trivial"} and augment(0.48) == {"augment": "jitter", "augment.scale": None}
    assert not augment(0.4, "augment") and augment(0.4, "data.crop_scale") == {"augment": "jitter"}
    assert augment(0.4, "augment.scale") == {"augment": "jitter"}
    both = probed(turned=(0.15, 0.25), shaken=Shaken(still=0.9, blind=0.1, trivial=0.4))
    assert "augment.scale" not in decided(recipe.plan(facts(probed=both), config(), frozenset()))  # the way up is lost


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dense", [False, True])
def test_a_word_for_what_is_decided_anyway_changes_no_rate(family, dense):
    known, words = replace(facts(family=family), dense=dense), config("finetune=llrd")
    alone = decided(recipe.plan(known, config(), set()))
    for given in ({"finetune"}, {"finetune", "finetune.stem"}):
        typed = decided(recipe.plan(known, words, given))
        keys = {"optimizer.lr", "finetune.body", "finetune.stem"} - given
        assert {key: typed[key] for key in keys} == {key: alone[key] for key in keys} and not given & {*typed}


def test_a_new_decoder_learns_faster_than_the_backbone_which_keeps_its_rate():
    plain, dense = (
        decided(recipe.plan(replace(facts(), dense=dense), config(), frozenset())) for dense in (False, True)
    )
    assert dense["augment"] == "jitter" and dense["optimizer.lr"] == recipe.DECODER > plain["optimizer.lr"]
    for part in ("finetune.body", "finetune.stem"):
        assert dense[part] * dense["optimizer.lr"] == pytest.approx(plain[part] * plain["optimizer.lr"], rel=1e-2)
    assert "refit" not in dense


@pytest.mark.parametrize("family", FAMILIES)
def test_a_way_to_fine_tune_that_states_its_rate_gets_it(family):
    plain = decided(recipe.plan(facts(family=family), config("finetune=norm"), frozenset({"finetune"})))
    stated = replace(facts(family=family), rate=3e-3)
    for pretrained in (True, False):
        found = decided(
            recipe.plan(replace(stated, pretrained=pretrained), config("finetune=norm"), frozenset({"finetune"}))
        )
        assert found["optimizer.lr"] == 3e-3 > plain["optimizer.lr"]


def test_a_head_that_is_not_linear_does_not_start_where_the_probe_ends():
    cfg = config()
    assert decided(recipe.plan(facts(probed=probed()), cfg, frozenset()))["start"] == "probe"
    cfg["model"]["head"] = "mlp"
    assert "start" not in decided(recipe.plan(facts(probed=probed()), cfg, frozenset()))


def test_masks_take_from_the_probe_what_it_was_asked_but_start_with_a_new_decoder():
    def of(**more):
        asked = replace(facts(probed=probed(resize={}, **more)), dense=True)
        return decided(recipe.plan(asked, config(), frozenset()))

    assert "start" not in of() and of()["augment"] == "jitter" and of(grey=-0.3)["augment"] == "light"
    assert of(mirrored=-0.06)["data.flip"] == 0.5 and of(mirrored=-0.2)["data.flip"] == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_are_learnt_gently_in_batches_in_which_classes_meet(family):
    for each in (20, 5_000):
        plain, embeds = facts(each, family=family), replace(facts(each, family=family), embeds=True)
        usual, said = (decided(recipe.plan(f, config(), frozenset())) for f in (plain, embeds))
        assert said["optimizer.lr"] == pytest.approx(usual["optimizer.lr"] / 5)
        assert said["data.batch_size"] == max(usual["data.batch_size"], 32)
    few = replace(facts(2, 10, family=family), embeds=True)
    assert decided(recipe.plan(few, config(), frozenset()))["data.batch_size"] == few.images == 20
    typed = frozenset({"optimizer.lr", "data.batch_size"})
    assert not typed & set(decided(recipe.plan(few, config("optimizer.lr=1e-3"), typed)))


@pytest.mark.parametrize(
    ("words", "size", "epochs", "updates", "batchnorm"),
    [
        ({"max_steps": 20_000}, 32, 625, "20,000", "train"),
        ({"max_steps": 100}, 32, 4, "100", "frozen"),
        ({"max_steps": 96}, 32, 3, "96", "frozen"),
        ({"max_steps": 100, "accumulate_grad_batches": 8}, 32, 25, "100", "frozen"),
        ({"max_steps": 100, "max_epochs": -1}, 32, None, "100", "frozen"),
        ({"max_steps": 100, "max_epochs": 50}, 32, None, "100", "frozen"),
        ({"max_steps": 5_000, "max_epochs": 50}, 32, None, "1,600", "train"),
        ({"accumulate_grad_batches": 8, "max_epochs": 50}, 32, None, "200", "frozen"),
    ],
)
def test_how_long_the_user_says_that_the_fit_is_is_what_is_planned_with(words, size, epochs, updates, batchnorm):
    cfg = config()
    cfg["trainer"].update(words)
    found = recipe.plan(facts(), cfg, {f"trainer.{key}" for key in words})
    values = decided(found)
    assert (values["data.batch_size"], values.get("trainer.max_epochs")) == (size, epochs)
    assert values["model.batchnorm"] == batchnorm
    assert next(d for d in found if d.key == "optimizer.lr").reason.endswith(f", {updates} updates in all")


@pytest.mark.parametrize(("effective", "ranks", "size"), [(96, 3, 8), (90, 2, 15), (48, 3, 8), (48, 1, 24), (7, 1, 7)])
def test_a_batch_that_is_added_up_is_a_whole_number_of_those_that_are_decided(effective, ranks, size):
    cfg = config()
    cfg["trainer"]["effective_batch"] = effective
    values = decided(recipe.plan(replace(facts(), ranks=ranks), cfg, {"trainer.effective_batch"}))
    assert values["data.batch_size"] == size


def test_ranks_fit_more_epochs_into_a_budget():
    one = replace(facts(each=1_000), budget=Budget(600, 10, 0.01, 0.003, 100))
    epochs = [decided(recipe.plan(replace(one, ranks=n), config(), set()))["trainer.max_epochs"] for n in (1, 2)]
    assert epochs[1] == pytest.approx(2 * epochs[0], abs=1)
