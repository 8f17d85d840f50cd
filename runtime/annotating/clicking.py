"""Defines zones by clicks on a frame."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.draw import INK, PALETTE, draw_label, label_size, type_size
from twincar_edge.errors import InputError
from twincar_edge.runtime.annotating.picture import line_width
from twincar_edge.runtime.annotating.window import END_KEYS, REFRESH_MS, is_open, require_display, window_failures
from twincar_edge.runtime.annotating.zone_picture import draw_zone_picture
from twincar_edge.runtime.locating.zones import Zone

_WINDOW = "zones"
_ENTER, _BACKSPACE = {10, 13}, {8, 127}
_HELP = "click: corner   Enter: close zone   x: close as excluded   Backspace: undo   q: done"


class ClickedZones:
    """Zones that the user is clicking on a frame.

    Attributes:
        corners: of the open zone, in shares of the frame.
        zones: the closed zones.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        """Start without a zone; `names` are already in use."""
        self.corners: list[tuple[float, float]] = []
        self.zones: list[Zone] = []
        self._names = set(names)

    def click(self, x: int, y: int, size_wh: tuple[int, int]) -> None:
        """Add a corner at a pixel of a picture of that size; its outermost pixels are the frame's border."""
        width, height = (max(1, side - 1) for side in size_wh)
        self.corners.append((round(min(1.0, max(0, x) / width), 3), round(min(1.0, max(0, y) / height), 3)))

    def close(self, *, exclude: bool = False) -> None:
        """Make a zone of the corners, if they enclose an area; two corners are those of a rectangle."""
        numbered = (f"zone{number}" for number in count(1))
        name = None if exclude else next(name for name in numbered if name not in self._names)
        try:
            zone = Zone(points=tuple(self.corners), name=name, exclude=exclude)
        except InputError:
            return  # more clicks follow
        self.zones.append(zone)
        self._names.update([] if name is None else [name])
        self.corners = []

    def undo(self) -> None:
        """Remove the last corner, or the last zone if there is no corner."""
        if self.corners:
            self.corners.pop()
        elif self.zones:
            self._names.discard(self.zones.pop().name or "")


def click_zones(image_bgr: NDArray[np.uint8], zones: Sequence[Zone]) -> list[Zone]:
    """Let the user click zones on a frame in a window, and return them; `zones` already exist.

    Raises:
        InputError: there is no display, or the window failed.
    """
    require_display()
    clicked = ClickedZones([zone.name for zone in zones if zone.name is not None])
    height, width = draw_zone_picture(image_bgr, ()).shape[:2]

    def on_mouse(event: int, x: int, y: int, *_: object) -> None:
        if event == cv2.EVENT_LBUTTONDOWN:
            clicked.click(x, y, (width, height))

    with window_failures():
        cv2.namedWindow(_WINDOW, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.setMouseCallback(_WINDOW, on_mouse)
        key = -1
        while key not in END_KEYS and is_open(_WINDOW):
            cv2.imshow(_WINDOW, _picture(image_bgr, zones, clicked))
            key = cv2.waitKey(REFRESH_MS)
            if key in _ENTER or key == ord("x"):
                clicked.close(exclude=key == ord("x"))
            elif key in _BACKSPACE:
                clicked.undo()
        cv2.destroyAllWindows()
    return clicked.zones


def _picture(image_bgr: NDArray[np.uint8], zones: Sequence[Zone], clicked: ClickedZones) -> NDArray[np.uint8]:
    image = draw_zone_picture(image_bgr, (*zones, *clicked.zones))
    size = type_size(image)
    rows, columns = image.shape[:2]
    corners = np.round(np.array(clicked.corners).reshape(-1, 2) * (columns - 1, rows - 1)).astype(np.int32)
    for color, width in ((INK, line_width(size) + 2), (PALETTE[0], line_width(size))):
        cv2.polylines(image, [corners], False, color, width)
        for corner in corners.tolist():
            cv2.circle(image, corner, size // 3 + (color == INK), color, cv2.FILLED)
    high = label_size([_HELP], size)[1]
    draw_label(image, [_HELP], (2 * size, rows - 2 * high), size, INK)
    return image
