"""Answers are drawn on single images, from Python and for `classify --annotate`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import twincar_edge as tw
from twincar_edge.draw import PALETTE
from twincar_edge.runtime.annotating.photo import MAX_LONG_SIDE
from twincar_edge.runtime.inference.answers import Guess, Prediction

KNOWN = Prediction(0, "Castor Red Sedan 2020", "year", 0.93, None, (Guess("Castor Red Sedan 2020", 0.93),))
UNKNOWN = Prediction(None, "unknown", "unknown", 0.4, None, (Guess("Castor Red Sedan 2020", 0.4),))


def gray(width: int, height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full((height, width, 3), 90, np.uint8)


def test_each_box_has_a_color_and_a_label_beside_it() -> None:
    image = gray(800, 450)
    picture = tw.annotate(image, [KNOWN, UNKNOWN], [[100, 200, 300, 340], [500.2, 200, 699.5, 340]])
    assert picture.shape == image.shape and (image == 90).all()
    for (left, right), color in zip([(100, 300), (500, 700)], PALETTE, strict=False):
        assert tuple(picture[300, left]) == tuple(picture[300, right - 1]) == color
        assert (picture[160:195, left : left + 30] == color).all(axis=2).any()
        assert (picture[210:330, left + 5 : right - 5] == 90).all()


def test_a_whole_image_has_one_label_and_no_box() -> None:
    changed = (tw.annotate(gray(800, 600), UNKNOWN) != 90).any(axis=2)
    assert changed[5, 5] and not changed[60:].any() and not changed[:, 500:].any()


@pytest.mark.parametrize(
    ("size_wh", "drawn_wh"),
    [((1, 1), (640, 640)), ((64, 48), (640, 480)), ((9000, 3), (MAX_LONG_SIDE, 1)), ((2000, 8192), (1000, 4096))],
)
def test_small_images_are_enlarged_and_huge_ones_shrunk(size_wh: tuple[int, int], drawn_wh: tuple[int, int]) -> None:
    width, height = size_wh
    assert tw.annotate(gray(width, height), KNOWN).shape[1::-1] == drawn_wh
    picture = tw.annotate(gray(width, height), [KNOWN], [[width / 2, 0, width, height]])
    assert tuple(picture[-1, -1]) == PALETTE[0]


def test_no_boxes_draw_nothing() -> None:
    assert (tw.annotate(gray(800, 600), [], np.zeros((0, 4))) == 90).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([KNOWN, KNOWN],), "`predictions`: expected 1, for the whole image, found 2"),
        ((KNOWN, [[0, 0, 9, 9], [9, 9, 20, 20]]), "`predictions`: expected 2, one per box, found 1"),
        ((["BMW"],), "`predictions`: expected a Prediction or a list of them, found a list of something else"),
        ((5,), "`predictions`: expected a Prediction or a list of them, found int"),
    ],
)
def test_predictions_that_do_not_fit_the_image_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(tw.InputError) as caught:
        tw.annotate(gray(64, 48), *arguments)
    assert str(caught.value) == message
