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
        ("bench --images pictures", "--images needs --data"),
        ("bench --fps 25 --rounds 3", "--rounds has no effect at a camera's frame rate: leave it out"),
        ("explain car.png --store store.db", "--store needs --event"),
        ("explain car.png --class-mapping m.json", "--class-mapping needs --checkpoint"),
        ("score cars -o out --num-gpus 1", "--num-gpus needs --ray"),
        ("score cars -o out --num-cpus 2", "--num-cpus needs --ray"),
        ("enroll -o new.onnx --remove A --reach 2", "--reach needs --class or --from"),
        ("export best.pt -o models --max-top1-drop 1", "--max-top1-drop needs --int8 or --fp16"),
        ("export best.pt -o models --max-wrong-names 0.1", "--max-wrong-names needs --max-wrong-claims"),
        ("page --certificate a.crt", "--certificate needs --key"),
        ("watch clip.mp4 --collect-limit 5MB", "--collect-limit needs --collect"),
        ("events --json export --csv -", "--json has no effect before `export`: leave it out"),
        ("events --camera gate resend", "--camera has no effect before `resend`: leave it out"),
        ("events --since 2d resend", "--since has no effect before `resend`: leave it out"),
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
        ({"output": "run", "images": "pictures"}, "no effect without `data`: pass it too"),
    ],
)
def test_an_argument_of_train_without_effect_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tw.train(**arguments)


def test_random_weights_are_not_frozen_by_default() -> None:
    recipe, _ = choose_recipe(None, (), "none")
    assert (recipe.weights, recipe.freeze_stages) == ("none", 0)
