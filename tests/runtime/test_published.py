"""A published answer is extended at once, and replaced only where several crops in a row clearly contradict it."""

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
    """The names to publish, as the answer of all crops takes these values in turn."""
    published = PublishedAnswer()
    answers = [published.update(agreeing(model, row)) for row in rows]
    return [None if answer is None else answer.name for answer in answers]


def answer(model: Classifier, row: Row) -> Prediction:
    return model.answer(np.array(row, np.float32))


def test_the_first_answer_is_published_and_not_repeated(model: Classifier) -> None:
    assert names(model, SURE, SURE, SURE) == [RED, None, None]
    assert names(model, UNSURE, UNSURE) == ["unknown", None]


def test_an_answer_that_says_more_is_published_at_once(model: Classifier) -> None:
    assert names(model, UNSURE, MAKE, SURE) == ["unknown", "Castor", RED]


@pytest.mark.parametrize(("against", "then"), [(OTHER, BLUE), (MAKE, "Castor"), (UNSURE, "unknown")])
def test_an_answer_is_replaced_after_enough_contradictions_in_a_row(model: Classifier, against: Row, then: str) -> None:
    assert names(model, SURE, *[against] * PATIENCE) == [RED, *[None] * (PATIENCE - 1), then]


def test_a_crop_that_agrees_starts_the_count_anew(model: Classifier) -> None:
    short = [OTHER] * (PATIENCE - 1)
    assert names(model, SURE, *short, SURE, *short) == [RED, *[None] * (2 * PATIENCE - 1)]


def test_contradictions_that_are_not_clear_count_but_replace_nothing(model: Classifier) -> None:
    published = PublishedAnswer()
    published.update(agreeing(model, SURE))
    for _ in range(2 * PATIENCE):
        assert published.update(agreeing(model, NEARLY)) is None
    assert published.contradictions == 2 * PATIENCE
    replaced = published.update(agreeing(model, OTHER))  # a clear one now needs no patience
    assert replaced is not None and replaced.name == BLUE
    assert (published.prediction, published.contradictions) == (replaced, 0)


def test_an_answer_extends_what_it_includes(model: Classifier) -> None:
    red, blue, make, unknown = (answer(model, row) for row in (SURE, OTHER, MAKE, UNSURE))
    assert extends(red, red) and extends(red, make) and extends(red, unknown) and extends(unknown, unknown)
    assert not any((extends(make, red), extends(unknown, red), extends(blue, red), extends(blue, make)))


@pytest.mark.parametrize("above", [-0.01, 0.01])
def test_an_answer_that_says_less_wins_by_the_margin_below_the_threshold(model: Classifier, above: float) -> None:
    left = THRESHOLD - MARGIN + above
    row = (left, 0.99 - left, 0.01)
    assert overrules(answer(model, row), answer(model, SURE), agreeing(model, row)) == (above < 0)


@pytest.mark.parametrize("above", [-0.01, 0.01])
def test_another_answer_wins_by_the_margin_above_the_published_one(
    tmp_path_factory: pytest.TempPathFactory, above: float
) -> None:
    model = classifier(tmp_path_factory.mktemp("model") / "open.onnx")  # without a threshold
    row = (0.45 - MARGIN / 2, 0.1 - above, 0.45 + MARGIN / 2 + above)
    assert overrules(answer(model, row), answer(model, SURE), agreeing(model, row)) == (above > 0)
