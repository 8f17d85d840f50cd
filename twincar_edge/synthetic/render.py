"""Draws a car model: rasterizes triangles into an index buffer, then shades all covered pixels together.

Triangles only determine *which* place of the atlas a pixel shows (painter's algorithm, OpenCV fills). Color, normals
and finish are then looked up with `cv2.remap` and shaded in one vectorized pass, so curved sheet metal gets smooth
reflections even from a coarse mesh.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.synthetic.arrays import Floats, Image, f32, over
from twincar_edge.synthetic.camera import Camera
from twincar_edge.synthetic.light import Light, display
from twincar_edge.synthetic.shading import ROW, Paint, Surface, shade, view_rays
from twincar_edge.synthetic.skin import CarModel
from twincar_edge.synthetic.wheels import RIM, SIZE

_SHIFT = 4
_CHUNK = 64 * ROW
_PIXEL_BUDGET = 120_000


@dataclass(frozen=True)
class CarLayer:
    """A drawn car within its window of the frame.

    `x`, `y`: the window's corner; `color` uint8 [h, w, 3], already weighted by `alpha` uint8 [h, w];
    `part` uint8 [h, w] marks the distinguishing part.
    """

    x: int
    y: int
    color: Image
    alpha: Image
    part: Image

    def box_xyxy(self) -> tuple[int, int, int, int] | None:
        """Return the box around all pixels that the car covers by at least half, or None."""
        x, y, w, h = cv2.boundingRect((self.alpha > 127).astype(np.uint8))
        return (self.x + x, self.y + y, self.x + x + w, self.y + y + h) if w else None


def draw_car(
    model: CarModel,
    camera: Camera,
    light: Light,
    paint: Paint,
    size_wh: tuple[int, int],
    wheel_turn: float = 0.0,
) -> CarLayer | None:
    """Draw a car seen by `camera` (in the car's axes) into a frame of `size_wh`; return None if it is out of sight.

    Small cars are drawn at twice their size and scaled down; large ones, whose edges matter less, at 1.25 times or
    more.
    """
    pixels, depth = camera.project(model.vertices)
    if float(depth.min()) < 0.5:
        return None
    low = np.floor(pixels.min(axis=0)).astype(int) - 2
    high = np.ceil(pixels.max(axis=0)).astype(int) + 3
    # Tires extend below the body's lowest vertex.
    ground, _ = camera.project(_tire_feet(model))
    high[1] = max(high[1], int(np.ceil(ground[:, 1].max())) + 3)
    x0, y0 = max(0, int(low[0])), max(0, int(low[1]))
    x1, y1 = min(size_wh[0], int(high[0])), min(size_wh[1], int(high[1]))
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    scale = float(np.clip(np.sqrt(_PIXEL_BUDGET / ((x1 - x0) * (y1 - y0))), 1.25, 2.0))
    near = camera.window(x0, y0, scale)
    shape = (round((y1 - y0) * scale), round((x1 - x0) * scale))
    # Four channels: premultiplied color, and coverage.
    frame, part = np.zeros((*shape, 4), np.uint8), np.zeros(shape, np.uint8)
    _draw_underside(frame, model, near, light)
    _draw_wheels(frame, part, model, near, light, wheel_turn)
    _draw_shell(frame, part, model, near, light, paint)
    size = (x1 - x0, y1 - y0)
    small = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
    seen = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
    return CarLayer(x0, y0, np.ascontiguousarray(small[..., :3]), np.ascontiguousarray(small[..., 3]), seen)


def _tire_feet(model: CarModel) -> Floats:
    shape = model.shape
    y = shape.width / 2
    return f32([[x, side * y, 0] for x in (shape.front_axle, shape.rear_axle) for side in (-1, 1)])


def outline_points(model: CarModel) -> Floats:
    """Return points [N, 3] whose hull contains the drawn car: its mesh and its tires."""
    shape = model.shape
    ghost = np.isin(model.block_names, [n + end for n in model.ghost_blocks for end in ("", "_r")])
    own = np.unique(model.triangles[~ghost[model.block]])
    tires = [
        _circle(x, side * shape.width / 2 * 0.955, shape.wheel_radius, shape.wheel_radius)
        for x in (shape.front_axle, shape.rear_axle)
        for side in (-1, 1)
    ]
    return np.concatenate([model.vertices[own], *tires])


def _circle(x: float, y: float, z: float, radius: float) -> Floats:
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False, dtype=np.float32)
    return np.stack([x + radius * np.cos(turn), np.full_like(turn, y), z + radius * np.sin(turn)], 1).astype(np.float32)


def _fill_hull(frame: Image, camera: Camera, points: Floats, bgr: Floats) -> None:
    pixels, _ = camera.project(points)
    hull = cv2.convexHull(np.round(pixels * 16).astype(np.int32))
    cv2.fillConvexPoly(frame, hull, [*(float(value) for value in bgr), 255.0], cv2.LINE_8, _SHIFT)


def _near_side(camera: Camera) -> float:
    return 1.0 if float(camera.position[1]) >= 0 else -1.0


def _draw_underside(frame: Image, model: CarModel, camera: Camera, light: Light) -> None:
    """Draw the dark areas: the far tires, the floor and the hollows behind the near wheel arches."""
    shape, side = model.shape, _near_side(camera)
    dark = display(light.on_plane((0, 0, -1)) * 0.02)
    tire = display(light.on_plane((0, 0, 0)) * 0.012)
    y = shape.width / 2 * 0.955
    for x in (shape.front_axle, shape.rear_axle):
        ring = _circle(x, -side * y, shape.wheel_radius, shape.wheel_radius)
        _fill_hull(frame, camera, np.concatenate([ring, ring + f32([0, side * 0.22, 0])]), tire)
    half_length, z = shape.length / 2, shape.clearance
    outline = f32([[0.86, 0.5], [0.72, 0.86], [-0.72, 0.86], [-0.86, 0.5]])
    floor = f32([[a * half_length, sign * b * y, c] for a, b in outline for sign in (-1, 1) for c in (z, z + 0.15)])
    _fill_hull(frame, camera, floor, dark)
    for x in (shape.front_axle, shape.rear_axle):
        arch = _circle(x, side * y, shape.wheel_radius, shape.arch_radius)
        arch[:, 2] = np.maximum(arch[:, 2], shape.clearance + 0.01)
        _fill_hull(frame, camera, np.concatenate([arch, arch - f32([0, side * 0.25, 0])]), dark)


def _draw_wheels(
    frame: Image,
    part: Image,
    model: CarModel,
    camera: Camera,
    light: Light,
    turn: float,
) -> None:
    """Draw the two near wheels: tread, then the brake inside the rim, then sidewall and spokes."""
    shape, side = model.shape, _near_side(camera)
    radius = shape.wheel_radius
    y = side * shape.width / 2 * 0.955
    lit = light.on_plane((0, side, 0)) * np.float32(1.05)
    wheels = sorted((shape.front_axle, shape.rear_axle), key=lambda x: -abs(float(camera.position[0]) - x))
    for x in wheels:
        ring = _circle(x, y, radius, radius)
        inner = ring - f32([0, side * 0.22, 0])
        _fill_hull(frame, camera, np.concatenate([ring, inner]), display(lit * 0.012))
        for picture, depth in ((model.wheel.back, 0.10), (model.wheel.face, 0.0)):
            matrix = _disc_matrix(camera, (x, y - side * depth, radius), radius, side, turn)
            if matrix is not None:
                _lay(frame, picture, matrix, np.sqrt(np.clip(lit, 0, 1.4)))
        if model.wheel_is_part:
            matrix = _disc_matrix(camera, (x, y, radius), radius, side, turn)
            if matrix is not None:
                disc = np.zeros((SIZE, SIZE), np.uint8)
                cv2.circle(disc, (SIZE // 2, SIZE // 2), round(RIM * SIZE / 2), 255, -1)
                seen = cv2.warpPerspective(disc, matrix, (part.shape[1], part.shape[0]))
                np.maximum(part, seen, out=part)


def _disc_matrix(
    camera: Camera, center: tuple[float, float, float], radius: float, side: float, turn: float
) -> NDArray[np.float64] | None:
    x, y, z = center
    if (float(camera.position[1]) - y) * side <= 0.05:
        return None
    angles = np.pi / 4 - side * turn + np.pi / 2 * np.arange(4)
    corners = f32(
        [[x - side * radius * np.sqrt(2) * np.cos(a), y, z - radius * np.sqrt(2) * np.sin(a)] for a in angles]
    )
    pixels, _ = camera.project(corners)
    source = f32([[SIZE, SIZE], [0, SIZE], [0, 0], [SIZE, 0]]) - 0.5
    return np.asarray(cv2.getPerspectiveTransform(source, pixels), np.float64)


def _lay(frame: Image, picture: Image, matrix: NDArray[np.float64], lit: Floats) -> None:
    """Blend a premultiplied picture into the frame, within its own bounds only."""
    corners = cv2.perspectiveTransform(f32([[[0, 0]], [[SIZE, 0]], [[SIZE, SIZE]], [[0, SIZE]]]), matrix)
    x, y, w, h = cv2.boundingRect(np.asarray(corners, np.float32))
    x0, y0, x1, y1 = max(0, x - 1), max(0, y - 1), min(frame.shape[1], x + w + 1), min(frame.shape[0], y + h + 1)
    if x1 <= x0 or y1 <= y0:
        return
    shift = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1]], np.float64)
    warped = cv2.warpPerspective(picture, shift @ matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
    *planes, cover = cv2.split(warped)
    lit_planes = [cv2.convertScaleAbs(plane, alpha=float(gain)) for plane, gain in zip(planes, lit, strict=True)]
    color = cv2.merge([*lit_planes, cover])
    over(frame[y0:y1, x0:x1], np.asarray(color, np.uint8), np.asarray(cover, np.uint8))


def _layers(model: CarModel, camera: Camera) -> NDArray[np.int32]:
    """Return the painter's layer of every block: of two blocks separated by a plane, the nearer one is drawn later."""
    shape, side = model.shape, _near_side(camera)
    height = float(camera.position[2])
    belt = shape.shoulder_z(f32([0]))[0]
    order = np.zeros(len(model.block_names), np.int32)
    for index, name in enumerate(model.block_names):
        right = name.endswith("_r")
        near = (side < 0) == right
        base = name.removesuffix("_r")
        if base == "lower":
            order[index] = 2 if height >= belt else 4
        elif base == "cabin":
            order[index] = 3
        elif base.startswith("mirror"):
            order[index] = 6 if near else 1
        elif base.startswith("rail"):
            order[index] = 5 if near or height > shape.cabin.roof_z else 1
        else:
            order[index] = 5
    return order


def _draw_shell(
    frame: Image,
    part: Image,
    model: CarModel,
    camera: Camera,
    light: Light,
    paint: Paint,
) -> None:
    height, width = part.shape
    pixels, depth = camera.project(model.vertices)
    corners = pixels[model.triangles]
    edge_a, edge_b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = edge_a[:, 0] * edge_b[:, 1] - edge_a[:, 1] * edge_b[:, 0]
    # Counter-clockwise from outside is clockwise on screen, where y points down: facing triangles have negative areas.
    facing = np.flatnonzero(area < -0.01)
    layer_of_block = _layers(model, camera)
    layers = layer_of_block[model.block[facing]]
    mean_depth = depth[model.triangles[facing]].mean(axis=1)
    facing = facing[np.lexsort((-mean_depth, layers))]
    is_part = np.isin(model.block_names, [n + end for n in model.part_blocks for end in ("", "_r")])
    is_ghost = np.isin(model.block_names, [n + end for n in model.ghost_blocks for end in ("", "_r")])
    fixed = np.round(corners[facing] * 16).astype(np.int32)
    blocks = model.block[facing]
    index = np.zeros((height, width), np.int32)
    fill = cv2.fillConvexPoly
    drawn = np.flatnonzero(~is_ghost[blocks])
    for tag, triangle in zip((drawn + 1).tolist(), fixed[drawn], strict=True):
        fill(index, triangle, tag, 8, _SHIFT)
    covered = np.flatnonzero(index != 0)
    if covered.size == 0:
        return
    _mark_part_blocks(part, index, fixed, layer_of_block[blocks], is_part[blocks])
    planes = _plane_coefficients(corners[facing], model.uv[model.triangles[facing]])
    mirror = model.side[facing]
    flat_index, flat_part = index.reshape(-1), part.reshape(-1)
    flat_frame = frame.reshape(-1).view(np.uint32)
    # Shade in chunks that fit into the CPU cache and are long enough to amortize Python's overhead.
    for start in range(0, covered.size, _CHUNK):
        chunk = covered[start : start + _CHUNK]
        count = chunk.size
        own = np.append(chunk, np.full(-count % ROW, chunk[-1])) if count % ROW else chunk
        number = np.take(flat_index, own) - 1
        row_number = own // width
        rows, columns = row_number.astype(np.float32), (own - row_number * width).astype(np.float32)
        uv = np.take(planes, number, axis=0)
        u = (uv[:, 0] * columns + uv[:, 1] * rows + uv[:, 2]).reshape(-1, ROW)
        v = (uv[:, 3] * columns + uv[:, 4] * rows + uv[:, 5]).reshape(-1, ROW)
        color = cv2.split(cv2.remap(model.color, u, v, cv2.INTER_LINEAR))
        finish = cv2.split(cv2.remap(model.finish, u, v, cv2.INTER_LINEAR))
        normal = cv2.split(cv2.remap(model.normal, u, v, cv2.INTER_LINEAR))
        blue, green, red, paint_share, gloss, glow = (
            np.asarray(plane, np.float32).ravel() * np.float32(1 / 255) for plane in (*color, finish[0], finish[2])
        )
        nx, ny, nz, ambient = (f32(plane).ravel() for plane in normal)
        place = Surface(blue, green, red, paint_share, gloss, glow, nx, ny * mirror[number], nz, ambient)
        shaded = shade(place, view_rays(camera, columns, rows), light, paint)
        solid = np.asarray(finish[1], np.uint8).ravel()[:count]
        share = solid.astype(np.float32) * np.float32(1 / 255)
        if int(solid.min()) < 255:
            old = np.take(flat_frame, chunk).view(np.uint8).reshape(-1, 4)
            for k in range(3):
                shaded[k][:count] = old[:, k] + (shaded[k][:count] - old[:, k]) * share
            cover = np.maximum(old[:, 3], solid)
        else:
            cover = solid
        drawn_chunk = cv2.merge([*(np.asarray(plane[:count], np.uint8) for plane in shaded), cover])
        flat_frame[chunk] = np.ascontiguousarray(drawn_chunk).reshape(-1).view(np.uint32)
        # Only wheels are below the shell; protruding parts are marked by `_mark_part_blocks`.
        marked = flat_part[chunk] * (1 - share) if model.wheel_is_part else flat_part[chunk]
        flat_part[chunk] = np.maximum(marked, np.minimum(np.asarray(finish[3], np.uint8).ravel()[:count], solid))


def _mark_part_blocks(
    part: Image,
    index: NDArray[np.int32],
    fixed: NDArray[np.int32],
    layers: NDArray[np.int32],
    is_part: NDArray[np.bool_],
) -> None:
    """Mark where add-on parts are visible, or would be on the twin without them."""
    places = np.flatnonzero(is_part)
    if places.size == 0:
        return
    reach = np.zeros(part.shape, np.uint8)
    for place in places.tolist():
        cv2.fillConvexPoly(reach, fixed[place], int(layers[place]), 8, _SHIFT)
    hit = np.flatnonzero(reach)
    on_top = np.concatenate([[0], layers])[index.ravel()[hit]]
    part.reshape(-1)[hit] = np.where(on_top <= reach.ravel()[hit], 255, 0)


def _plane_coefficients(corners: Floats, values: Floats) -> Floats:
    """Return coefficients [T, 6] of u and v as planes over (column, row), for triangles [T, 3, 2] on screen."""
    p0, a, b = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    det = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    planes = []
    for axis in (0, 1):
        w0 = values[:, 0, axis]
        wa, wb = values[:, 1, axis] - w0, values[:, 2, axis] - w0
        gx = (wa * b[:, 1] - wb * a[:, 1]) / det
        gy = (wb * a[:, 0] - wa * b[:, 0]) / det
        planes += [gx, gy, w0 - gx * p0[:, 0] - gy * p0[:, 1]]
    return np.stack(planes, axis=1).astype(np.float32)
