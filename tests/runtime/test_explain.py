"""An explanation points to the evidence for the answer, in the geometry of the picture."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import twincar_edge
from tests.support.memory import traced_memory
from tests.support.tiny_model import tiny_model
from tests.support.training_toys import PLAIN, corner_image, toy_dataset, toy_recipe
from twincar_edge import cli
from twincar_edge.bundled import default_checkpoint, default_model
from twincar_edge.errors import InputError
from twincar_edge.heatmaps import to_image_geometry
from twincar_edge.preprocess import Preprocess, prepare
from twincar_edge.runtime.explain import open_explainer
from twincar_edge.runtime.explanation import Explanation
from twincar_edge.runtime.inference.answers import Guess, Prediction
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.overlay import MIN_LONG_SIDE, draw_overlay, draw_panel
from twincar_edge.training.checkpoint import write_checkpoint
from twincar_edge.training.fit import fit
from twincar_edge.training.machine import Machine
from twincar_edge.training.model import CarClassifier

SIDE = 96


def explain(
    checkpoint: Path,
    image_bgr: NDArray[np.uint8],
    target: int | str | None = None,
    against: int | str | None = None,
    method: str | None = None,
) -> Explanation:
    return open_explainer(str(checkpoint), method=method).explain(image_bgr, target=target, against=against)


def answer(*guesses: Guess) -> Prediction:
    return Prediction(None, "unknown", "unknown", guesses[0].probability, None, guesses)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can only have learned from the upper left."""
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
    assert explanation.prediction.name == explanation.target == ("Blue Coupe 2010", "Red Coupe 2011")[label]
    heatmap = explanation.heatmap
    assert heatmap.dtype == np.float32 and heatmap.shape == (SIDE, SIDE)
    assert heatmap.min() >= 0 and 0.9 < heatmap.max() <= 1
    patch = slice(SIDE // 16, SIDE // 3)
    rows, columns = np.nonzero(heatmap > 0.9)  # the middle of the peak: the map is three cells wide, edges are flat
    assert patch.start <= rows.mean() < patch.stop and patch.start <= columns.mean() < patch.stop
    assert heatmap[patch, patch].mean() > 3 * heatmap[SIDE // 2 :, SIDE // 2 :].mean()


def test_the_explanation_has_the_models_own_guesses(checkpoint: Path) -> None:
    explanation = explain(checkpoint, corner_image(1, np.random.default_rng(5), SIDE))
    assert [guess.name for guess in explanation.prediction.top5] == ["Red Coupe 2011", "Blue Coupe 2010"]
    assert sum(guess.probability for guess in explanation.prediction.top5) == pytest.approx(1)
    assert explanation.prediction.probability == explanation.prediction.top5[0].probability > 0.5


def test_the_answer_is_as_specific_as_the_exported_models_thresholds_allow(tmp_path: Path) -> None:
    gray = np.full((120, 160, 3), 128, np.uint8)
    (expected,) = Classifier().predict([gray])
    assert expected.name == "unknown"
    by_torch = twincar_edge.explain(gray, default_checkpoint(), model=default_model())
    for explanation in (twincar_edge.explain(gray), by_torch):
        assert explanation.prediction == expected
        assert explanation.target == expected.top5[0].name
    with pytest.raises(InputError, match="have different classes"):
        twincar_edge.explain(gray, default_checkpoint(), model=tiny_model(tmp_path / "tiny.onnx"))


def test_the_exported_model_and_its_checkpoint_give_the_same_map(shared: Path) -> None:
    for image in sorted((shared / "cars196_more" / "images").iterdir())[:3]:
        by_torch = twincar_edge.explain(image, default_checkpoint(), model=default_model())
        alone = twincar_edge.explain(image)
        assert alone.target == by_torch.target
        correlation = np.corrcoef(alone.heatmap.ravel(), by_torch.heatmap.ravel())[0, 1]
        assert correlation > 0.98  # INT8 against PyTorch; FP32 files give the same map


def test_an_exported_model_refuses_methods_of_the_grad_cam_library() -> None:
    with pytest.raises(InputError, match="not available for exported models: use one of grad-cam"):
        twincar_edge.explain(np.zeros((8, 8, 3), np.uint8), method="layer-cam")


@pytest.mark.parametrize("target", [0, "Blue Coupe 2010"])
def test_a_target_class_can_be_chosen(checkpoint: Path, target: int | str) -> None:
    image_bgr = corner_image(1, np.random.default_rng(5), SIDE)
    explanation = explain(checkpoint, image_bgr, target=target)
    assert (explanation.prediction.name, explanation.target) == ("Red Coupe 2011", "Blue Coupe 2010")
    assert not np.array_equal(explanation.heatmap, explain(checkpoint, image_bgr).heatmap)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (2, "class index 2 is out of range: the model has 2 classes, 0 to 1"),
        (-1, "class index -1 is out of range"),
        ("Red Coupe", r"no class 'Red Coupe': did you mean 'Red Coupe 2011'"),
    ],
)
def test_an_unknown_target_class_is_an_error_that_names_the_nearest(
    checkpoint: Path, target: int | str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        explain(checkpoint, corner_image(0, np.random.default_rng(5), SIDE), target=target)


@pytest.mark.parametrize("method", ["grad-cam++", "grad-cam", "layer-cam", "occlusion"])
def test_other_methods_point_to_the_same_location(checkpoint: Path, method: str) -> None:
    heatmap = explain(checkpoint, corner_image(1, np.random.default_rng(5), SIDE), method=method).heatmap
    row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    assert max(row, column) < SIDE / 2


def test_an_unknown_method_is_an_error_that_names_the_nearest(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="no method 'gradcam': did you mean 'grad-cam'"):
        explain(checkpoint, corner_image(1, np.random.default_rng(5), SIDE), method="gradcam")


def test_a_comparison_shows_the_evidence_for_each_class(checkpoint: Path) -> None:
    image_bgr = corner_image(1, np.random.default_rng(5), SIDE)
    one = explain(checkpoint, image_bgr, against="auto")
    other = explain(checkpoint, image_bgr, target=0, against=1)
    assert (one.target, one.against) == ("Red Coupe 2011", "Blue Coupe 2010")
    np.testing.assert_allclose(one.heatmap, -other.heatmap, atol=1e-5)
    assert one.heatmap.min() >= -1 and one.heatmap.max() <= 1
    row, column = np.unravel_index(one.heatmap.argmax(), one.heatmap.shape)
    assert max(row, column) < SIDE / 2
    by_gradient = explain(checkpoint, image_bgr, against="auto", method="grad-cam++")
    assert by_gradient.heatmap[: SIDE // 3, : SIDE // 3].mean() > 0.3
    with pytest.raises(InputError, match="is the target class 'Red Coupe 2011'"):
        explain(checkpoint, image_bgr, against=1)


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
    with pytest.raises(InputError, match="no convolutional stage, which Grad-CAM needs: use `method='occlusion'`"):
        explain(tmp_path / "vit.pt", np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("resize", ["squash", "letterbox", "center_crop"])
@pytest.mark.parametrize("shape", [(60, 120), (120, 60), (200, 200)])
def test_the_heat_map_is_mapped_back_to_the_picture(resize: str, shape: tuple[int, int]) -> None:
    preprocess = Preprocess.model_validate({"size_wh": (64, 48), "resize": resize})
    image_bgr = np.zeros((*shape, 3), np.uint8)
    center_row, center_column = int(shape[0] * 0.4), int(shape[1] * 0.55)  # inside every center crop here
    image_bgr[center_row - 6 : center_row + 6, center_column - 6 : center_column + 6] = 255
    seen = prepare(image_bgr, preprocess)[:, :, 0].astype(np.float32)
    seen[seen == 114] = 0  # the letterbox's padding
    back = to_image_geometry(seen / 255, shape, preprocess)
    assert back.shape == shape and back.dtype == np.float32 and 0 <= back.min() <= back.max() <= 1
    rows, columns = np.nonzero(back > 0.5)
    assert abs(rows.mean() - center_row) <= 2 and abs(columns.mean() - center_column) <= 2


def test_the_heat_map_is_zero_outside_a_center_crop() -> None:
    preprocess = Preprocess(size_wh=(32, 32), resize="center_crop")
    back = to_image_geometry(np.ones((32, 32), np.float32), (40, 100), preprocess)
    assert not back[:, :30].any() and not back[:, 70:].any() and back[:, 31:69].min() == 1


def test_a_large_heat_map_is_made_in_place() -> None:
    with traced_memory() as peak_bytes:
        back = to_image_geometry(np.ones((32, 32), np.float32), (2000, 3000), Preprocess(size_wh=(32, 32)))
    assert back.min() == 1
    assert peak_bytes() < 1.1 * back.nbytes


def test_the_overlay_leaves_areas_without_heat_unchanged() -> None:
    image_bgr = np.random.default_rng(1).integers(0, 256, (300, 800, 3), dtype=np.uint8)
    heatmap = np.zeros((300, 800), np.float32)
    heatmap[100:200, 100:200] = 1
    overlay = draw_overlay(image_bgr, heatmap)
    assert overlay.dtype == np.uint8 and overlay.shape == image_bgr.shape
    np.testing.assert_array_equal(overlay[:300, 400:], image_bgr[:, 400:])
    assert np.abs(overlay[140:160, 140:160].astype(int) - image_bgr[140:160, 140:160]).mean() > 30


def test_a_comparison_has_two_colors() -> None:
    heatmap = np.zeros((300, 800), np.float32)
    heatmap[100:200, 100:200], heatmap[100:200, 600:700] = 1, -1
    overlay = draw_overlay(np.full((300, 800, 3), 128, np.uint8), heatmap).astype(int)
    blue, _, red = overlay[150, 150]
    assert red > blue + 50
    blue, _, red = overlay[150, 650]
    assert blue > red + 50
    assert (overlay[10, 10] == 128).all()


def test_the_panel_is_readable_and_shows_unknown_like_a_box_does() -> None:
    image_bgr = np.zeros((300, 400, 3), np.uint8)
    guesses = (Guess("Citroën 2CV Sedan 1975", 0.4), Guess("x" * 200, 0.2), Guess("B|ä 2012", 0.0))
    panel = draw_panel(image_bgr, np.zeros((300, 400), np.float32), answer(*guesses), guesses[0].name)
    shorter = draw_panel(image_bgr, np.zeros((300, 400), np.float32), answer(guesses[0]), guesses[0].name)
    compared = draw_panel(
        image_bgr, np.zeros((300, 400), np.float32), answer(*guesses), guesses[0].name, guesses[2].name
    )
    assert panel.shape[1] >= 720 and shorter.shape[0] < panel.shape[0] < compared.shape[0]
    strip = panel[-200:]
    assert (strip.max(axis=2) > 150).sum() > 200  # light letters on a dark background
    coarser = draw_panel(
        image_bgr, np.zeros((300, 400), np.float32), Prediction(0, "A", "make", 0.4, None, guesses), guesses[0].name
    )
    assert not np.array_equal(coarser, panel)


@pytest.mark.parametrize("shape", [(8, 8), (30, 400), (400, 30), (3000, 1000)])
def test_the_size_of_the_pictures_is_bounded_on_both_sides(shape: tuple[int, int]) -> None:
    image_bgr, heatmap = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.float32)
    assert MIN_LONG_SIDE <= max(draw_overlay(image_bgr, heatmap).shape[:2]) <= 1280
    assert 720 <= draw_panel(image_bgr, heatmap, answer(Guess("a", 1.0)), "a").shape[1] <= 2600


def test_the_command_writes_the_overlay_and_prints_the_answer(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "car.png"
    cv2.imwrite(str(image), corner_image(0, np.random.default_rng(8), SIDE))
    with pytest.raises(SystemExit) as caught:
        cli.main(
            [
                "explain",
                "--checkpoint",
                str(checkpoint),
                str(image),
                "-o",
                str(tmp_path / "out" / "o.png"),
                "--target",
                "1",
            ]
        )
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "Blue Coupe 2010"
    assert out.splitlines()[1].endswith("%  Blue Coupe 2010") and "evidence for Red Coupe 2011" in out
    assert cv2.imread(str(tmp_path / "out" / "o.png")).shape[1] >= 700


@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_an_unusable_image_is_a_one_line_error(
    checkpoint: Path, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "car.jpg").write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        cli.main(["explain", "--checkpoint", str(checkpoint), str(tmp_path / "car.jpg"), "-o", str(tmp_path / "o.png")])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "o.png").exists()


def test_a_folder_gives_one_picture_per_image_and_a_contact_sheet(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "car.png"), corner_image(0, np.random.default_rng(8), SIDE))
    arguments = [
        "explain",
        "--checkpoint",
        str(checkpoint),
        str(tmp_path / "a"),
        str(tmp_path / "b"),
        "--json",
        "--parts",
    ]
    with pytest.raises(SystemExit) as caught:
        cli.main([*arguments, "-o", str(tmp_path / "why")])
    assert caught.value.code == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(record["picture"]).name for record in records] == ["car-1.png", "car-2.png"]
    assert records[0]["target"] == "Blue Coupe 2010" and records[0]["against"] is None
    heatmap = np.load(tmp_path / "why" / "car-2.npy")
    assert heatmap.shape == (SIDE, SIDE) and heatmap.dtype == np.float32
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == sorted(
        [f"car-{n}{end}" for n in (1, 2) for end in (".png", ".npy", ".overlay.png")] + ["sheet.jpg"]
    )
