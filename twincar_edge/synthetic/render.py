"""Draws a car model: triangles into an index buffer, then shading of every covered pixel at once.

Triangles only say *which* place of the atlas a pixel shows (painter's order, OpenCV fills). Colour, normals and
finish are then looked up with ``cv2.remap`` and shaded in one vectorised pass, so curved sheet metal gets smooth
reflections however coarse the mesh is.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.synthetic.camera import Camera
from twincar_edge.synthetic.light import MAP_SIZE, Light
from twincar_edge.synthetic.skin import CarModel
from twincar_edge.synthetic.wheels import RIM, SIZE

Floats = NDArray[np.float32]

_SHIFT = 4
_ROW = 256


@dataclass(frozen=True)
class Paint:
    """Body colour: linear BGR, and how metallic it is (0..1)."""

    bgr: tuple[float, float, float]
    metallic: float


@dataclass(frozen=True)
class CarLayer:
    """A drawn car within its window of the frame.

    ``x``, ``y``: the window's corner; ``colour`` uint8 [h, w, 3], already weighted by ``alpha`` float32 [h, w] 0..1;
    ``part`` float32 [h, w] 0..1: where the telling part is seen.
    """

    x: int
    y: int
    colour: NDArray[np.uint8]
    alpha: Floats
    part: Floats

    def box_xyxy(self) -> tuple[int, int, int, int] | None:
        """The box round all pixels that the car covers at least half, or None."""
        x, y, w, h = cv2.boundingRect((self.alpha > 0.5).astype(np.uint8))
        return (self.x + x, self.y + y, self.x + x + w, self.y + y + h) if w else None


def draw_car(
    model: CarModel,
    camera: Camera,
    light: Light,
    paint: Paint,
    size_wh: tuple[int, int],
    supersample: int = 2,
    wheel_turn: float = 0.0,
) -> CarLayer | None:
    """Draw a car seen by ``camera`` (in the car's axes) into a frame of ``size_wh``; None where it is out of sight."""
    pixels, depth = camera.project(model.vertices)
    if float(depth.min()) < 0.5:
        return None
    low = np.floor(pixels.min(axis=0)).astype(int) - 2
    high = np.ceil(pixels.max(axis=0)).astype(int) + 3
    # Tyres hang a little below the body's lowest vertex.
    ground, _ = camera.project(_tyre_feet(model))
    high[1] = max(high[1], int(np.ceil(ground[:, 1].max())) + 3)
    x0, y0 = max(0, int(low[0])), max(0, int(low[1]))
    x1, y1 = min(size_wh[0], int(high[0])), min(size_wh[1], int(high[1]))
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    near = camera.window(x0, y0, supersample)
    shape = ((y1 - y0) * supersample, (x1 - x0) * supersample)
    frame = np.zeros((*shape, 3), np.uint8)
    alpha = np.zeros(shape, np.uint8)
    part = np.zeros(shape, np.uint8)
    _draw_underside(frame, alpha, model, near, light)
    _draw_wheels(frame, alpha, part, model, near, light, wheel_turn)
    _draw_shell(frame, alpha, part, model, near, light, paint)
    size = (x1 - x0, y1 - y0)
    return CarLayer(
        x0,
        y0,
        np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8),
        np.asarray(cv2.resize(alpha, size, interpolation=cv2.INTER_AREA), np.float32) / np.float32(255),
        np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.float32) / np.float32(255),
    )


def display(linear: Floats) -> Floats:
    """Linear light to display values 0..255: a soft shoulder, then gamma 2."""
    return np.asarray(np.sqrt(np.clip(linear * 1.30 / (1.0 + 0.30 * linear), 0, 1)) * 255, np.float32)


def _tyre_feet(model: CarModel) -> Floats:
    shape = model.shape
    y = shape.width / 2
    return np.float32([[x, side * y, 0] for x in (shape.front_axle, shape.rear_axle) for side in (-1, 1)])


def outline_points(model: CarModel) -> Floats:
    """Points [N, 3] that no part of the drawn car reaches beyond: its mesh and its tyres."""
    shape = model.shape
    ghost = np.isin(model.block_names, [n + end for n in model.ghost_blocks for end in ("", "_r")])
    own = np.unique(model.triangles[~ghost[model.block]])
    tyres = [
        _circle(x, side * shape.width / 2 * 0.955, shape.wheel_radius, shape.wheel_radius)
        for x in (shape.front_axle, shape.rear_axle)
        for side in (-1, 1)
    ]
    return np.concatenate([model.vertices[own], *tyres])


def _circle(x: float, y: float, z: float, radius: float) -> Floats:
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False, dtype=np.float32)
    return np.stack([x + radius * np.cos(turn), np.full_like(turn, y), z + radius * np.sin(turn)], 1).astype(np.float32)


def _fill_hull(frame: NDArray[np.uint8], alpha: NDArray[np.uint8], camera: Camera, points: Floats, bgr: Floats) -> None:
    pixels, _ = camera.project(points)
    hull = cv2.convexHull(np.round(pixels * 16).astype(np.int32))
    colour = [float(value) for value in bgr]
    cv2.fillConvexPoly(frame, hull, colour, cv2.LINE_8, _SHIFT)
    cv2.fillConvexPoly(alpha, hull, 255, cv2.LINE_8, _SHIFT)


def _near_side(camera: Camera) -> float:
    return 1.0 if float(camera.position[1]) >= 0 else -1.0


def _draw_underside(
    frame: NDArray[np.uint8], alpha: NDArray[np.uint8], model: CarModel, camera: Camera, light: Light
) -> None:
    """What is dark: the far tyres, the floor and the hollows behind the near wheel arches."""
    shape, side = model.shape, _near_side(camera)
    dark = display(light.on_plane((0, 0, -1)) * 0.02)
    tyre = display(light.on_plane((0, 0, 0)) * 0.012)
    y = shape.width / 2 * 0.955
    for x in (shape.front_axle, shape.rear_axle):
        ring = _circle(x, -side * y, shape.wheel_radius, shape.wheel_radius)
        _fill_hull(frame, alpha, camera, np.concatenate([ring, ring + np.float32([0, side * 0.22, 0])]), tyre)
    half_length, z = shape.length / 2, shape.clearance
    outline = np.float32([[0.86, 0.5], [0.72, 0.86], [-0.72, 0.86], [-0.86, 0.5]])
    floor = np.float32([[a * half_length, sign * b * y, c] for a, b in outline for sign in (-1, 1) for c in (z, z + 0.15)])
    _fill_hull(frame, alpha, camera, floor, dark)
    for x in (shape.front_axle, shape.rear_axle):
        arch = _circle(x, side * y, shape.wheel_radius, shape.arch_radius)
        arch[:, 2] = np.maximum(arch[:, 2], shape.clearance + 0.01)
        _fill_hull(frame, alpha, camera, np.concatenate([arch, arch - np.float32([0, side * 0.25, 0])]), dark)


def _draw_wheels(
    frame: NDArray[np.uint8],
    alpha: NDArray[np.uint8],
    part: NDArray[np.uint8],
    model: CarModel,
    camera: Camera,
    light: Light,
    turn: float,
) -> None:
    """The two near wheels: tread, then the brake deep inside the rim, then tyre wall and spokes."""
    shape, side = model.shape, _near_side(camera)
    radius = shape.wheel_radius
    y = side * shape.width / 2 * 0.955
    lit = light.on_plane((0, side, 0)) * np.float32(1.05)
    wheels = sorted((shape.front_axle, shape.rear_axle), key=lambda x: -abs(float(camera.position[0]) - x))
    for x in wheels:
        ring = _circle(x, y, radius, radius)
        inner = ring - np.float32([0, side * 0.22, 0])
        _fill_hull(frame, alpha, camera, np.concatenate([ring, inner]), display(lit * 0.012))
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
    camera: Camera, centre: tuple[float, float, float], radius: float, side: float, turn: float
) -> NDArray[np.float64] | None:
    x, y, z = centre
    if (float(camera.position[1]) - y) * side <= 0.05:
        return None
    angles = np.pi / 4 - side * turn + np.pi / 2 * np.arange(4)
    corners = np.float32(
        [[x - side * radius * np.sqrt(2) * np.cos(a), y, z - radius * np.sqrt(2) * np.sin(a)] for a in angles]
    )
    pixels, _ = camera.project(corners)
    source = np.float32([[SIZE, SIZE], [0, SIZE], [0, 0], [SIZE, 0]]) - 0.5
    return np.asarray(cv2.getPerspectiveTransform(source, pixels), np.float64)


def _lay(frame: NDArray[np.uint8], picture: NDArray[np.uint8], matrix: NDArray[np.float64], lit: Floats) -> None:
    """Blend a premultiplied picture into the frame, within its own bounds only."""
    corners = cv2.perspectiveTransform(np.float32([[[0, 0]], [[SIZE, 0]], [[SIZE, SIZE]], [[0, SIZE]]]), matrix)
    x, y, w, h = cv2.boundingRect(np.asarray(corners, np.float32))
    x0, y0, x1, y1 = max(0, x - 1), max(0, y - 1), min(frame.shape[1], x + w + 1), min(frame.shape[0], y + h + 1)
    if x1 <= x0 or y1 <= y0:
        return
    shift = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1]], np.float64)
    warped = cv2.warpPerspective(picture, shift @ matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR).astype(np.float32)
    place = frame[y0:y1, x0:x1]
    mixed = place * (1 - warped[..., 3:] / 255) + warped[..., :3] * lit
    frame[y0:y1, x0:x1] = np.clip(mixed, 0, 255)


def _layers(model: CarModel, camera: Camera) -> NDArray[np.int32]:
    """Painter's layer of every block: of two blocks parted by a plane, the camera's side is drawn later."""
    shape, side = model.shape, _near_side(camera)
    height = float(camera.position[2])
    belt = shape.shoulder_z(np.float32([0]))[0]
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
    frame: NDArray[np.uint8],
    alpha: NDArray[np.uint8],
    part: NDArray[np.uint8],
    model: CarModel,
    camera: Camera,
    light: Light,
    paint: Paint,
) -> None:
    height, width = alpha.shape
    pixels, depth = camera.project(model.vertices)
    corners = pixels[model.triangles]
    edge_a, edge_b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = edge_a[:, 0] * edge_b[:, 1] - edge_a[:, 1] * edge_b[:, 0]
    # Counter-clockwise from outside turns clockwise on screen, where y points down: facing triangles are negative.
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
    solid = ~is_ghost[blocks]
    for number, triangle in zip((np.flatnonzero(solid) + 1).tolist(), fixed[solid], strict=True):
        fill(index, triangle, number, 8, _SHIFT)
    covered = np.flatnonzero(index)
    if covered.size == 0:
        return
    _mark_part_blocks(part, index, fixed, layer_of_block[blocks], is_part[blocks])
    own = np.append(covered, np.full(-covered.size % _ROW, covered[-1]))
    number = index.ravel()[own] - 1
    rows = (own // width).astype(np.float32)
    columns = (own - own // width * width).astype(np.float32)
    uv = _plane_coefficients(corners[facing], model.uv[model.triangles[facing]])[number]
    u = (uv[:, 0] * columns + uv[:, 1] * rows + uv[:, 2]).reshape(-1, _ROW)
    v = (uv[:, 3] * columns + uv[:, 4] * rows + uv[:, 5]).reshape(-1, _ROW)
    colour = cv2.remap(model.colour, u, v, cv2.INTER_LINEAR).reshape(-1, 4)
    finish = cv2.remap(model.finish, u, v, cv2.INTER_LINEAR).reshape(-1, 4)
    normal = cv2.remap(model.normal, u, v, cv2.INTER_LINEAR).reshape(-1, 4)
    normal[:, 1] *= model.side[facing][number]
    rays = _rays(camera, columns, rows)
    shaded = _shade(np.asarray(colour), np.asarray(finish), np.asarray(normal, np.float32), rays, light, paint)
    count = covered.size
    solidity = finish[:count, 1].astype(np.float32)[:, None] / 255
    flat_frame, flat_alpha, flat_part = frame.reshape(-1, 3), alpha.reshape(-1), part.reshape(-1)
    flat_frame[covered] = flat_frame[covered] * (1 - solidity) + shaded[:count] * solidity
    flat_alpha[covered] = np.maximum(flat_alpha[covered], finish[:count, 1])
    hidden = flat_part[covered] * (1 - solidity[:, 0]) if model.wheel_is_part else flat_part[covered]
    flat_part[covered] = np.maximum(hidden, np.minimum(finish[:count, 3], finish[:count, 1]))


def _mark_part_blocks(
    part: NDArray[np.uint8],
    index: NDArray[np.int32],
    fixed: NDArray[np.int32],
    layers: NDArray[np.int32],
    is_part: NDArray[np.bool_],
) -> None:
    """Mark where add-on parts are seen, or would be seen on the twin that lacks them."""
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
    """For triangles [T, 3, 2] on screen: coefficients [T, 6] of u and v as planes over (column, row)."""
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


def _rays(camera: Camera, columns: Floats, rows: Floats) -> Floats:
    """Unit view rays [N, 3] in the car's axes."""
    x = (columns - np.float32(camera.centre_xy[0])) / np.float32(camera.focal_px)
    y = (rows - np.float32(camera.centre_xy[1])) / np.float32(camera.focal_px)
    scale = 1.0 / np.sqrt(x * x + y * y + 1.0)
    local = np.stack([x * scale, y * scale, scale], axis=1)
    return np.asarray(local @ camera.axes, np.float32)


def _shade(
    colour: NDArray[np.uint8],
    finish: NDArray[np.uint8],
    normal: Floats,
    rays: Floats,
    light: Light,
    paint: Paint,
) -> Floats:
    """Display colours [N, 3] of pixels with the given atlas values, seen along ``rays``."""
    n = normal[:, :3]
    ambient = normal[:, 3:]
    facing = np.einsum("ij,ij->i", n, rays)[:, None]
    sunny = n @ light.to_sun
    up = n[:, 2:] * np.float32(0.5) + np.float32(0.5)
    mirrored = rays - 2 * facing * n
    glint = np.maximum(mirrored @ light.to_sun, 0.0)
    share = colour[:, 3:].astype(np.float32) * np.float32(1 / 255)
    own = colour[:, :3].astype(np.float32) * np.float32(1 / 255)
    look = np.clip(-facing, 0.0, 1.0)
    flop = 1.0 + np.float32(paint.metallic) * (0.55 * look * look - 0.30)
    albedo = share * (np.float32(paint.bgr) * flop) + (1 - share) * (own * own)
    sky = light.sky * np.float32(0.5) + light.horizon * np.float32(0.5)
    lit = (up * (sky - light.ground) + light.ground) * ambient
    lit += np.maximum(sunny, 0.0)[:, None] * light.sun
    gloss = finish[:, :1].astype(np.float32) * np.float32(1 / 255)
    glow = finish[:, 2:3].astype(np.float32) * np.float32(1 / 255)
    out = 1.0 - look
    fresnel = (0.07 + 0.80 * (out * out) * (out * out) * out) * gloss
    glass = (1.0 - share) * gloss * gloss
    fresnel += glass * 0.10
    spread = np.float32(MAP_SIZE / 2) / np.sqrt(np.maximum(2 + 2 * mirrored[:, 2], 1e-4))
    c, s = np.float32(np.cos(light.heading)), np.float32(np.sin(light.heading))
    map_u = (c * mirrored[:, 0] - s * mirrored[:, 1]) * spread + np.float32(MAP_SIZE / 2 - 0.5)
    map_v = (s * mirrored[:, 0] + c * mirrored[:, 1]) * spread + np.float32(MAP_SIZE / 2 - 0.5)
    around = cv2.remap(
        light.surroundings, map_u.reshape(-1, _ROW), map_v.reshape(-1, _ROW), cv2.INTER_LINEAR
    ).reshape(-1, 3)
    lobe = glint * glint
    lobe = lobe * lobe
    lobe = lobe * lobe
    broad = lobe * np.float32(0.25 * paint.metallic)
    lobe = lobe * lobe
    lobe = lobe * lobe
    sharp = lobe * lobe
    result = albedo * (lit * (1 - 0.5 * fresnel) + glow * np.float32(1.6)) + around * (fresnel * (0.35 + 0.65 * ambient))
    result += (broad[:, None] * share * albedo + (sharp * 2.2)[:, None] * gloss) * light.sun
    return display(result)
