"""A frame to draw zones on: a grid in pixels and in shares of the frame, the existing zones, and their TOML."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.draw import INK, WHITE, draw_label, label_size, type_size
from twincar_edge.runtime.annotating.picture import draw_zones, enlarged, thin_width
from twincar_edge.runtime.locating.zones import Zone

LEAST_SIDE = 320  # pixels: smaller frames are enlarged, or the labels would cover one another
_PARTS = 10


def draw_zone_picture(image_bgr: NDArray[np.uint8], zones: Sequence[Zone]) -> NDArray[np.uint8]:
    """Return a frame under a grid, with the zones: a new uint8 [H, W, 3], larger only than a small frame.

    Shares of the frame are written at the top and on the left, pixels of the frame at the bottom and on the right.
    """
    rows, columns = image_bgr.shape[:2]
    image, _ = enlarged(image_bgr, LEAST_SIDE)
    size = type_size(image)
    _draw_grid(image, thin_width(size))
    draw_zones(image, zones, size)
    small = max(9, round(0.7 * size))
    down, across = image.shape[:2]
    for part in range(1, _PARTS):
        share, (x, y) = [f"{part / _PARTS:g}"], (across * part // _PARTS, down * part // _PARTS)
        pixels_x, pixels_y = [f"{columns * part // _PARTS}"], [f"{rows * part // _PARTS}"]
        width, height = label_size(share, small)
        draw_label(image, share, (x - width // 2, 0), small, INK)
        draw_label(image, share, (0, y - height // 2), small, INK)
        draw_label(image, pixels_x, (x - label_size(pixels_x, small)[0] // 2, down - height), small, INK)
        draw_label(image, pixels_y, (across - label_size(pixels_y, small)[0], y - height // 2), small, INK)
    return image


def _draw_grid(image: NDArray[np.uint8], width: int) -> None:
    """Draw translucent lines."""
    rows, columns = image.shape[:2]
    lined = image.copy()
    for color, broad in ((INK, 3 * width), (WHITE, width)):
        for part in range(1, _PARTS):
            x, y = columns * part // _PARTS, rows * part // _PARTS
            cv2.line(lined, (x, 0), (x, rows), color, broad)
            cv2.line(lined, (0, y), (columns, y), color, broad)
    cv2.addWeighted(lined, 0.4, image, 0.6, 0, dst=image)


def zone_toml(zone: Zone) -> str:
    """Return a zone in the syntax of `cameras.toml`, below its camera."""
    lines = ["[[cameras.zones]]"]
    if zone.name is not None:
        lines.append(f'name = "{zone.name}"')
    if zone.exclude:
        lines.append("exclude = true")
    points = ", ".join(f"[{x:.10g}, {y:.10g}]" for x, y in zone.points)
    return "\n".join([*lines, f"points = [{points}]"]) + "\n"
