"""Backgrounds for a car: road or parking lot, curb, hedge, wall or houses, trees, skyline and sky.

Everything is in correct perspective: the ground is a textured plane, hedges and walls are upright planes.
The road runs along the world's x axis and the car's lane is centered on y = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from twincar_edge.synthetic.arrays import Floats, Image, f32, over
from twincar_edge.synthetic.camera import Camera
from twincar_edge.synthetic.light import Light, display
from twincar_edge.synthetic.tiles import asphalt_grain, wall_tile

_TILE_PX_PER_M = 40.0
_REACH_M = 160.0

SETTINGS = ("road", "parking", "street")
"""Kinds of places."""

WALLS = ("hedge", "houses", "wall", "trees", "open")
"""What may line the far side."""


@dataclass(frozen=True)
class Scene:
    """A place; `seed` determines its details (cracks, windows, tree tops)."""

    setting: str
    wall: str
    wall_y: float
    wet: bool
    snow: bool
    seed: int
    lane_half: float = 1.85


def random_scene(rng: np.random.Generator, wet: bool, snow: bool) -> Scene:
    """Choose a random place."""
    return Scene(
        setting=SETTINGS[int(rng.integers(len(SETTINGS)))],
        wall=WALLS[int(rng.integers(len(WALLS)))],
        wall_y=float(rng.uniform(4.5, 11.0)),
        wet=wet,
        snow=snow,
        seed=int(rng.integers(1 << 31)),
    )


def draw_scene(scene: Scene, camera: Camera, light: Light, size_wh: tuple[int, int]) -> Image:
    """Return the empty place, uint8 BGR [H, W, 3]."""
    rng = np.random.default_rng(scene.seed)
    frame = _draw_sky(camera, light, size_wh, rng)
    _draw_skyline(frame, camera, light, rng)
    _draw_ground(frame, scene, camera, light, rng)
    side = -1.0 if float(camera.position[1]) >= 0 else 1.0
    # The wall on the camera's side is behind the camera, visible only in views along the road.
    _draw_wall(frame, scene.wall, side * scene.wall_y, camera, light, rng)
    near = abs(float(camera.position[1])) + 4.0
    _draw_wall(
        frame, "trees" if scene.wall == "open" else scene.wall, -side * max(scene.wall_y, near), camera, light, rng
    )
    return _soften_distance(frame, camera)


def _tone(light: Light, albedo: tuple[float, float, float], normal: tuple[float, float, float] = (0, 0, 1)) -> Floats:
    return display(f32(albedo) * light.on_plane(normal))


def _color(values: Floats) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _draw_sky(camera: Camera, light: Light, size_wh: tuple[int, int], rng: np.random.Generator) -> Image:
    width, height = size_wh
    rise = (camera.horizon_y() - np.arange(height, dtype=np.float32)) / f32(camera.focal_px)
    up = np.clip(rise / np.sqrt(1 + rise * rise), 0, 1)[:, None]
    column = display(light.horizon * (1 - up) ** 3 + light.sky * (1 - (1 - up) ** 3))
    sky = np.repeat(np.round(column).astype(np.uint8)[:, None], width, axis=1)
    clouds = np.clip(rng.uniform(0, 1, (5, 9)) - 0.5, 0, 1) * 70
    field = cv2.resize(clouds.astype(np.float32), size_wh, interpolation=cv2.INTER_CUBIC)
    veil = cv2.convertScaleAbs(np.maximum(f32(field), 0))
    return np.asarray(cv2.add(sky, cv2.merge([veil, veil, veil])), np.uint8)


def _draw_skyline(frame: Image, camera: Camera, light: Light, rng: np.random.Generator) -> None:
    """Draw two rows of distant silhouettes, the farther one paler."""
    width = frame.shape[1]
    horizon = camera.horizon_y()
    for haze, tallest in ((0.72, 0.10), (0.48, 0.06)):
        far = display(light.horizon * haze + light.on_plane((0, 0, 1)) * f32((0.05, 0.07, 0.06)) * (1 - haze))
        city = rng.random() < 0.5
        step = 0.05 * camera.focal_px
        places = np.arange(0, width + 2 * step, step * (1.0 if city else 0.35))
        tops = horizon - camera.focal_px * tallest * rng.uniform(0.15, 1.0, len(places))
        if city:
            places, tops = np.repeat(places, 2)[1:], np.repeat(tops, 2)[:-1]
        else:
            tops = np.convolve(np.pad(tops, 2, mode="edge"), np.ones(5) / 5, mode="valid")
        outline = [(0.0, horizon + 3), *zip(places.tolist(), tops.tolist(), strict=True), (width + 99.0, horizon + 3)]
        cv2.fillPoly(frame, [np.round(np.array(outline) * 16).astype(np.int32)], _color(far), cv2.LINE_AA, 4)


def _ground_polygon(frame: Image, camera: Camera, corners: Floats, bgr: Floats) -> None:
    clipped = camera.clip(corners, (frame.shape[1], frame.shape[0]))
    if len(clipped) >= 3:
        pixels, _ = camera.project(clipped)
        fixed = np.round(pixels * 16).astype(np.int32)
        cv2.fillPoly(frame, [fixed], _color(bgr), cv2.LINE_AA, 4)


def _strip(x0: float, x1: float, y0: float, y1: float, z: float = 0.0) -> Floats:
    return f32([[x0, y0, z], [x1, y0, z], [x1, y1, z], [x0, y1, z]])


def _draw_ground(frame: Image, scene: Scene, camera: Camera, light: Light, rng: np.random.Generator) -> None:
    height = frame.shape[0]
    side = -1.0 if float(camera.position[1]) >= 0 else 1.0
    asphalt = (0.07, 0.07, 0.07) if scene.wet else (0.155, 0.150, 0.145)
    grass = (0.045, 0.13, 0.075)
    paving = (0.30, 0.31, 0.32)
    if scene.snow:
        asphalt, grass, paving = (0.30, 0.29, 0.28), (0.82, 0.80, 0.78), (0.70, 0.68, 0.66)
    horizon = round(camera.horizon_y())
    if horizon < height:
        frame[max(0, horizon) :] = _tone(light, asphalt)
    reach = _REACH_M
    white = _tone(light, (0.62, 0.63, 0.64))
    curb = scene.lane_half + 0.35
    verge = grass if rng.random() < 0.5 or scene.setting == "road" else paving
    wide = 400.0
    if scene.setting == "parking":
        for k in range(-9, 10):
            y = k * 2.7 + 1.35
            _ground_polygon(frame, camera, _strip(-3.0, 3.2, y - 0.05, y + 0.05), white)
        _ground_polygon(frame, camera, _strip(-3.15, -3.0, -24, 24), white)
        _ground_polygon(frame, camera, _strip(-reach, -5.2, -wide, wide), _tone(light, verge))
    else:
        for sign in (side, -side):
            inner = curb if sign == side else scene.lane_half + 3.9
            _ground_polygon(frame, camera, _strip(-reach, reach, sign * inner, sign * wide), _tone(light, verge))
            _ground_polygon(
                frame,
                camera,
                _strip(-reach, reach, sign * inner, sign * (inner + 0.22)),
                _tone(light, (0.42, 0.42, 0.42)),
            )
            if scene.setting == "street":
                walk = _strip(-reach, reach, sign * (inner + 0.22), sign * (inner + 2.2))
                _ground_polygon(frame, camera, walk, _tone(light, paving))
        for k in range(-12, 12):
            y = -side * (scene.lane_half + 0.1)
            _ground_polygon(frame, camera, _strip(k * 6.0, k * 6.0 + 3.0, y - 0.07, y + 0.07), white)
        if scene.setting == "road":
            y = side * (scene.lane_half - 0.12)
            _ground_polygon(frame, camera, _strip(-reach, reach, y - 0.06, y + 0.06), white)
    _texture_ground(frame, camera, scene, horizon)


def _texture_ground(frame: Image, camera: Camera, scene: Scene, horizon: int) -> None:
    height, width = frame.shape[:2]
    top = max(0, horizon + 1)
    if top >= height - 1:
        return
    scale = 1.0 / _TILE_PX_PER_M
    shift = (scene.seed % 977) * 0.013
    to_meters = np.array([[scale, 0, shift], [0, scale, shift * 0.7], [0, 0, 1]], np.float64)
    down = np.array([[1, 0, 0], [0, 1, -top], [0, 0, 1]], np.float64)
    matrix = down @ camera.ground_homography() @ to_meters
    grain = cv2.warpPerspective(
        asphalt_grain(), matrix, (width, height - top), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )
    # Far away, many grains share a pixel: fade the texture out to avoid aliasing.
    rows = np.arange(height - top, dtype=np.float32)
    keep = np.clip(rows / np.float32(0.10 * camera.focal_px), 0, 1)[:, None]
    factor = np.asarray((np.asarray(grain, np.float32) - 128) * keep + 128, np.uint8)
    frame[top:] = cv2.multiply(frame[top:], cv2.merge([factor, factor, factor]), scale=1 / 128)


def _draw_wall(frame: Image, kind: str, y: float, camera: Camera, light: Light, rng: np.random.Generator) -> None:
    """Draw an upright textured plane along the road at `y`."""
    tall = {"hedge": 1.3, "houses": 8.0, "wall": 2.3, "trees": 6.5, "open": 0.0}[kind] * float(rng.uniform(0.85, 1.2))
    pick, offset = int(rng.integers(4)), float(rng.uniform(0, 12))
    if tall == 0.0:
        return
    tile = wall_tile(kind, pick)
    facing = -1.0 if y > 0 else 1.0
    lit = np.sqrt(np.clip(light.on_plane((0.0, facing, 0.0)) + 0.06, 0, 1.3))
    height, width = frame.shape[:2]
    meters = 12.8 / tile.shape[1]
    rise = tall / tile.shape[0]
    # The columns are world vectors: one texel right, one texel down, and the tile's corner.
    world = np.array([[meters, 0, offset], [0, 0, y], [0, -rise, tall]], np.float64)
    world[:, 2] -= camera.position.astype(np.float64)
    focal, (cx, cy) = camera.focal_px, camera.center_xy
    intrinsics = np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1]], np.float64)
    matrix = intrinsics @ camera.axes.astype(np.float64) @ world
    corners = f32([[-_REACH_M, y, 0], [_REACH_M, y, 0], [_REACH_M, y, tall], [-_REACH_M, y, tall]])
    clipped = camera.clip(corners, (width, height))
    if len(clipped) < 3:
        return
    pixels, _ = camera.project(clipped)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(pixels * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    x0, y0, w, h = cv2.boundingRect(mask)
    if w == 0 or h == 0:
        return
    shift = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1]], np.float64)
    drawn = cv2.warpPerspective(tile, shift @ matrix, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    place = frame[y0 : y0 + h, x0 : x0 + w]
    *planes, cover = cv2.split(drawn)
    weight = np.asarray(cv2.multiply(cover, mask[y0 : y0 + h, x0 : x0 + w], scale=1 / 255), np.uint8)
    tinted = [cv2.multiply(plane, weight, scale=float(gain) / 255) for plane, gain in zip(planes, lit, strict=True)]
    over(place, np.asarray(cv2.merge(tinted), np.uint8), weight)


def _soften_distance(frame: Image, camera: Camera) -> Image:
    """Blur what is far behind the car slightly."""
    height = frame.shape[0]
    blurred = cv2.GaussianBlur(frame, (0, 0), max(0.6, height / 220))
    below = (np.arange(height, dtype=np.float32) - np.float32(camera.horizon_y())) * np.float32(10 / camera.focal_px)
    sharp = np.repeat(np.clip(below - 0.3, 0, 1)[:, None], frame.shape[1], axis=1)
    return np.asarray(cv2.blendLinear(frame, blurred, sharp, 1 - sharp), np.uint8)
