"""A published answer is extended immediately, but replaced only if several crops in a row clearly contradict it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.tiny_model import BLUE, RED
from tests.support.visit_toys import agreeing, classifier
from twincar_edge.runtime.inference.answers import Prediction
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.published import MARGIN, PATIENCE, PublishedAnswer, extends, overrules

Row = tuple[float, ...]
THRESHOLD = 0.8
SURE: Row = (0.9, 0.05, 0.05)  # red
OTHER: Row = (0.02, 0.03, 0.95)  # blue
MAKE: Row = (0.45, 0.45, 0.1)
UNSURE: Row = (0.4, 0.3, 0.3)
NEARLY: Row = (0.78, 0.13, 0.09)  # red, just below the threshold


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return classifier(tmp_path_factory.mktemp("model") / "tiny.onnx", reject_below=THRESHOLD)


def names(model: Classifier, *rows: Row) -> list[str | None]:
    """The names to publish if the combined answer takes these values in turn."""
    published = PublishedAnswer()
    answers = [published.update(agreeing(model, row)) for row in rows]
    return [None if answer is None else answer.name for answer in answers]


def answer(model: Classifier, row: Row) -> Prediction:
    return model.answer(np.array(row, np.float32))


def test_the_first_answer_is_published_and_not_repeated(model: Classifier) -> None:
    assert names(model, SURE, SURE, SURE) == [RED, None, None]
    assert names(model, UNSURE, UNSURE) == ["unknown", None]


def test_a_more_specific_answer_is_published_immediately(model: Classifier) -> None:
    assert names(model, UNSURE, MAKE, SURE) == ["unknown", "Castor", RED]


@pytest.mark.parametrize(("against", "then"), [(OTHER, BLUE), (MAKE, "Castor"), (UNSURE, "unknown")])
def test_an_answer_is_replaced_after_enough_contradictions_in_a_row(model: Classifier, against: Row, then: str) -> None:
    assert names(model, SURE, *[against] * PATIENCE) == [RED, *[None] * (PATIENCE - 1), then]


def test_an_agreeing_crop_resets_the_count(model: Classifier) -> None:
    short = [OTHER] * (PATIENCE - 1)
    assert names(model, SURE, *short, SURE, *short) == [RED, *[None] * (2 * PATIENCE - 1)]


def test_unclear_contradictions_count_but_do_not_replace_the_answer(model: Classifier) -> None:
    published = PublishedAnswer()
    published.update(agreeing(model, SURE))
    for _ in range(2 * PATIENCE):
        assert published.update(agreeing(model, NEARLY)) is None
    assert published.contradictions == 2 * PATIENCE
    replaced = published.update(agreeing(model, OTHER))  # a clear one now replaces it immediately
    assert replaced is not None and replaced.name == BLUE
    assert (published.prediction, published.contradictions) == (replaced, 0)


def test_an_answer_extends_less_specific_ones(model: Classifier) -> None:
    red, blue, make, unknown = (answer(model, row) for row in (SURE, OTHER, MAKE, UNSURE))
    assert extends(red, red) and extends(red, make) and extends(red, unknown) and extends(unknown, unknown)
    assert not any((extends(make, red), extends(unknown, red), extends(blue, red), extends(blue, make)))


@pytest.mark.parametrize("above", [-0.01, 0.01])
def test_a_less_specific_answer_wins_if_the_probability_falls_below_threshold_minus_margin(
    model: Classifier, above: float
) -> None:
    left = THRESHOLD - MARGIN + above
    row = (left, 0.99 - left, 0.01)
    assert overrules(answer(model, row), answer(model, SURE), agreeing(model, row)) == (above < 0)


@pytest.mark.parametrize("above", [-0.01, 0.01])
def test_another_answer_wins_if_it_exceeds_the_published_one_by_the_margin(
    tmp_path_factory: pytest.TempPathFactory, above: float
) -> None:
    model = classifier(tmp_path_factory.mktemp("model") / "open.onnx")  # without a threshold
    row = (0.45 - MARGIN / 2, 0.1 - above, 0.45 + MARGIN / 2 + above)
    assert overrules(answer(model, row), answer(model, SURE), agreeing(model, row)) == (above > 0)
