"""Invalid recipes are refused, and the shipped ones are complete."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.support.training_toys import toy_recipe
from twincar_edge.errors import InputError
from twincar_edge.preprocess import Preprocess
from twincar_edge.training import recipe_files
from twincar_edge.training.recipe import Augmentation, Distillation, Recipe
from twincar_edge.training.recipe_files import read_recipe, shipped_recipes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"freeze_stages": 1}, "random weights cannot be frozen"),
        ({"augmentation": {"min_scale": 0}}, "augmentation.min_scale"),
        ({"first_train_size": 48}, "training crops can only grow: first_train_size must be 32 or less"),
        ({"size": 64}, "size and preprocess both set"),
        ({"preprocess": Preprocess(size_wh=(64, 48)), "first_train_size": 56}, "first_train_size must be 48 or less"),
        ({"what": 1}, "what"),
        ({"validation_share": 0, "patience": 3}, "set patience to 0 and schedule to cosine"),
        ({"validation_share": 0, "schedule": "plateau"}, "set patience to 0 and schedule to cosine"),
        ({"distillation": {"weight": 2}}, "distillation.weight"),
        ({"distillation": {"teacher_size": 24}}, "teacher_size must be 32 or more"),
        ({"distillation": {"teacher_sha256": "abc"}}, "teacher_sha256"),
    ],
)
def test_an_invalid_recipe_is_rejected(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy_recipe(**changes)


def test_dependent_defaults_are_filled_in() -> None:
    assert Recipe().preprocess.mean == (0.5, 0.5, 0.5)
    assert Recipe(architecture="resnet50").preprocess == Preprocess()
    assert Recipe.model_validate({"size": 192}).preprocess.size_wh == (192, 192)
    assert Recipe.model_validate({"size": [256, 192]}).preprocess.size_wh == (256, 192)
    assert (Recipe().freeze_stages, Recipe(weights="none").freeze_stages) == (2, 0)
    assert toy_recipe().train_size_wh == (32, 32) and toy_recipe(train_size=24).train_size_wh == (24, 24)


def test_training_crops_grow_to_their_final_size() -> None:
    recipe = toy_recipe(preprocess=Preprocess(size_wh=(224, 224)), train_size=176, first_train_size=128, epochs=40)
    sizes = [recipe.train_size_wh_in(epoch)[0] for epoch in range(1, 41)]
    assert sizes[0] == 128 and sizes == sorted(sizes) and set(sizes) == {128, 144, 160, 176}
    assert sizes[29:] == [176] * 11
    recipe = toy_recipe(
        preprocess=Preprocess(size_wh=(224, 224)), train_size=192, first_train_size=128, size_step=32, epochs=40
    )
    assert [recipe.train_size_wh_in(epoch)[0] for epoch in (1, 8, 9, 23, 24, 40)] == [128, 128, 160, 160, 192, 192]
    assert {toy_recipe(epochs=5).train_size_wh_in(epoch) for epoch in range(1, 6)} == {(32, 32)}


@pytest.mark.parametrize(
    ("size_wh", "sizes"),
    [
        ((256, 192), [(176, 128), (192, 144), (208, 160)]),
        ((192, 256), [(128, 176), (144, 192), (160, 208)]),
        ((224, 216), [(128, 128), (144, 144), (160, 160)]),  # never narrower than high
    ],
)
def test_training_crops_have_the_shape_of_the_models_input(
    size_wh: tuple[int, int], sizes: list[tuple[int, int]]
) -> None:
    preprocess = Preprocess(size_wh=size_wh)
    recipe = toy_recipe(preprocess=preprocess, train_size=160, first_train_size=128, epochs=20)
    assert sorted({recipe.train_size_wh_in(epoch) for epoch in range(1, 21)}) == sizes
    assert recipe.train_size_wh == sizes[-1]
    assert toy_recipe(preprocess=preprocess, first_train_size=128).train_size_wh_in(1) == sizes[0]
    assert toy_recipe(preprocess=preprocess, first_train_size=128, epochs=20).train_size_wh_in(20) == size_wh
    teacher = toy_recipe(preprocess=preprocess, train_size=128, distillation={"teacher_size": 160})
    assert teacher.crop_size_wh_in(1) == sizes[-1]


@pytest.mark.parametrize("size", ["[256]", "[256, 192, 3]", "wide", "[256, high]", "2.5"])
def test_a_size_is_a_number_of_pixels_or_a_width_and_a_height(size: str) -> None:
    with pytest.raises(InputError, match="size must be a number of pixels, or a width and a height"):
        read_recipe("lite0-cars196", [f"size={size}"])


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_states_every_key(name: str) -> None:
    document = tomllib.loads((Path(recipe_files.__file__).parent / "recipes" / f"{name}.toml").read_text())
    distills = document.pop("distillation", None)
    assert set(document) == set(Recipe.model_fields) - {"preprocess", "distillation"} | {"size"}
    assert distills is None or set(distills) == set(Distillation.model_fields) - {"teacher_sha256"}
    assert set(document["augmentation"]) == set(Augmentation.model_fields)


def test_the_recipe_of_the_original_matches_its_published_script() -> None:
    recipe = read_recipe("resnet50-cars196")
    assert (recipe.architecture, recipe.freeze_stages, recipe.dropout) == ("resnet50", 2, 0.2)
    rates = [recipe.learning_rate * recipe.layer_decay, recipe.learning_rate, recipe.head_learning_rate]
    assert rates == pytest.approx([1e-5, 1e-4, 1e-3])  # layer 3, layer 4, head
    assert (recipe.optimizer, recipe.schedule, recipe.class_balance) == ("adam", "plateau", "weighted")
    assert (recipe.label_smoothing, recipe.batch_size, recipe.epochs, recipe.validation_share) == (0.1, 32, 25, 0.1)
    assert recipe.patience > 0


def test_single_keys_can_be_overridden_and_the_last_override_wins() -> None:
    changes = ["epochs=3", "epochs=4", "augmentation.jitter=0.1", "optimizer=adam"]
    recipe = read_recipe("lite0-cars196", [*changes, "size = 96", "train_size=64", "first_train_size=0"])
    assert (recipe.epochs, recipe.augmentation.jitter, recipe.optimizer) == (4, 0.1, "adam")
    assert recipe.preprocess.size_wh == (96, 96)
    assert recipe.distillation is None
    distills = read_recipe("lite0-cars196", ["distillation.weight=0.5"]).distillation
    assert distills == Distillation(weight=0.5)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("lite0-cars196", "epoch=3", "a recipe has no key 'epoch': did you mean 'epochs'"),
        ("lite0-cars196", "augmentation.jiter=1", "no key 'augmentation.jiter': did you mean 'augmentation.jitter'"),
        ("lite0-cars196", "distillation.hint=1", "no key 'distillation.hint': did you mean 'distillation.hints'"),
        ("lite0-cars196", "optimizer=sgd", "not a valid recipe, at optimizer"),
        ("lite0-cars196", "epochs", "invalid recipe override 'epochs': use key=value"),
        ("lite0-cars196", "epochs.x=3", "a recipe has no table 'epochs'"),
        ("lite0-car196", "epochs=3", "no recipe 'lite0-car196': did you mean 'lite0-cars196'"),
        ("lite0-cars196", "augmentation.flip=true", "at augmentation.flip: Input should be a number, not a boolean"),
        ("absent.toml", "epochs=3", "cannot read the recipe absent.toml: No such file"),
    ],
)
def test_an_invalid_override_gets_a_suggestion(name: str, change: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_recipe(name, [change])


def test_a_custom_recipe_is_read_from_a_toml_file(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('architecture = "resnet50"\nepochs = 2\n[preprocess]\nsize_wh = [96, 64]\n')
    recipe = read_recipe(str(own))
    assert (recipe.epochs, recipe.preprocess.size_wh) == (2, (96, 64))
    assert read_recipe(str(own), ["size=32"]).preprocess.size_wh == (32, 32)
    own.write_text(own.read_text(), "utf-8-sig")  # as Windows editors save it
    assert read_recipe(str(own)) == recipe
    own.write_text("epochs = = 2")
    with pytest.raises(InputError, match=r"own\.toml is not a TOML file"):
        read_recipe(str(own))


def test_random_crops_have_the_size_of_the_teacher_or_of_the_model() -> None:
    growing = {"preprocess": Preprocess(size_wh=(64, 64)), "train_size": 48, "first_train_size": 32, "epochs": 4}
    assert [toy_recipe(**growing).crop_size_wh_in(epoch)[0] for epoch in (1, 4)] == [32, 48]
    same = toy_recipe(**growing, distillation={})
    assert [same.crop_size_wh_in(epoch)[0] for epoch in (1, 4)] == [32, 48]
    larger = toy_recipe(**growing, distillation={"teacher_size": 64})
    assert [larger.crop_size_wh_in(epoch) for epoch in (1, 4)] == [(64, 64)] * 2
