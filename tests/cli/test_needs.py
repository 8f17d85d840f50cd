"""An option or argument that would have no effect is refused."""

from __future__ import annotations

from typing import Any

import pytest

import twincar_edge as tw
from twincar_edge.api.train import choose_recipe
from twincar_edge.cli import main
from twincar_edge.errors import InputError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("evaluate best.pt --split run --sizes 64", "--sizes needs --unknown or --conditions"),
        ("evaluate best.pt --split run --explain-images 5", "--explain-images needs --explain"),
        ("evaluate best.pt --split run --reference other.onnx", "--reference needs --explain"),
        ("evaluate best.pt --split run --images pictures", "--images needs --data"),
        ("evaluate best.pt --split run --no-crop", "--crop needs --data"),
        ("parity a.onnx --reference b.onnx --data-class-mapping m.json", "--data-class-mapping needs --data"),
        ("train cars -o run --max-old-drop 2", "--max-old-drop needs --extend"),
        ("train --resume run --images pictures", "--images needs DATA"),
        (
            "train cars -o run --no-validation --set validation_share=0.2",
            "--no-validation cannot be combined with --set validation_share",
        ),
        ("train cars -o run --weights none --set weights=auto", "weights are given twice"),
        ("train cars -o run --weights none --set freeze_stages=2", "random weights cannot be frozen"),
        ("export best.pt -o models --float-layers 3", "--float-layers needs --int8"),
        ("zones clip.mp4 --camera gate", "--camera needs --config"),
    ],
)
def test_an_option_without_effect_is_refused(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    error = capsys.readouterr().err
    assert ended.value.code == 2 and message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resume": "run", "recipe": "tiny.toml", "crop": False}, "leave out `crop`, `recipe`"),
        ({"resume": "run", "max_old_drop": 0, "images": "pictures"}, "leave out `images`, `max_old_drop`"),
        ({"data": "cars", "output": "run", "max_old_drop": 2}, "`max_old_drop` needs `extend`"),
        ({"output": "run", "images": "pictures"}, "pass `data` too"),
    ],
)
def test_an_argument_of_train_without_effect_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tw.train(**arguments)


def test_random_weights_are_not_frozen_by_default() -> None:
    recipe, _ = choose_recipe(None, (), "none")
    assert (recipe.weights, recipe.freeze_stages) == ("none", 0)
