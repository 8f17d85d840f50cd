"""Shades pixels: diffuse paint or trim under a clear coat that reflects the sky, the skyline and the road.

Color channels are separate float32 [N] arrays: arithmetic on long rows is many times faster than on rows of three.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from twincar_edge.synthetic.arrays import Floats, f32
from twincar_edge.synthetic.camera import Camera
from twincar_edge.synthetic.light import MAP_SIZE, Light, display

ROW = 256
"""N must be a multiple of this: OpenCV's remap needs 2-D arrays, so pixels are arranged in rows of this length."""


@dataclass(frozen=True)
class Paint:
    """Body color: linear BGR, and its metallic share, 0..1."""

    bgr: tuple[float, float, float]
    metallic: float


@dataclass(frozen=True)
class Surface:
    """Atlas values of N pixels; every field is float32 [N]. Colors and shares are 0..1."""

    blue: Floats
    green: Floats
    red: Floats
    paint: Floats
    gloss: Floats
    glow: Floats
    nx: Floats
    ny: Floats
    nz: Floats
    ambient: Floats


def view_rays(camera: Camera, columns: Floats, rows: Floats) -> tuple[Floats, Floats, Floats]:
    """Return unit view rays in the car's axes: x, y and z, float32 [N] each."""
    x = (columns - np.float32(camera.center_xy[0])) * np.float32(1 / camera.focal_px)
    y = (rows - np.float32(camera.center_xy[1])) * np.float32(1 / camera.focal_px)
    z = 1.0 / np.sqrt(x * x + y * y + 1.0)
    x *= z
    y *= z
    (a, b, c), (d, e, f), (g, h, i) = camera.axes
    return x * a + y * d + z * g, x * b + y * e + z * h, x * c + y * f + z * i


def shade(at: Surface, rays: tuple[Floats, Floats, Floats], light: Light, paint: Paint) -> list[Floats]:
    """Return the display values of pixels seen along `rays`: blue, green and red, float32 [N] each.

    Paint is a diffuse base that darkens toward grazing angles like metal flakes, under a clear coat that reflects the
    surroundings by Schlick's approximation of Fresnel's law (Schlick 1994), with a broad and a sharp highlight.
    """
    rx, ry, rz = rays
    facing = at.nx * rx + at.ny * ry + at.nz * rz
    twice = facing + facing
    mx, my, mz = rx - twice * at.nx, ry - twice * at.ny, rz - twice * at.nz
    sx, sy, sz = light.to_sun
    sunny = np.maximum(at.nx * sx + at.ny * sy + at.nz * sz, 0.0)
    glint = np.maximum(mx * sx + my * sy + mz * sz, 0.0)
    up = at.nz * np.float32(0.5) + np.float32(0.5)
    look = np.clip(-facing, 0.0, 1.0)
    graze = 1.0 - look
    graze5 = (graze * graze) * (graze * graze) * graze
    metallic = np.float32(paint.metallic)
    flop = at.paint * (1.0 + metallic * (np.float32(0.55) * look * look - np.float32(0.30)))
    rest = 1.0 - at.paint
    fresnel = (np.float32(0.065) + np.float32(0.80) * graze5 + np.float32(0.02) * rest * at.gloss) * at.gloss
    kept = 1.0 - np.float32(0.5) * fresnel
    mirror = fresnel * (np.float32(0.35) + np.float32(0.65) * at.ambient)
    lobe = _power8(glint)
    broad = lobe * (np.float32(0.25) * metallic) * flop
    sharp = _power8(lobe) * np.float32(2.2) * at.gloss
    around = cv2.split(_surroundings(light, mx, my, mz))
    shine = at.glow * np.float32(1.6)
    result = []
    for k, own in enumerate((at.blue, at.green, at.red)):
        albedo = flop * np.float32(paint.bgr[k]) + rest * own * own
        sky, ground, sun = np.float32(0.5) * (light.sky[k] + light.horizon[k]), light.ground[k], light.sun[k]
        lit = (up * (sky - ground) + ground) * at.ambient + sunny * sun
        value = albedo * (lit * kept + shine + broad * sun) + f32(around[k]).ravel() * mirror + sharp * sun
        result.append(display(value))
    return result


def _power8(value: Floats) -> Floats:
    square = value * value
    fourth = square * square
    return fourth * fourth


def _surroundings(light: Light, x: Floats, y: Floats, z: Floats) -> Floats:
    """Return the surroundings in directions [N]: linear BGR, [N / 256, 256, 3]."""
    half = np.float32(MAP_SIZE / 2)
    spread = half / np.sqrt(np.maximum(2 + 2 * z, 1e-4))
    c, s = np.float32(np.cos(light.heading)), np.float32(np.sin(light.heading))
    u = (c * x - s * y) * spread + (half - np.float32(0.5))
    v = (s * x + c * y) * spread + (half - np.float32(0.5))
    return f32(cv2.remap(light.surroundings, u.reshape(-1, ROW), v.reshape(-1, ROW), cv2.INTER_LINEAR))
