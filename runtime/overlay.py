"""The picture of an explanation: a heat map over the image, and the answer below it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.draw import BOLD, REGULAR, fit_text, lay_heat, put_text, text_size
from twincar_edge.preprocess import resize
from twincar_edge.runtime.inference.answers import Prediction

MIN_LONG_SIDE, MAX_LONG_SIDE = 720, 1280  # pixels of the picture in the overlay
LISTED = 3
_BACKGROUND, _INK, _FAINT, _BAR, _TRACK = (32, 28, 26), (245, 245, 245), (165, 160, 155), (80, 175, 255), (62, 56, 52)


def draw_overlay(
    image_bgr: NDArray[np.uint8],
    heatmap: NDArray[np.float32],
    answer: Prediction,
    target: str | None = None,
) -> NDArray[np.uint8]:
    """Return the picture under its heat map, with the answer in a strip below it: uint8 [H', W', 3], BGR.

    The strip has the name that is told, and the best guesses; only a guess that is told in full stands bold.

    The picture shows through: where the heat map is cold it stays as it is. Its longer side becomes 720 to 1280 pixels,
    so that the caption can be read.

    Args:
        image_bgr: uint8 [H, W, 3].
        heatmap: float32 [H, W] between 0 and 1.
        answer: what is told, and the guesses.
        target: the class that the heat map is for, where that is not the first guess.
    """
    rows, columns = image_bgr.shape[:2]
    scale = min(max(max(rows, columns), MIN_LONG_SIDE), MAX_LONG_SIDE) / max(rows, columns)
    size_wh = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    picture = resize(image_bgr, size_wh, "cubic" if scale > 1 else "area")
    return np.vstack([lay_heat(picture, heatmap), _caption(size_wh[0], answer, target)])


def _caption(width: int, answer: Prediction, target: str | None) -> NDArray[np.uint8]:
    line, margin, size = 34, 14, 20
    guesses = answer.top5[:LISTED]
    in_full = answer.name == guesses[0].name
    first = 0 if in_full else line
    extra = line if target else 0
    strip = np.full((2 * margin + first + line * len(guesses) + extra, width, 3), _BACKGROUND, np.uint8)
    if not in_full:
        put_text(strip, fit_text(answer.name, width - 2 * margin, size, BOLD), (margin, margin + 4), size, _INK, BOLD)
    bar_width = width // 6
    right = width - margin
    bar_left = right - 62 - bar_width
    for row, guess in enumerate(guesses):
        top = margin + first + row * line + 4
        filled = bar_left + round(bar_width * guess.probability)
        cv2.rectangle(strip, (bar_left, top + 6), (bar_left + bar_width, top + 18), _TRACK, cv2.FILLED)
        if filled > bar_left:
            cv2.rectangle(strip, (bar_left, top + 6), (filled, top + 18), _BAR, cv2.FILLED)
        ink, weight = (_INK, BOLD) if row == 0 and in_full else (_FAINT, REGULAR)
        percent = f"{guess.probability:.0%}"
        put_text(strip, percent, (right - text_size(percent, size, weight)[0], top), size, ink, weight)
        put_text(strip, fit_text(guess.name, bar_left - 2 * margin, size, weight), (margin, top), size, ink, weight)
    if target:
        evidence = fit_text(f"evidence for: {target}", width - 2 * margin, size)
        put_text(strip, evidence, (margin, margin + first + len(guesses) * line + 4), size, _BAR)
    return strip
