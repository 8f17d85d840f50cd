"""From pixels to answers, through the real runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.tiny_model import BLUE, GREEN, RED, tiny_model
from twincar_edge.runtime.inference.answers import UNKNOWN, Hierarchy
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.session import open_session


def picture(blue: int, green: int, red: int, size_wh: tuple[int, int] = (90, 60)) -> NDArray[np.uint8]:
    return np.full((size_wh[1], size_wh[0], 3), (blue, green, red), np.uint8)


def classifier(path: Path, **options: float) -> Classifier:
    return Classifier(open_session(tiny_model(path / "tiny.onnx", **options), ep="cpu", threads=1))  # type: ignore[arg-type]


def test_images_of_any_size_are_named_in_order(tmp_path: Path) -> None:
    images = [picture(0, 0, 200), picture(200, 0, 0, (33, 400)), picture(0, 255, 0, (8, 8))]
    assert [p.name for p in classifier(tmp_path).predict(images)] == [RED, BLUE, GREEN]


def test_no_images_give_no_answers(tmp_path: Path) -> None:
    assert classifier(tmp_path).predict([]) == []


def test_below_the_models_threshold_the_answer_is_unknown_with_its_guesses(tmp_path: Path) -> None:
    (grey,) = classifier(tmp_path, reject_below=0.7).predict([picture(128, 128, 128)])
    assert (grey.label, grey.name) == (None, UNKNOWN)
    assert grey.probability == pytest.approx(1 / 3, abs=1e-4)
    assert {guess.name for guess in grey.top5} == {RED, GREEN, BLUE}


def test_of_what_is_sure_together_the_answer_says_what_is_shared(tmp_path: Path) -> None:
    (yellow,) = classifier(tmp_path, reject_below=0.9).predict([picture(0, 200, 200)])
    assert (yellow.label, yellow.name, yellow.level) == (None, "Castor", "make")
    assert yellow.probability == pytest.approx(1.0, abs=1e-4)
    assert {guess.name for guess in yellow.top5[:2]} == {RED, GREEN}


def test_the_models_temperature_softens_the_probability_and_keeps_the_answer(tmp_path: Path) -> None:
    (sharp,) = classifier(tmp_path).predict([picture(0, 0, 40)])
    (soft,) = classifier(tmp_path, temperature=4.0).predict([picture(0, 0, 40)])
    assert sharp.name == soft.name == RED
    assert soft.probability < sharp.probability


def test_the_five_best_come_best_first() -> None:
    probabilities = np.array([0.05, 0.3, 0.1, 0.25, 0.2, 0.1], np.float32)
    found = Hierarchy(tuple("abcdef")).answer(probabilities, 0.0)
    assert [guess.name for guess in found.top5] == ["b", "d", "e", "c", "f"]
    assert (found.label, found.name) == (1, "b")
