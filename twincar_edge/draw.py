"""What is drawn for people: boxes with a tag, heat maps, and contact sheets. Nothing here touches what a model sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.preprocess import resize

Colour = tuple[int, int, int]  # BGR

WHITE: Colour = (255, 255, 255)
INK: Colour = (40, 34, 28)
PAPER: Colour = (250, 248, 246)
GREY: Colour = (140, 132, 126)
GREEN: Colour = (96, 174, 39)
RED: Colour = (60, 76, 231)
BLUE: Colour = (196, 124, 52)
PALETTE: tuple[Colour, ...] = (BLUE, (43, 156, 240), (150, 90, 190), (158, 160, 22), (90, 110, 235), (110, 150, 60))

BOLD, REGULAR = 700, 400  # font weights, as CSS counts them
STRONGEST = 0.62  # how much of the picture the hottest place of a heat map hides


@cache
def _font() -> cv2.FontFace:
    return cv2.FontFace("sans")


def text_size(text: str, height_px: int, weight: int = REGULAR) -> tuple[int, int]:
    """Return the width and height in pixels that `put_text` needs for `text`."""
    _, _, width, height = cv2.getTextSize((0, 0), text, (0, 0), _font(), height_px, weight)
    return int(width), int(height)


def put_text(
    image_bgr: NDArray[np.uint8],
    text: str,
    left_top: tuple[int, int],
    height_px: int,
    colour: Colour = INK,
    weight: int = REGULAR,
) -> None:
    """Write `text` onto the image; `left_top` is the corner of its line, `height_px` the size of the type."""
    baseline = (left_top[0], left_top[1] + height_px)
    cv2.putText(image_bgr, text, baseline, colour, _font(), height_px, weight)


def fit_text(text: str, width_px: int, height_px: int, weight: int = REGULAR) -> str:
    """Return `text`, its end replaced by an ellipsis where it is wider than `width_px`."""
    if text_size(text, height_px, weight)[0] <= width_px:
        return text
    while text and text_size(text + "…", height_px, weight)[0] > width_px:
        text = text[:-1]
    return text.rstrip() + "…"


def draw_box(
    image_bgr: NDArray[np.uint8], box_xyxy: tuple[int, int, int, int], tag: str, colour: Colour, height_px: int = 16
) -> None:
    """Draw a box onto the image, with its tag above it, or inside where there is no room above."""
    left, top, right, bottom = box_xyxy
    cv2.rectangle(image_bgr, (left, top), (right - 1, bottom - 1), colour, 2, cv2.LINE_AA)
    if not tag:
        return
    width, pad = text_size(tag, height_px, BOLD)[0], height_px // 3
    high = height_px + 2 * pad
    x = max(0, min(left - 1, image_bgr.shape[1] - width - 2 * pad))
    y = top - high if top >= high else top
    cv2.rectangle(image_bgr, (x, y), (x + width + 2 * pad, y + high - 1), colour, cv2.FILLED)
    put_text(image_bgr, tag, (x + pad, y + pad - height_px // 8), height_px, WHITE, BOLD)


def lay_heat(image_bgr: NDArray[np.uint8], heatmap: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the picture under a heat map, uint8 [H, W, 3]: where the map is cold the picture stays as it is.

    Args:
        image_bgr: uint8 [H, W, 3].
        heatmap: float32 [H', W'] of the same picture in any resolution, between 0 and 1.
    """
    size_wh = (image_bgr.shape[1], image_bgr.shape[0])
    heat = cv2.resize(heatmap, size_wh, interpolation=cv2.INTER_CUBIC).clip(0, 1)
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_TURBO).astype(np.float32)
    # Smoothstep: the cold half hardly tints the picture, and there is no visible edge where the tint begins.
    opacity = (STRONGEST * heat * heat * (3 - 2 * heat))[:, :, None]
    return np.asarray((image_bgr * (1 - opacity) + colours * opacity).round(), np.uint8)


@dataclass(frozen=True)
class Cell:
    """One picture of a contact sheet: uint8 [H, W, 3] or None, two lines of text, and the colour of its verdict."""

    image_bgr: NDArray[np.uint8] | None
    title: str
    subtitle: str
    colour: Colour


def contact_sheet(
    cells: Sequence[Cell], heading: str, columns: int = 4, cell_wh: tuple[int, int] = (300, 200)
) -> NDArray[np.uint8]:
    """Return the cells as one picture, uint8 [H, W, 3], under a heading; each image is fitted into `cell_wh` pixels."""
    gap, lines, head = 16, 52, 56
    width, height = cell_wh
    rows = max(1, -(-len(cells) // columns))
    sheet = np.full((head + rows * (height + lines + gap), gap + columns * (width + gap), 3), PAPER, np.uint8)
    put_text(sheet, heading, (gap, 16), 22, INK, BOLD)
    for place, cell in enumerate(cells):
        left = gap + (place % columns) * (width + gap)
        top = head + (place // columns) * (height + lines + gap)
        area = sheet[top : top + height, left : left + width]
        area[:] = (232, 228, 224)
        if cell.image_bgr is not None:
            scale = min(width / cell.image_bgr.shape[1], height / cell.image_bgr.shape[0])
            inner = tuple(max(1, round(side * scale)) for side in cell.image_bgr.shape[1::-1])
            x, y = (width - inner[0]) // 2, (height - inner[1]) // 2
            area[y : y + inner[1], x : x + inner[0]] = resize(cell.image_bgr, (inner[0], inner[1]))
        cv2.rectangle(sheet, (left, top + height), (left + width - 1, top + height + 4), cell.colour, cv2.FILLED)
        put_text(sheet, fit_text(cell.title, width, 15, BOLD), (left, top + height + 9), 15, INK, BOLD)
        put_text(sheet, fit_text(cell.subtitle, width, 14), (left, top + height + 30), 14, cell.colour)
    return sheet
