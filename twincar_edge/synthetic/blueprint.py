"""Blueprints: flat drawings of a car's side, front, rear and top, in meters, that are later mapped onto its body.

A blueprint is not a picture but a stack of material planes. `paint` is the share of body color, `gloss` the strength
of reflections, `solid` where the car has any surface (wheel arches are holes), `glow` emitted light, and `relief` the
height of creases and gaps, from which the normals are computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.synthetic.arrays import Floats, Image, f32

Point = tuple[float, float]

_SHIFT = 4
_ONE = 1 << _SHIFT


@dataclass(frozen=True)
class Material:
    """A surface material: display-space color (BGR, 0..255); share of body paint, gloss and glow, each 0..1."""

    bgr: tuple[int, int, int] = (128, 128, 128)
    paint: float = 0.0
    gloss: float = 0.5
    glow: float = 0.0


PAINT = Material(paint=1.0, gloss=1.0)
SHADED_PAINT = Material((20, 20, 20), paint=0.55, gloss=0.7)
GLASS = Material((22, 21, 20), gloss=1.0)
DARK_GLASS = Material((11, 11, 11), gloss=1.0)
SEE_THROUGH = Material((104, 99, 92), gloss=1.0)
BLACK = Material((26, 25, 24), gloss=0.22)
GLOSS_BLACK = Material((17, 16, 16), gloss=0.9)
RUBBER = Material((20, 20, 20), gloss=0.05)
PLASTIC = Material((54, 52, 50), gloss=0.12)
VOID = Material((7, 7, 7), gloss=0.05)
SEAM = Material((9, 9, 9), paint=0.22, gloss=0.1)
CHROME = Material((205, 202, 198), gloss=1.0)
ALUMINUM = Material((190, 188, 186), gloss=0.55)
LAMP = Material((208, 204, 196), gloss=0.9)
LAMP_DIM = Material((96, 92, 86), gloss=0.95)
LED = Material((255, 252, 246), gloss=0.3, glow=0.75)
AMBER = Material((24, 118, 235), gloss=0.6)
RED = Material((24, 18, 168), gloss=0.8, glow=0.10)
RED_DARK = Material((14, 10, 84), gloss=0.9)
RED_LED = Material((50, 40, 250), gloss=0.4, glow=0.55)
PLATE = Material((214, 218, 218), gloss=0.15)


class Blueprint:
    """A drawing board of `u0..u1` by `v0..v1` meters; v points up.

    Planes: `color` uint8 [H, W, 4] (B, G, R, paint), `finish` uint8 [H, W, 3] (gloss, solid, glow) and `relief`
    float32 [H, W] in meters.
    """

    def __init__(self, u0: float, u1: float, v0: float, v1: float, px_per_m: float = 200.0) -> None:
        """Start a blank board, all body paint."""
        self.u0, self.v1, self.scale = u0, v1, px_per_m
        height, width = round((v1 - v0) * px_per_m), round((u1 - u0) * px_per_m)
        self.color = np.empty((height, width, 4), np.uint8)
        self.color[:] = (*PAINT.bgr, 255)
        self.finish = np.empty((height, width, 3), np.uint8)
        self.finish[:] = (255, 255, 0)
        self.relief = np.zeros((height, width), np.float32)

    def pixels(self, points: Floats) -> Floats:
        """Convert points [..., 2] in meters to board pixels [..., 2]."""
        flipped = np.stack([points[..., 0] - self.u0, self.v1 - points[..., 1]], axis=-1)
        return np.asarray(flipped * self.scale - 0.5, np.float32)

    def fill(self, points: Sequence[Point], material: Material, bevel: float = 0.0, lift: float = 0.0) -> None:
        """Fill a polygon and raise it by `lift` meters, with an edge `bevel` meters wide."""
        fixed = self._fixed(points)
        place, mask, corner = self._window(fixed, 3 * bevel * self.scale)
        cv2.fillPoly(mask, [fixed - corner], 255, cv2.LINE_AA, _SHIFT)
        self._blend(place, mask, material)
        self._raise(place, mask, lift, bevel)

    def stroke(
        self,
        points: Sequence[Point],
        width: float,
        material: Material | None,
        closed: bool = False,
        bevel: float = 0.0,
        lift: float = 0.0,
    ) -> None:
        """Draw a line `width` meters wide; without a material, change only the relief."""
        fixed = self._fixed(points)
        # OpenCV's thinnest line is one pixel wide: draw thinner lines at one pixel, with less coverage.
        thick = max(1.0, width * self.scale)
        place, mask, corner = self._window(fixed, 3 * bevel * self.scale + thick)
        cv2.polylines(mask, [fixed - corner], closed, 255, round(thick), cv2.LINE_AA, _SHIFT)
        if width * self.scale < 1.0:
            mask = np.asarray(cv2.convertScaleAbs(mask, alpha=width * self.scale), np.uint8)
        if material is not None:
            self._blend(place, mask, material)
        self._raise(place, mask, lift, bevel)

    def disc(self, center: Point, radius: float, material: Material, lift: float = 0.0) -> None:
        """Fill a circle."""
        self.fill(oval(center, radius, radius), material, radius * 0.5, lift)

    def gap(self, points: Sequence[Point], closed: bool = False, width: float = 0.009) -> None:
        """Draw a panel gap: a dark line with rounded shoulders that catch the light."""
        self.stroke(points, width * 2.2, None, closed, 0.012, -0.003)
        self.stroke(points, width, SEAM, closed)

    def crease(self, points: Sequence[Point], height: float, soft: float) -> None:
        """Fold the sheet along a line in u direction: sharp above the line, fading over `soft` meters below it."""
        us, vs = np.array(sorted(points), np.float32).T
        rows, cols = self.relief.shape
        u = self.u0 + (np.arange(cols, dtype=np.float32) + 0.5) / self.scale
        v = self.v1 - (np.arange(rows, dtype=np.float32) + 0.5) / self.scale
        below = np.interp(u, us, vs).astype(np.float32)[None, :] - v[:, None]
        rise = np.where(below >= 0, np.exp(-np.maximum(below, 0) / soft), np.exp(np.minimum(below, 0) / (soft * 0.3)))
        fade = np.clip(np.minimum(u - us[0], us[-1] - u) / 0.3, 0, 1)[None, :]
        self.relief += (height * rise * fade).astype(np.float32)

    def cut(self, points: Sequence[Point]) -> None:
        """Cut a hole, for example a wheel arch."""
        fixed = self._fixed(points)
        place, mask, corner = self._window(fixed, 0)
        cv2.fillPoly(mask, [fixed - corner], 255, cv2.LINE_AA, _SHIFT)
        self.finish[place][..., 1] = np.minimum(self.finish[place][..., 1], 255 - mask)

    def shade(self, points: Sequence[Point], strength: float, soft: float, material: Material) -> None:
        """Blend a material over a polygon with opacity `strength` and a soft edge, like the shade under a ledge."""
        fixed = self._fixed(points)
        place, mask, corner = self._window(fixed, 3 * soft * self.scale)
        cv2.fillPoly(mask, [fixed - corner], 255, cv2.LINE_AA, _SHIFT)
        blurred = cv2.GaussianBlur(mask, (0, 0), max(0.5, soft * self.scale))
        self._blend(place, np.asarray(cv2.convertScaleAbs(blurred, alpha=strength), np.uint8), material)

    def mirror_u(self) -> None:
        """Copy the half with u > 0 onto the half with u < 0 (the board must be symmetric about u = 0)."""
        half = self.relief.shape[1] // 2
        for plane in (self.color, self.finish, self.relief):
            plane[:, :half] = plane[:, -half:][:, ::-1]

    def _fixed(self, points: Iterable[Point]) -> NDArray[np.int32]:
        pixels = self.pixels(f32(list(points)))
        return np.round(pixels * _ONE).astype(np.int32)

    def _window(self, fixed: NDArray[np.int32], margin: float) -> tuple[tuple[slice, slice], Image, NDArray[np.int32]]:
        """Return the part of the board around some points, an empty mask for it, and its corner in fixed point."""
        rows, columns = self.relief.shape
        border = int(margin) + 2
        x0, y0 = np.clip(fixed.min(axis=0) // _ONE - border, 0, (columns - 1, rows - 1)).tolist()
        x1, y1 = np.clip(fixed.max(axis=0) // _ONE + border + 1, (x0 + 1, y0 + 1), (columns, rows)).tolist()
        corner = np.array([x0 * _ONE, y0 * _ONE], np.int32)
        return (slice(y0, y1), slice(x0, x1)), np.zeros((y1 - y0, x1 - x0), np.uint8), corner

    def _blend(self, place: tuple[slice, slice], mask: Image, material: Material) -> None:
        alpha = mask.astype(np.float32)[..., None] * np.float32(1 / 255)
        color = f32([*material.bgr, 255 * material.paint])
        self.color[place] = np.round(self.color[place] * (1 - alpha) + color * alpha)
        for plane, value in ((0, material.gloss), (2, material.glow)):
            old = self.finish[place][..., plane]
            self.finish[place][..., plane] = np.round(
                old * (1 - alpha[..., 0]) + np.float32(255 * value) * alpha[..., 0]
            )

    def _raise(self, place: tuple[slice, slice], mask: Image, lift: float, bevel: float) -> None:
        if lift == 0.0:
            return
        soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(0.6, bevel * self.scale / 2))
        self.relief[place] += np.asarray(soft, np.float32) * np.float32(lift / 255)


def oval(center: Point, radius_u: float, radius_v: float, start: float = 0.0, stop: float = 360.0) -> list[Point]:
    """Return points of an ellipse or an arc of it; angles in degrees from +u toward +v."""
    angles = np.radians(np.linspace(start, stop, 49))
    return [
        (center[0] + radius_u * float(np.cos(angle)), center[1] + radius_v * float(np.sin(angle))) for angle in angles
    ]


def rectangle(u0: float, u1: float, v0: float, v1: float, radius: float = 0.0) -> list[Point]:
    """Return an axis-aligned rectangle whose corners have a radius of `radius` meters."""
    if radius <= 0:
        return [(u0, v0), (u1, v0), (u1, v1), (u0, v1)]
    radius = min(radius, abs(u1 - u0) / 2, abs(v1 - v0) / 2)
    corners = [(u1 - radius, v1 - radius, 0), (u0 + radius, v1 - radius, 90)]
    corners += [(u0 + radius, v0 + radius, 180), (u1 - radius, v0 + radius, 270)]
    points: list[Point] = []
    for u, v, turn in corners:
        points += oval((u, v), radius, radius, turn, turn + 90)[::6]
    return points
