"""Draws explanations: a heat map over the image, and a panel of both with the answer below."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.draw import (
    BOLD,
    COOL,
    REGULAR,
    WARM,
    fit_text,
    overlay_contrast,
    overlay_heatmap,
    put_text,
    text_size,
)
from twincar_edge.preprocess import resize
from twincar_edge.runtime.inference.answers import Guess, Prediction, heading
from twincar_edge.wording import percent

MIN_LONG_SIDE, MAX_LONG_SIDE = 480, 1280  # pixels of each picture
_BACKGROUND, _INK, _FAINT, _BAR, _TRACK = (32, 28, 26), (245, 245, 245), (165, 160, 155), (80, 175, 255), (62, 56, 52)
_LINE, _MARGIN, _TYPE, _GAP = 34, 14, 20, 6
_MIN_WIDTH = 720  # of a panel, for readable text


def draw_overlay(image_bgr: NDArray[np.uint8], heatmap: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the picture under its heat map: uint8 [H', W', 3], BGR, its longer side 480 to 1280 pixels.

    The overlay is transparent: where the heat map is 0, the picture is unchanged.

    Args:
        image_bgr: uint8 [H, W, 3].
        heatmap: float32 [H, W] between 0 and 1, or between -1 and 1 for a comparison of two classes.
    """
    picture = _readable(image_bgr)
    return overlay_contrast(picture, heatmap) if heatmap.min() < 0 else overlay_heatmap(picture, heatmap)


def draw_panel(
    image_bgr: NDArray[np.uint8],
    heatmap: NDArray[np.float32],
    prediction: Prediction,
    target: str,
    against: str | None = None,
    *,
    looks_like: Sequence[Guess] = (),
) -> NDArray[np.uint8]:
    """Return the picture and its overlay side by side, with the answer and the best classes below: uint8 [H', W', 3].

    Args:
        image_bgr: uint8 [H, W, 3].
        heatmap: see `draw_overlay`.
        prediction: the answer.
        target: the class that the heat map is for.
        against: the class that it is compared with.
        looks_like: the nearest classes, with the similarity as `probability`.
    """
    picture, overlay = _readable(image_bgr), draw_overlay(image_bgr, heatmap)
    gap = np.full((picture.shape[0], _GAP, 3), _BACKGROUND, np.uint8)
    pictures = np.hstack([picture, gap, overlay])
    if pictures.shape[1] < _MIN_WIDTH:
        side = _MIN_WIDTH - pictures.shape[1]
        border = (0, 0, side // 2, side - side // 2)
        pictures = np.asarray(cv2.copyMakeBorder(pictures, *border, cv2.BORDER_CONSTANT, value=_BACKGROUND), np.uint8)
    width = pictures.shape[1]
    strips = [_legend(width, target, against), _answer(width, prediction, looks_like)]
    return np.vstack([pictures, *strips])


def _readable(image_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = image_bgr.shape[:2]
    scale = min(max(max(rows, columns), MIN_LONG_SIDE), MAX_LONG_SIDE) / max(rows, columns)
    size_wh = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    return resize(image_bgr, size_wh, "cubic" if scale > 1 else "area")


def _legend(width: int, target: str, against: str | None) -> NDArray[np.uint8]:
    """Return a strip that explains the colors."""
    lines = [("evidence for ", target, WARM)]
    if against is not None:
        lines.append(("evidence for ", against, COOL))
    strip = np.full((_MARGIN + _LINE * len(lines), width, 3), _BACKGROUND, np.uint8)
    for row, (words, name, color) in enumerate(lines):
        top = _MARGIN + row * _LINE
        cv2.rectangle(strip, (_MARGIN, top + 4), (_MARGIN + 16, top + 20), color, cv2.FILLED)
        put_text(strip, fit_text(words + name, width - 3 * _MARGIN - 16, _TYPE), (2 * _MARGIN + 16, top), _TYPE, _INK)
    return strip


def _answer(width: int, prediction: Prediction, looks_like: Sequence[Guess]) -> NDArray[np.uint8]:
    """Return a strip with the answer, the best classes with bars, and the nearest classes."""
    rows = 1 + len(prediction.top5) + bool(looks_like)
    strip = np.full((2 * _MARGIN + _LINE * rows, width, 3), _BACKGROUND, np.uint8)
    bar_width = width // 6
    right = width - _MARGIN
    bar_left = right - 62 - bar_width

    title = fit_text(heading(prediction), bar_left - 2 * _MARGIN, _TYPE, BOLD)
    put_text(strip, title, (_MARGIN, _MARGIN + 4), _TYPE, _INK, BOLD)
    for row, guess in enumerate(prediction.top5, 1):
        top = _MARGIN + row * _LINE + 4
        filled = bar_left + round(bar_width * guess.probability)
        cv2.rectangle(strip, (bar_left, top + 6), (bar_left + bar_width, top + 18), _TRACK, cv2.FILLED)
        if filled > bar_left:
            cv2.rectangle(strip, (bar_left, top + 6), (filled, top + 18), _BAR, cv2.FILLED)
        share = percent(guess.probability)
        put_text(strip, share, (right - text_size(share, _TYPE)[0], top), _TYPE, _FAINT, REGULAR)
        name = fit_text(guess.name, bar_left - 2 * _MARGIN, _TYPE)
        put_text(strip, name, (_MARGIN, top), _TYPE, _FAINT)
    if looks_like:
        names = ", ".join(f"{one.name} {one.probability:.2f}" for one in looks_like[:2])
        top = _MARGIN + (rows - 1) * _LINE + 4
        line = fit_text(f"looks like (similarity): {names}", width - 2 * _MARGIN, _TYPE)
        put_text(strip, line, (_MARGIN, top), _TYPE, _FAINT)
    return strip
