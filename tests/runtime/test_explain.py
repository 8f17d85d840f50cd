"""An explanation points to what the answer rests on, in the picture's own geometry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import twincar_edge
from tests.support.tiny_model import tiny_model
from tests.support.training_toys import PLAIN, corner_image, toy_dataset, toy_recipe
from twincar_edge import cli
from twincar_edge.errors import InputError, ModelError
from twincar_edge.preprocess import Preprocess, prepare
from twincar_edge.runtime.explain import explain
from twincar_edge.runtime.inference.answers import Guess, Prediction
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.overlay import MIN_LONG_SIDE, draw_overlay
from twincar_edge.training.cam import to_image_geometry
from twincar_edge.training.checkpoint import write_checkpoint
from twincar_edge.training.fit import fit
from twincar_edge.training.machine import Machine
from twincar_edge.training.model import CarClassifier

SIDE = 96


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can only have learned to look at the upper left."""
    folder = tmp_path_factory.mktemp("explain")
    dataset = toy_dataset(folder / "data", per_class=24, size=SIDE)
    recipe = toy_recipe(preprocess=Preprocess(size_wh=(SIDE, SIDE)), augmentation=PLAIN, epochs=4, batch_size=8)
    result = fit(recipe, dataset, folder / "run", machine=Machine(device="cpu", threads=1))
    assert result.best.validation.top1 == 1
    return result.checkpoint


@pytest.mark.parametrize("label", [0, 1])
def test_the_heat_lies_where_the_classes_differ(checkpoint: Path, label: int) -> None:
    image_bgr = corner_image(label, np.random.default_rng(99), SIDE)
    explanation = explain(checkpoint, image_bgr)
    assert explanation.name == explanation.target == ("Blue Coupe 2010", "Red Coupe 2011")[label]
    heatmap = explanation.heatmap
    assert heatmap.dtype == np.float32 and heatmap.shape == (SIDE, SIDE)
    assert heatmap.min() >= 0 and 0.9 < heatmap.max() <= 1
    patch = slice(SIDE // 16, SIDE // 3)
    rows, columns = np.nonzero(heatmap > 0.9)  # the middle of the peak: the map is three cells wide, edges are flat
    assert patch.start <= rows.mean() < patch.stop and patch.start <= columns.mean() < patch.stop
    assert heatmap[patch, patch].mean() > 3 * heatmap[SIDE // 2 :, SIDE // 2 :].mean()


def test_guesses_are_the_models_own(checkpoint: Path) -> None:
    explanation = explain(checkpoint, corner_image(1, np.random.default_rng(5), SIDE))
    assert [guess.name for guess in explanation.top5] == ["Red Coupe 2011", "Blue Coupe 2010"]
    assert sum(guess.probability for guess in explanation.top5) == pytest.approx(1)
    assert explanation.probability == explanation.top5[0].probability > 0.5


def test_the_answer_goes_as_far_as_the_exported_models_thresholds(tmp_path: Path) -> None:
    grey = np.full((120, 160, 3), 128, np.uint8)
    explanation = twincar_edge.explain(grey)
    (expected,) = Classifier().predict([grey])
    assert explanation.prediction == expected
    assert expected.name == "unknown"
    assert explanation.target == explanation.name == expected.top5[0].name
    other = tiny_model(tmp_path / "tiny.onnx")
    with pytest.raises(InputError, match="has other classes than"):
        twincar_edge.explain(grey, model=other)


@pytest.mark.parametrize("target", [0, "Blue Coupe 2010"])
def test_evidence_for_another_class_can_be_asked_for(checkpoint: Path, target: int | str) -> None:
    image_bgr = corner_image(1, np.random.default_rng(5), SIDE)
    explanation = explain(checkpoint, image_bgr, target=target)
    assert (explanation.name, explanation.target) == ("Red Coupe 2011", "Blue Coupe 2010")
    assert not np.array_equal(explanation.heatmap, explain(checkpoint, image_bgr).heatmap)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (2, "target 2 lies outside the model's 2 classes, 0 to 1"),
        (-1, "target -1 lies outside"),
        ("Red Coupe", r"no class 'Red Coupe': did you mean 'Red Coupe 2011'"),
    ],
)
def test_a_target_that_is_no_class_is_named_with_its_nearest(checkpoint: Path, target: int | str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        explain(checkpoint, corner_image(0, np.random.default_rng(5), SIDE), target=target)


def test_an_exported_model_cannot_be_explained(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"explain needs the \.pt checkpoint that it came from"):
        explain(tmp_path / "model.onnx", np.zeros((8, 8, 3), np.uint8))


def test_a_transformer_is_refused(tmp_path: Path) -> None:
    preprocess = Preprocess(size_wh=(32, 32))
    model = CarClassifier("test_vit", 2, preprocess)
    from twincar_edge.labels import ClassMapping

    write_checkpoint(
        tmp_path / "vit.pt",
        architecture="test_vit",
        state_dict=model.backbone.state_dict(),
        classes=ClassMapping(("a", "b")),
        preprocess=preprocess,
        recipe={},
    )
    with pytest.raises(InputError, match="Grad-CAM needs a convolutional net"):
        explain(tmp_path / "vit.pt", np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("resize", ["squash", "letterbox", "center_crop"])
@pytest.mark.parametrize("shape", [(60, 120), (120, 60), (200, 200)])
def test_heat_goes_back_to_where_the_pixels_came_from(resize: str, shape: tuple[int, int]) -> None:
    preprocess = Preprocess.model_validate({"size_wh": (64, 48), "resize": resize})
    image_bgr = np.zeros((*shape, 3), np.uint8)
    centre_row, centre_column = int(shape[0] * 0.4), int(shape[1] * 0.55)  # inside every centre crop here
    image_bgr[centre_row - 6 : centre_row + 6, centre_column - 6 : centre_column + 6] = 255
    seen = prepare(image_bgr, preprocess)[:, :, 0].astype(np.float32)
    seen[seen == 114] = 0  # the letterbox's padding
    back = to_image_geometry(seen / 255, shape, preprocess)
    assert back.shape == shape and back.dtype == np.float32 and 0 <= back.min() <= back.max() <= 1
    rows, columns = np.nonzero(back > 0.5)
    assert abs(rows.mean() - centre_row) <= 2 and abs(columns.mean() - centre_column) <= 2


def test_what_a_centre_crop_does_not_see_stays_cold() -> None:
    preprocess = Preprocess(size_wh=(32, 32), resize="center_crop")
    back = to_image_geometry(np.ones((32, 32), np.float32), (40, 100), preprocess)
    assert not back[:, :30].any() and not back[:, 70:].any() and back[:, 31:69].min() == 1


def test_the_overlay_leaves_cold_places_as_they_are_and_can_be_read() -> None:
    image_bgr = np.random.default_rng(1).integers(0, 256, (300, 800, 3), dtype=np.uint8)
    heatmap = np.zeros((300, 800), np.float32)
    heatmap[100:200, 100:200] = 1
    guesses = (Guess("Citroën 2CV Sedan 1975", 0.7), Guess("x" * 200, 0.2), Guess("B|ä 2012", 0.0))
    overlay = draw_overlay(image_bgr, heatmap, told(*guesses))
    assert overlay.dtype == np.uint8 and overlay.shape[1] == 800 and overlay.shape[0] > 300 + 60
    np.testing.assert_array_equal(overlay[:300, 400:], image_bgr[:, 400:])
    assert np.abs(overlay[140:160, 140:160].astype(int) - image_bgr[140:160, 140:160]).mean() > 30
    strip = overlay[300:]
    assert (strip.max(axis=2) > 200).sum() > 200  # light letters on a dark ground
    taller = draw_overlay(image_bgr, heatmap, told(*guesses), target="Another Coupe 2001")
    assert taller.shape[0] > overlay.shape[0]
    unknown = draw_overlay(image_bgr, heatmap, replace(told(*guesses), name="unknown", level="unknown"))
    assert unknown.shape[0] == taller.shape[0]  # a line for what is told


def told(*guesses: Guess) -> Prediction:
    return Prediction(0, guesses[0].name, "year", guesses[0].probability, None, guesses)


@pytest.mark.parametrize("shape", [(8, 8), (30, 400), (400, 30), (3000, 1000)])
def test_the_overlay_is_large_enough_to_read_and_not_larger_than_useful(shape: tuple[int, int]) -> None:
    overlay = draw_overlay(np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.float32), told(Guess("a", 1.0)))
    assert MIN_LONG_SIDE <= max(overlay.shape[:2]) <= 1400


def test_the_command_writes_the_overlay_and_says_what_it_saw(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "car.png"
    cv2.imwrite(str(image), corner_image(0, np.random.default_rng(8), SIDE))
    with pytest.raises(SystemExit) as caught:
        cli.main(["explain", str(checkpoint), str(image), "-o", str(tmp_path / "out" / "o.png"), "--target", "1"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "Blue Coupe 2010"
    assert out.splitlines()[1].endswith("%  Blue Coupe 2010") and "evidence for Red Coupe 2011" in out
    assert cv2.imread(str(tmp_path / "out" / "o.png")).shape[1] >= 700


@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_an_unusable_image_is_one_line(
    checkpoint: Path, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "car.jpg").write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        cli.main(["explain", str(checkpoint), str(tmp_path / "car.jpg"), "-o", str(tmp_path / "o.png")])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "o.png").exists()
