"""Draws boxes with labels, heat maps and contact sheets for people. Model input does not pass through this module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.preprocess import resize

Color = tuple[int, int, int]  # BGR

WHITE: Color = (255, 255, 255)
INK: Color = (40, 34, 28)
PAPER: Color = (250, 248, 246)
GRAY: Color = (140, 132, 126)
GREEN: Color = (96, 174, 39)
RED: Color = (60, 76, 231)
BLUE: Color = (196, 124, 52)
# Distinguishable with any kind of color vision: Okabe and Ito, "Color Universal Design", 2008, without its dark blue.
PALETTE: tuple[Color, ...] = (
    (0, 159, 230),  # orange
    (233, 180, 86),  # sky blue
    (66, 228, 240),  # yellow
    (167, 121, 204),  # reddish purple
    (115, 158, 0),  # bluish green
    (0, 94, 213),  # vermilion
)
WARM: Color = PALETTE[-1]
COOL: Color = (178, 114, 0)  # the dark blue of the same palette

BOLD, REGULAR = 700, 400  # font weights, as in CSS
MAX_OPACITY = 0.62  # opacity of a heat map at its maximum


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
    color: Color = INK,
    weight: int = REGULAR,
) -> None:
    """Write `text` onto the image; `left_top` is the top left corner of the line, `height_px` the font size."""
    baseline = (left_top[0], left_top[1] + height_px)
    cv2.putText(image_bgr, text, baseline, color, _font(), height_px, weight)


def fit_text(text: str, width_px: int, height_px: int, weight: int = REGULAR) -> str:
    """Return `text`, shortened with an ellipsis if it is wider than `width_px`."""
    if text_size(text, height_px, weight)[0] <= width_px:
        return text
    while text and text_size(text + "…", height_px, weight)[0] > width_px:
        text = text[:-1]
    return text.rstrip() + "…"


def type_size(image_bgr: NDArray[np.uint8]) -> int:
    """Return a font size in pixels that is legible at any display size of the image."""
    rows, columns = image_bgr.shape[:2]
    return max(12, round(math.sqrt(rows * columns) / 56))


def draw_box(image_bgr: NDArray[np.uint8], box_xyxy: tuple[int, int, int, int], color: Color, width_px: int) -> None:
    """Draw a box onto the image, with a dark outline that keeps it visible on any background."""
    left, top, right, bottom = box_xyxy
    cv2.rectangle(image_bgr, (left, top), (right - 1, bottom - 1), INK, width_px + 2)
    cv2.rectangle(image_bgr, (left, top), (right - 1, bottom - 1), color, width_px)


def label_size(lines: Sequence[str], height_px: int) -> tuple[int, int]:
    """Return the width and height in pixels of a label; see `draw_label`."""
    pad = height_px // 3
    width = max(text_size(line, height_px, weight)[0] for line, weight in zip(lines, _weights(lines), strict=True))
    return width + 2 * pad, len(lines) * (height_px + pad) + pad


def draw_label(
    image_bgr: NDArray[np.uint8], lines: Sequence[str], left_top: tuple[int, int], height_px: int, ground: Color
) -> None:
    """Write lines, the first one bold, on a background of one color, in black or white for contrast."""
    (left, top), (width, height), pad = left_top, label_size(lines, height_px), height_px // 3
    cv2.rectangle(image_bgr, left_top, (left + width - 1, top + height - 1), ground, cv2.FILLED)
    blue, green, red = ground
    ink = INK if 0.114 * blue + 0.587 * green + 0.299 * red > 95 else WHITE  # luma, Rec. 601
    for row, (line, weight) in enumerate(zip(lines, _weights(lines), strict=True)):
        y = top + pad + row * (height_px + pad) - height_px // 8
        put_text(image_bgr, line, (left + pad, y), height_px, ink, weight)


def _weights(lines: Sequence[str]) -> list[int]:
    return [BOLD, *[REGULAR] * (len(lines) - 1)]


def overlay_heatmap(image_bgr: NDArray[np.uint8], heatmap: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the image under a heat map, uint8 [H, W, 3], unchanged where the map is 0.

    Args:
        image_bgr: uint8 [H, W, 3].
        heatmap: float32 [H', W'] of the same image at any resolution, between 0 and 1.
    """
    size_wh = (image_bgr.shape[1], image_bgr.shape[0])
    heat = cv2.resize(heatmap, size_wh, interpolation=cv2.INTER_CUBIC).clip(0, 1)
    colors = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_TURBO).astype(np.float32)
    opacity = _opacity(heat)
    return np.asarray((image_bgr * (1 - opacity) + colors * opacity).round(), np.uint8)


def overlay_contrast(image_bgr: NDArray[np.uint8], heatmap: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the image under a signed heat map, uint8 [H, W, 3]: `WARM` above 0, `COOL` below.

    Args:
        image_bgr: uint8 [H, W, 3].
        heatmap: float32 [H', W'] of the same image at any resolution, between -1 and 1.
    """
    size_wh = (image_bgr.shape[1], image_bgr.shape[0])
    heat = cv2.resize(heatmap, size_wh, interpolation=cv2.INTER_CUBIC).clip(-1, 1)
    colors = np.where(heat[:, :, None] > 0, np.array(WARM, np.float32), np.array(COOL, np.float32))
    opacity = _opacity(np.abs(heat) ** 0.75)  # makes evidence for the weaker class visible too
    return np.asarray((image_bgr * (1 - opacity) + colors * opacity).round(), np.uint8)


def _opacity(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the opacity of a heat map, float32 [H, W, 1].

    Smoothstep: low values hardly tint the image, and the tint has no visible edge.
    """
    return np.asarray((MAX_OPACITY * heat * heat * (3 - 2 * heat))[:, :, None], np.float32)


CELL_WH = (300, 200)  # pixels of a contact sheet's picture


def fit_into(image_bgr: NDArray[np.uint8], size_wh: tuple[int, int] = CELL_WH) -> NDArray[np.uint8]:
    """Return the image scaled so that it just fits into `size_wh` pixels, uint8 [H, W, 3]."""
    rows, columns = image_bgr.shape[:2]
    scale = min(size_wh[0] / columns, size_wh[1] / rows)
    return resize(image_bgr, (max(1, round(columns * scale)), max(1, round(rows * scale))))


@dataclass(frozen=True)
class Cell:
    """One picture of a contact sheet: uint8 [H, W, 3] or None, two lines of text, and the color of its verdict."""

    image_bgr: NDArray[np.uint8] | None
    title: str
    subtitle: str
    color: Color


def contact_sheet(
    cells: Sequence[Cell], heading: str, columns: int = 4, cell_wh: tuple[int, int] = CELL_WH
) -> NDArray[np.uint8]:
    """Return the cells as one picture, uint8 [H, W, 3], under a heading; each image is fitted into `cell_wh` pixels.

    To save memory, fit many large images by `fit_into` beforehand.
    """
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
            fitted = fit_into(cell.image_bgr, cell_wh)
            inner_height, inner_width = fitted.shape[:2]
            x, y = (width - inner_width) // 2, (height - inner_height) // 2
            area[y : y + inner_height, x : x + inner_width] = fitted
        cv2.rectangle(sheet, (left, top + height), (left + width - 1, top + height + 4), cell.color, cv2.FILLED)
        put_text(sheet, fit_text(cell.title, width, 15, BOLD), (left, top + height + 9), 15, INK, BOLD)
        put_text(sheet, fit_text(cell.subtitle, width, 14), (left, top + height + 30), 14, cell.color)
    return sheet
