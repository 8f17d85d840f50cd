"""An open exported file is explained by one run, in any thread, including its enrolled classes."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import twincar_edge as tw
from tests.support.tiny_model import RED, tiny_model
from twincar_edge.bundled import default_model
from twincar_edge.cli import main
from twincar_edge.enrolled import learn_class
from twincar_edge.errors import InputError
from twincar_edge.images import write_image
from twincar_edge.preprocess import prepare_batch
from twincar_edge.runtime.explain_exported import ExportedModel, explain_crop
from twincar_edge.runtime.explanation import ExplanationStoppedError
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.engine import Engine
from twincar_edge.synthetic import draw_twin_car

ENROLLED = "Rigel Nova Sedan 2024"


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(default_model(), ep="cpu", threads=1)


def drawn(label: int, seed: int = 5) -> NDArray[np.uint8]:
    car = draw_twin_car(label, np.random.default_rng(seed))
    left, top, right, bottom = car.box_xyxy
    return car.image_bgr[top:bottom, left:right]


@pytest.fixture(scope="module")
def enrolled(classifier: Classifier) -> Classifier:
    """The bundled model with an enrolled class of drawn cars, which differ from all its training images."""
    session = classifier.session
    pictures = [drawn(4, seed) for seed in (9, 10, 11)]
    embeddings = session.embed(prepare_batch(pictures, session.manifest.preprocess))
    assert session.prototypes is not None
    known = learn_class(
        ENROLLED,
        embeddings,
        session.prototypes,
        enrolled_at=datetime(2026, 3, 1, tzinfo=UTC),
        source_sha256=session.sha256,
    )
    return Classifier(dataclasses.replace(session, enrolled=known))


def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the size of each batch of any model is appended."""
    sizes: list[int] = []
    outputs = Engine.outputs

    def counted(engine: Engine, batch: NDArray[np.uint8], names: list[str]) -> list[NDArray[np.float32]]:
        sizes.append(len(batch))
        return outputs(engine, batch, names)

    monkeypatch.setattr(Engine, "outputs", counted)
    return sizes


def test_an_open_classifier_is_explained_as_it_is(enrolled: Classifier) -> None:
    explanation = tw.explain(drawn(4, 9), model=enrolled, method="grad-cam", target=ENROLLED)
    assert np.array_equal(
        explanation.heatmap, explain_crop(enrolled, drawn(4, 9), method="grad-cam", target=ENROLLED).heatmap
    )


@pytest.mark.parametrize("against", [None, "auto"])
def test_the_answer_and_the_map_need_one_run_and_open_no_file(
    classifier: Classifier, against: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    crop_bgr = drawn(0)
    expected = classifier(crop_bgr)
    sizes = runs(monkeypatch)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("a file was opened"))
    explanation = explain_crop(classifier, crop_bgr, against=against, method="grad-cam")
    assert sizes == [1]
    assert explanation.prediction == expected
    assert explanation.target == expected.top5[0].name and len(explanation.looks_like) == 3
    assert (explanation.heatmap.min() < 0) == (against is not None)
    assert explanation.overlay_bgr.dtype == np.uint8 and explanation.overlay_bgr.ndim == 3


def test_occlusion_is_the_fallback_if_the_grad_cam_map_is_all_zeros(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExportedModel, "maps", lambda *_: np.zeros((1, 7, 7), np.float32))
    explanation = explain_crop(classifier, drawn(0))
    assert explanation.method == "occlusion"
    assert explanation.heatmap.max() > 0
    with pytest.raises(InputError, match=r"grad-cam.* finds no evidence"):
        explain_crop(classifier, drawn(0), method="grad-cam++")


def test_the_caller_can_cancel_a_comparison(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = runs(monkeypatch)
    turns = iter([False, False, True])
    with pytest.raises(ExplanationStoppedError, match="was canceled"):
        explain_crop(classifier, drawn(0), against="auto", stopped=lambda: next(turns))
    assert len(sizes) == 3
    assert max(sizes) <= 4  # the batch size bounds the delay of a cancellation


def test_several_threads_can_explain_with_one_classifier(classifier: Classifier) -> None:
    crops = [drawn(label) for label in (0, 2, 4, 6)]
    alone = [explain_crop(classifier, crop).heatmap for crop in crops]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda crop: explain_crop(classifier, crop).heatmap, crops))
    np.testing.assert_array_equal(
        np.concatenate([one.ravel() for one in together]), np.concatenate([one.ravel() for one in alone])
    )


@pytest.mark.parametrize("method", ["grad-cam++", "grad-cam", "occlusion"])
def test_an_enrolled_class_is_explained_by_its_similarity(enrolled: Classifier, method: str) -> None:
    crop_bgr = drawn(4, 9)
    seen = explain_crop(enrolled, crop_bgr, target=ENROLLED, method=method)
    assert seen.target == ENROLLED and ENROLLED in [guess.name for guess in seen.looks_like]
    assert seen.heatmap.min() >= 0 and seen.heatmap.max() > 0.9


def test_heat_for_an_enrolled_class_is_the_gradient_of_its_similarity(
    enrolled: Classifier,
) -> None:
    model = ExportedModel(enrolled)
    run = model.run(drawn(4, 9))
    assert run.embeddings is not None and run.features is not None and enrolled.session.enrolled is not None
    channels, rows, columns = run.features.shape[1:]
    places = run.features.reshape(channels, rows * columns).T / (rows * columns)
    more = enrolled.session.enrolled.similarities(run.embeddings + 0.05 * places)[:, 0]
    less = enrolled.session.enrolled.similarities(run.embeddings - 0.05 * places)[:, 0]
    heat = model.maps("grad-cam", run, model.classes.index(ENROLLED), None)[0]
    expected = np.maximum(more - less, 0).reshape(rows, columns)
    np.testing.assert_allclose(heat, (expected - expected.min()) / np.ptp(expected), atol=0.02)


@pytest.mark.parametrize("method", ["grad-cam", "occlusion"])
def test_an_enrolled_class_is_compared_with_a_trained_one(enrolled: Classifier, method: str) -> None:
    crop_bgr, trained = drawn(4, 9), enrolled.manifest.classes[0]
    one = explain_crop(enrolled, crop_bgr, target=ENROLLED, against=trained, method=method)
    other = explain_crop(enrolled, crop_bgr, target=trained, against=ENROLLED, method=method)
    assert (one.target, one.against) == (ENROLLED, trained)
    np.testing.assert_allclose(one.heatmap, -other.heatmap, atol=1e-4)


def test_the_runner_up_of_an_enrolled_answer_is_the_next_class(enrolled: Classifier) -> None:
    explanation = explain_crop(enrolled, drawn(4, 9), against="auto", method="grad-cam")
    first, second, *_ = explanation.prediction.top5
    assert ENROLLED in (first.name, second.name)
    assert (explanation.target, explanation.against) == (first.name, second.name)


def test_a_map_of_zeros_is_a_one_line_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model(tmp_path / "tiny.onnx")
    write_image(tmp_path / "gray.png", np.full((40, 60, 3), 114, np.uint8))  # the same gray as the occluding patch
    with pytest.raises(SystemExit) as caught:
        main(["explain", str(tmp_path / "gray.png"), "--model", str(model), "-o", str(tmp_path / "why.png")])
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error == (f"error: occlusion finds no evidence for '{RED}' in the picture: use --target\n")
    assert not (tmp_path / "why.png").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--target", "Castor Red Sedan 2002", f"no class 'Castor Red Sedan 2002': did you mean '{RED}'"),
        ("--against", "9", "class index 9 is out of range: the model has 3 classes, 0 to 2"),
        (
            "--method",
            "grad-cam",
            "has no feature map, which grad-cam needs: export it again, or use --method occlusion",
        ),
        (
            "--method",
            "layer-cam",
            "method 'layer-cam' is not available for exported models: use one of grad-cam++, grad-cam, occlusion",
        ),
    ],
)
def test_unusable_options_are_one_line_errors(
    option: str, value: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "red.png", np.full((40, 60, 3), (0, 0, 200), np.uint8))
    model = tiny_model(tmp_path / "tiny.onnx")
    words = ["explain", str(tmp_path / "red.png"), "--model", str(model), "-o", str(tmp_path / "why.png")]
    with pytest.raises(SystemExit) as caught:
        main([*words, option, value])
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not (tmp_path / "why.png").exists()
