"""The classifier, from pixels to answers, with the real runtime."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.tiny_model import BLUE, GREEN, RED, tiny_model, with_manifest
from twincar_edge.bundled import demo_model
from twincar_edge.errors import InputError, ModelError
from twincar_edge.manifest import CropSizesRecord
from twincar_edge.preprocess import Preprocess
from twincar_edge.runtime.evidence import crop_vehicle
from twincar_edge.runtime.inference.answers import UNKNOWN, Hierarchy
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.sources import Frame
from twincar_edge.synthetic import twin_car_images


def picture(blue: int, green: int, red: int, size_wh: tuple[int, int] = (90, 60)) -> NDArray[np.uint8]:
    return np.full((size_wh[1], size_wh[0], 3), (blue, green, red), np.uint8)


def classifier(path: Path, **options: float) -> Classifier:
    return Classifier(open_session(tiny_model(path / "tiny.onnx", **options), ep="cpu", threads=1))  # type: ignore[arg-type]


def test_images_of_any_size_are_named_in_order(tmp_path: Path) -> None:
    images = [picture(0, 0, 200), picture(200, 0, 0, (33, 400)), picture(0, 255, 0, (8, 8))]
    assert [p.name for p in classifier(tmp_path).predict(images)] == [RED, BLUE, GREEN]


def test_no_images_give_no_answers(tmp_path: Path) -> None:
    assert classifier(tmp_path).predict([]) == []


def test_below_the_models_threshold_the_answer_is_unknown_with_guesses(tmp_path: Path) -> None:
    (gray,) = classifier(tmp_path, reject_below=0.7).predict([picture(128, 128, 128)])
    assert (gray.label, gray.name) == (None, UNKNOWN)
    assert gray.probability == pytest.approx(1 / 3, abs=1e-4)
    assert {guess.name for guess in gray.top5} == {RED, GREEN, BLUE}


def test_classes_that_are_certain_together_are_answered_by_their_common_name(tmp_path: Path) -> None:
    (yellow,) = classifier(tmp_path, reject_below=0.9).predict([picture(0, 200, 200)])
    assert (yellow.label, yellow.name, yellow.level) == (None, "Castor", "make")
    assert yellow.probability == pytest.approx(1.0, abs=1e-4)
    assert {guess.name for guess in yellow.top5[:2]} == {RED, GREEN}


def test_a_picture_below_the_models_minimum_size_gets_no_full_name(tmp_path: Path) -> None:
    sizes = CropSizesRecord(minimum_px=64, tolerance=0.02, images=100, coverage=0.9, right=0.9, sizes=())
    path = with_manifest(tiny_model(tmp_path / "tiny.onnx"), tmp_path / "sized.onnx", crop_sizes=sizes)
    sized = Classifier(open_session(path, ep="cpu", threads=1))
    small, large = sized.predict([picture(0, 0, 200, (100, 63)), picture(0, 0, 200, (64, 100))])
    assert (small.name, small.level, small.label) == ("Castor Red Sedan", "model", None)
    assert (large.name, large.level) == (RED, "year")
    boxes = [(0, 0, 63, 100), (0, 0, 64, 100)]
    in_boxes = sized(picture(0, 0, 200, (200, 200)), boxes=boxes)
    assert [answer.level for answer in in_boxes] == ["model", "year"]


def test_the_models_temperature_changes_the_probability_but_not_the_answer(tmp_path: Path) -> None:
    (sharp,) = classifier(tmp_path).predict([picture(0, 0, 40)])
    (soft,) = classifier(tmp_path, temperature=4.0).predict([picture(0, 0, 40)])
    assert sharp.name == soft.name == RED
    assert soft.probability < sharp.probability


def test_the_five_best_classes_are_in_descending_order() -> None:
    probabilities = np.array([0.05, 0.3, 0.1, 0.25, 0.2, 0.1], np.float32)
    found = Hierarchy(tuple("abcdef")).answer(probabilities, 0.0)
    assert [guess.name for guess in found.top5] == ["b", "d", "e", "c", "f"]
    assert (found.label, found.name) == (1, "b")


def test_a_classifier_opens_a_path_a_string_or_a_session_and_by_default_the_bundled_model(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.onnx")
    for model in (path, str(path), open_session(path, ep="cpu", threads=1)):
        assert Classifier(model)(picture(0, 0, 200)).name == RED
    assert Classifier(threads=1).session.threads == 1
    assert len(Classifier(verify=False).manifest.classes) == 196


def test_provider_and_threads_cannot_be_set_for_an_open_session(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot change an open session"):
        Classifier(open_session(tiny_model(tmp_path / "tiny.onnx"), ep="cpu", threads=1), ep="cpu")


def test_a_pickled_classifier_opens_the_same_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model(Path("tiny.onnx"))
    pickled = pickle.dumps(Classifier("tiny.onnx", ep="cpu", threads=1))
    monkeypatch.chdir("/")
    again = pickle.loads(pickled)
    assert (again(picture(0, 0, 200)).name, again.session.threads) == (RED, 1)
    tiny_model(tmp_path / "tiny.onnx", reject_below=0.9)
    with pytest.raises(ModelError, match=r"tiny.onnx has changed since the classifier was created"):
        pickle.loads(pickled)


def test_a_model_whose_answers_differ_from_export_is_refused_unless_verify_is_off(tmp_path: Path) -> None:
    good = tiny_model(tmp_path / "good.onnx", golden=True)
    turned = Preprocess(size_wh=(32, 32), color="bgr", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    drifted = with_manifest(good, tmp_path / "drifted.onnx", preprocess=turned)
    assert Classifier(good)(picture(0, 0, 200)).name == RED
    with pytest.raises(ModelError, match="answers differently on cpu than at export"):
        Classifier(drifted, ep="cpu")
    assert Classifier(drifted, ep="cpu", verify=False)(picture(0, 0, 200)).name == BLUE


def test_one_image_gives_one_answer_and_several_give_a_list(tmp_path: Path) -> None:
    ready = classifier(tmp_path)
    assert ready(picture(200, 0, 0)).name == BLUE
    assert [p.name for p in ready([picture(200, 0, 0)])] == [BLUE]
    assert [p.name for p in ready((picture(200, 0, 0), picture(0, 0, 200)))] == [BLUE, RED]
    assert ready([]) == []


def test_a_long_list_of_files_is_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "green.png"
    assert cv2.imwrite(str(path), picture(0, 200, 0))
    ready, sizes = classifier(tmp_path), []
    predict = ready.predict
    monkeypatch.setattr(ready, "predict", lambda images: (sizes.append(len(images)), predict(images))[1])
    assert [p.name for p in ready([path] * 40)] == [GREEN] * 40
    assert sizes == [16, 16, 8]
    assert len(ready(path, boxes=[[0, 0, 9, 9]] * 40)) == 40
    assert sizes[3:] == [16, 16, 8]


def test_an_unreadable_image_in_a_list_is_named_by_its_index(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"images\[17\]: expected uint8"):
        classifier(tmp_path)([picture(0, 0, 200)] * 17 + [np.zeros((4, 4, 3))])


def test_each_box_of_an_image_gets_its_own_answer(tmp_path: Path) -> None:
    ready = classifier(tmp_path)
    street = picture(0, 0, 200)
    street[:, 45:] = (200, 0, 0)
    boxes = [[50, 10, 80, 50], [5, 10, 40, 50]]
    assert [p.name for p in ready(street, boxes=boxes)] == [BLUE, RED]
    assert ready(street, boxes=[]) == []
    with pytest.raises(InputError, match=r"boxes\[0\]"):
        ready(street, boxes=[[100, 0, 200, 50]])
    with pytest.raises(InputError, match="boxes belong to one image"):
        ready([street], boxes=boxes)


def test_a_box_gets_the_same_answer_as_in_the_camera_loop() -> None:
    """Bit by bit: the same pixels go through the same model one at a time."""
    ready = Classifier(demo_model(), ep="cpu", threads=1)
    drawn = next(iter(twin_car_images(1, 0, (520, 400))))
    crop = crop_vehicle(Frame(0, 0.0, drawn.image_bgr, "street"), drawn.box_xyxy, 1.0)
    (asked,) = ready(drawn.image_bgr, boxes=[drawn.box_xyxy])
    assert asked == ready.answer(ready.probabilities([crop.picture_bgr])[0])


def test_an_answer_converts_to_a_table_row(tmp_path: Path) -> None:
    ready = classifier(tmp_path, reject_below=0.9)
    red, yellow, gray = (ready(picture(*bgr)) for bgr in ((0, 0, 200), (0, 200, 200), (128, 128, 128)))
    assert (red.make, red.model, red.body_type, red.year) == ("Castor", "Red", "Sedan", 2020)
    assert (yellow.make, yellow.model, yellow.body_type, yellow.year) == ("Castor", None, None, None)
    assert (gray.make, gray.model, gray.body_type, gray.year) == (None, None, None, None)
    assert red.to_dict(top=1) == {
        "name": RED,
        "level": "year",
        "probability": 1.0,
        "familiarity": None,
        "make": "Castor",
        "model": "Red",
        "body_type": "Sedan",
        "year": 2020,
        "top5": [{"name": RED, "probability": 1.0}],
    }
    assert len(red.to_dict()["top5"]) == 3 and red.to_dict().keys() == gray.to_dict().keys()
    assert all(hasattr(red, key) for key in red.to_dict())
