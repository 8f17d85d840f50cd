"""Wheel faces: square pictures of tire, rim and brake that are drawn into the wheel arches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from twincar_edge.synthetic.arrays import Image

SIZE = 192
"""Pixels along one side of a wheel picture; the tire touches all four edges."""

RIM = 0.70
"""Radius of the rim as a share of the tire's."""

_TIRE = (30, 29, 28)
_METAL = (188, 184, 180)
_METAL_SHADE = (120, 117, 114)
_DARK = (13, 13, 13)
_SHIFT = 4


@dataclass(frozen=True)
class WheelFace:
    """Two layers, uint8 [SIZE, SIZE, 4] (BGR and coverage): `back` is deep in the rim, `face` outside."""

    back: Image
    face: Image


class _Brush:
    """Draws in units of the tire's radius around the center; `cover=0` cuts holes."""

    def __init__(self) -> None:
        self.picture = np.zeros((SIZE, SIZE, 4), np.uint8)

    def disc(self, radius: float, bgr: tuple[int, int, int], x: float = 0.0, y: float = 0.0, cover: int = 255) -> None:
        cv2.circle(self.picture, self._at(x, y), round(radius * SIZE / 2 * 16), (*bgr, cover), -1, cv2.LINE_AA, _SHIFT)

    def ring(self, radius: float, width: float, bgr: tuple[int, int, int]) -> None:
        cv2.circle(self.picture, self._at(0, 0), round(radius * SIZE / 2 * 16), (*bgr, 255),
                   max(1, round(width * SIZE / 2)), cv2.LINE_AA, _SHIFT)  # fmt: skip

    def blade(self, turn_deg: float, inner: tuple[float, float], outer: tuple[float, float], bgr: tuple[int, int, int],
              skew_deg: float = 0.0, cover: int = 255) -> None:  # fmt: skip
        """A spoke: (radius, half width) at either end; `skew_deg` rotates its outer end."""
        a, b = np.radians(turn_deg), np.radians(turn_deg + skew_deg)
        corners = []
        for (radius, half), angle, signs in ((inner, a, (-1, 1)), (outer, b, (1, -1))):
            for sign in signs:
                corners.append((radius * np.cos(angle) - sign * half * np.sin(angle),
                                radius * np.sin(angle) + sign * half * np.cos(angle)))  # fmt: skip
        pixels = np.array([self._at(float(x), float(y)) for x, y in corners], np.int32)
        cv2.fillConvexPoly(self.picture, pixels, (*bgr, cover), cv2.LINE_AA, _SHIFT)

    def _at(self, x: float, y: float) -> tuple[int, int]:
        scale = SIZE / 2 * 16
        return round((x + 1) * scale) - 8, round((y + 1) * scale) - 8


def _open_rim(brush: _Brush) -> None:
    brush.disc(RIM, _METAL_SHADE)
    brush.disc(RIM - 0.035, (0, 0, 0), cover=0)


def _hub(brush: _Brush, radius: float, bolts: int) -> None:
    brush.disc(radius, _METAL)
    for k in range(bolts):
        turn = 2 * np.pi * k / bolts
        brush.disc(0.022, _DARK, radius * 0.68 * float(np.cos(turn)), radius * 0.68 * float(np.sin(turn)))
    brush.disc(radius * 0.42, (70, 69, 68))


def _spokes(
    brush: _Brush, count: int, inner: tuple[float, float], outer: tuple[float, float], skew_deg: float = 0
) -> None:
    for k in range(count):
        turn = 360 * k / count - 90
        brush.blade(turn, (inner[0], inner[1] + 0.018), (outer[0], outer[1] + 0.018), _METAL_SHADE, skew_deg)
        brush.blade(turn, inner, outer, _METAL, skew_deg)


def _five_spoke(brush: _Brush) -> None:
    _open_rim(brush)
    _spokes(brush, 5, (0.1, 0.085), (RIM - 0.02, 0.065))
    _hub(brush, 0.17, 5)


def _ten_spoke(brush: _Brush) -> None:
    _open_rim(brush)
    _spokes(brush, 10, (0.08, 0.03), (RIM - 0.02, 0.036), 8)
    _hub(brush, 0.15, 5)


def _twin_spoke(brush: _Brush) -> None:
    _open_rim(brush)
    for k in range(5):
        for side in (-13, 13):
            turn = 72 * k - 90
            brush.blade(turn + side * 0.5, (0.1, 0.05), (RIM - 0.02, 0.045), _METAL_SHADE, side * 0.6)
            brush.blade(turn + side * 0.5, (0.1, 0.034), (RIM - 0.02, 0.030), _METAL, side * 0.6)
    _hub(brush, 0.16, 5)


def _six_spoke(brush: _Brush) -> None:
    _open_rim(brush)
    _spokes(brush, 6, (0.1, 0.10), (RIM - 0.02, 0.075))
    _hub(brush, 0.20, 6)


def _six_hole(brush: _Brush) -> None:
    """A solid dark disc with small round holes and a bright outer ring."""
    brush.disc(RIM, _METAL)
    brush.disc(RIM - 0.07, (62, 61, 60))
    for k in range(8):
        turn = 2 * np.pi * k / 8
        brush.disc(0.085, (0, 0, 0), 0.47 * float(np.cos(turn)), 0.47 * float(np.sin(turn)), cover=0)
    brush.ring(0.30, 0.02, (92, 90, 88))
    _hub(brush, 0.20, 6)


def _steel(brush: _Brush) -> None:
    """A plain pressed disc with a ring of slots."""
    brush.disc(RIM, (150, 148, 146))
    brush.disc(RIM - 0.05, (128, 126, 124))
    for k in range(12):
        brush.blade(30 * k, (0.44, 0.05), (0.56, 0.055), (24, 24, 24))
    brush.disc(0.30, (146, 144, 142))
    _hub(brush, 0.16, 5)


WHEELS: dict[str, Callable[[_Brush], None]] = {
    "five_spoke": _five_spoke,
    "ten_spoke": _ten_spoke,
    "twin_spoke": _twin_spoke,
    "six_spoke": _six_spoke,
    "six_hole": _six_hole,
    "steel": _steel,
}


@lru_cache(maxsize=16)
def wheel_face(style: str) -> WheelFace:
    """Return the picture of a wheel style. It is shared: treat it as read-only."""
    back = _Brush()
    back.disc(RIM + 0.02, _DARK)
    back.disc(0.50, (84, 84, 86))
    back.ring(0.44, 0.012, (66, 66, 68))
    back.blade(0, (0.30, 0.12), (0.54, 0.14), (44, 44, 46))
    back.disc(0.24, (40, 40, 40))
    rim = _Brush()
    WHEELS[style](rim)
    face = _Brush()
    face.disc(0.985, _TIRE)
    face.ring(0.90, 0.02, (42, 41, 40))
    face.ring(0.80, 0.015, (24, 24, 24))
    inside = _Brush()
    inside.disc(RIM, (255, 255, 255))
    alpha = inside.picture[..., 3:].astype(np.float32) / 255
    merged = np.round(face.picture * (1 - alpha) + rim.picture * alpha).astype(np.uint8)
    return WheelFace(back.picture, merged)
