"""Body shells: rounded boxes bent into car shapes.

A car consists of a few *blocks*. A block is a box with rounded edges whose surface is deformed: the lower body follows
a hood/shoulder/deck line, the cabin's pillars lean inwards, a door mirror remains nearly a box. Every face of a block
is a smooth function of two numbers in [-1, 1], so one function gives both the coarse mesh that is projected and the
dense grid from which normals are baked.

Axes, in meters: x forwards, y to the car's left, z up; the ground is z = 0, and x = 0 halfway along the car.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.synthetic.arrays import Floats, f32

Deform = Callable[[Floats, Floats, Floats], tuple[Floats, Floats, Floats]]

FACES = ("front", "rear", "left", "top")
"""The modeled faces: the right side mirrors the left one, and no camera sees a car from below."""


@dataclass(frozen=True)
class Cabin:
    """The greenhouse, seen from the side (x, z in meters) and from the front (half widths in meters)."""

    base_front: float
    roof_front: float
    roof_rear: float
    base_rear: float
    roof_z: float
    base_half: float
    roof_half: float
    pillars: tuple[float, ...]
    glass_front: float = 0.10
    glass_rear: float = 0.16
    glass_end: float | None = None
    roof_drop_front: float = 0.07
    roof_drop_rear: float = 0.06


@dataclass(frozen=True)
class BodyShape:
    """Dimensions of one body, in meters.

    `top_line` lists (x, z) of hood, shoulder and deck from nose to tail; `nose` and `tail` say how far the ends recede
    at five heights from the bottom edge to the top edge.
    """

    length: float
    width: float
    front_axle: float
    rear_axle: float
    wheel_radius: float
    clearance: float
    top_line: tuple[tuple[float, float], ...]
    cabin: Cabin
    nose: tuple[float, float, float, float, float] = (0.10, 0.02, 0.0, 0.04, 0.12)
    tail: tuple[float, float, float, float, float] = (0.10, 0.02, 0.0, 0.03, 0.08)
    nose_bow: float = 0.22
    tail_bow: float = 0.14
    corner: float = 0.30
    edge: float = 0.09
    bed: bool = False

    @property
    def arch_radius(self) -> float:
        """Radius of the wheel arches: slightly larger than the tire."""
        return self.wheel_radius + 0.055

    def shoulder_z(self, x: Floats) -> Floats:
        """Return the height of hood, shoulder or deck above the ground at `x`, in meters."""
        return _smooth_line(self.top_line, x)

    def sill_z(self, x: Floats) -> Floats:
        """Return the height of the body's lower edge at `x`; it rises under the two overhangs."""
        over = np.maximum(np.abs(x) / (self.length / 2) - 0.72, 0.0)
        return np.asarray(self.clearance + 0.6 * over**1.5, np.float32)


@dataclass(frozen=True)
class Block:
    """One rounded, deformed box.

    `half_xyz` and `radius_xyz` (meters) are half sizes and edge radii before the deformation; `grid_xyz` is the number
    of mesh strips in each direction; `mirrored` blocks have a counterpart on the car's right side.
    """

    name: str
    half_xyz: tuple[float, float, float]
    radius_xyz: tuple[float, float, float]
    grid_xyz: tuple[int, int, int]
    deform: Deform
    mirrored: bool = False

    def surface(self, face: str, s: Floats, t: Floats) -> Floats:
        """Return points of a face, float32 [..., 3] in meters.

        `s` and `t`, both [...] in [-1, 1], run along (y, z) on front and rear, along (x, z) on the sides and along
        (x, y) on the top.
        """
        one = np.ones_like(s)
        cube = {
            "front": (one, s, t),
            "rear": (-one, s, t),
            "left": (s, one, t),
            "right": (s, -one, t),
            "top": (s, t, one),
        }[face]
        inset, core = [], []
        for value, half, radius in zip(cube, self.half_xyz, self.radius_xyz, strict=True):
            inner = 1.0 - radius / half
            kept = np.clip(value, -inner, inner)
            core.append(kept)
            inset.append((value - kept) * (half / radius))
        norm = np.sqrt(sum(part * part for part in inset))
        rounded = [
            (kept + radius / half * part / norm).astype(np.float32)
            for kept, part, half, radius in zip(core, inset, self.half_xyz, self.radius_xyz, strict=True)
        ]
        return np.stack(self.deform(rounded[0], rounded[1], rounded[2]), axis=-1)

    def normals(self, face: str, s: Floats, t: Floats) -> Floats:
        """Return outward unit normals [..., 3] at the points of `surface`."""
        step = np.float32(2e-3)
        along_s = self.surface(face, s + step, t) - self.surface(face, s - step, t)
        along_t = self.surface(face, s, t + step) - self.surface(face, s, t - step)
        normal = np.cross(along_s, along_t) * _HANDEDNESS[face]
        length = np.linalg.norm(normal, axis=-1, keepdims=True)
        return np.asarray(normal / np.maximum(length, 1e-9), np.float32)

    def cuts(self, axis: int) -> Floats:
        """Return the mesh lines along one axis, in [-1, 1], denser within the rounded edges."""
        inner = 1.0 - self.radius_xyz[axis] / self.half_xyz[axis]
        middle = np.linspace(-inner, inner, self.grid_xyz[axis] + 1)
        edge = inner + (1.0 - inner) * (np.array([0.45, 1.0]) if self.grid_xyz[axis] > 1 else np.array([1.0]))
        return np.concatenate([-edge[::-1], middle, edge]).astype(np.float32)


_HANDEDNESS = {"front": 1.0, "rear": -1.0, "left": -1.0, "right": 1.0, "top": 1.0}


def _smooth_line(points: tuple[tuple[float, float], ...], x: Floats) -> Floats:
    """Evaluate a polyline with rounded corners at `x`."""
    xs, zs = np.array(sorted(points), np.float64).T
    dense = np.linspace(xs[0] - 0.4, xs[-1] + 0.4, 256)
    heights = np.interp(dense, xs, zs)
    kernel = np.hanning(27)
    padded = np.pad(heights, 13, mode="edge")
    return np.interp(x, dense, np.convolve(padded, kernel / kernel.sum(), mode="valid")).astype(np.float32)


def lower_block(shape: BodyShape) -> Block:
    """Return the body below the windows: bumpers, fenders, doors, hood and trunk lid."""
    half_length, half_width = shape.length / 2, shape.width / 2
    levels = np.linspace(0.0, 1.0, 5)

    def deform(a: Floats, b: Floats, c: Floats) -> tuple[Floats, Floats, Floats]:
        height = f32((c + 1) / 2)
        ahead, behind = np.maximum(a, 0.0), np.maximum(-a, 0.0)
        x = a * half_length
        x = x - ahead**3 * shape.nose_bow * b * b + behind**3 * shape.tail_bow * b * b
        x = (
            x
            - ahead**6 * _soft_interp(height, levels, shape.nose)
            + behind**6 * _soft_interp(height, levels, shape.tail)
        )
        low, high = shape.sill_z(f32(x)), shape.shoulder_z(f32(x))
        z = low + height * (high - low) + 0.035 * (1 - b * b) * height**4
        barrel = 1.0 - 0.055 * np.abs(2 * height - 1.05) ** 2.6
        plan = 1.0 - 0.07 * np.abs(a) ** 5
        return x.astype(np.float32), (b * half_width * barrel * plan).astype(np.float32), z.astype(np.float32)

    return Block(
        "lower",
        (half_length, half_width, 0.36),
        (shape.corner, min(shape.corner, 0.34), shape.edge),
        (16, 4, 3),
        deform,
    )


def cabin_block(shape: BodyShape) -> Block:
    """The greenhouse: windscreen, side windows, rear window and roof."""
    cabin = shape.cabin

    def deform(a: Floats, b: Floats, c: Floats) -> tuple[Floats, Floats, Floats]:
        along, up = (a + 1) / 2, (c + 1) / 2
        lean = up + 0.10 * up * (1 - up)
        front = cabin.base_front + (cabin.roof_front - cabin.base_front) * lean
        rear = cabin.base_rear + (cabin.roof_rear - cabin.base_rear) * lean
        bow = 0.16 * b * b
        x = rear + (front - rear) * along - bow * along**4 + 0.6 * bow * (1 - along) ** 4
        base_x = cabin.base_rear + (cabin.base_front - cabin.base_rear) * along
        base = shape.shoulder_z(f32(base_x)) - 0.05
        drop = cabin.roof_drop_front * np.maximum(a, 0) ** 2.5 + cabin.roof_drop_rear * np.maximum(-a, 0) ** 2.5
        roof = cabin.roof_z - drop - 0.035 * b * b
        z = base + (roof - base) * up
        taper = 1.0 - 0.10 * np.abs(a) ** 4
        half = cabin.base_half + (cabin.roof_half - cabin.base_half) * up**1.25
        return x.astype(np.float32), (b * half * taper).astype(np.float32), z.astype(np.float32)

    half_length = (cabin.base_front - cabin.base_rear) / 2
    return Block("cabin", (half_length, cabin.base_half, 0.28), (0.13, 0.10, 0.07), (9, 5, 3), deform)


def box_block(
    name: str,
    center_xyz: tuple[float, float, float],
    half_xyz: tuple[float, float, float],
    radius: float,
    bend: Callable[[Floats, Floats, Floats], tuple[Floats, Floats, Floats]] | None = None,
    mirrored: bool = True,
    grid_xyz: tuple[int, int, int] = (1, 1, 1),
) -> Block:
    """Return a small rounded box; `bend` may move its points (meters in, meters out)."""

    def deform(a: Floats, b: Floats, c: Floats) -> tuple[Floats, Floats, Floats]:
        points = [
            (center + value * half).astype(np.float32)
            for center, value, half in zip(center_xyz, (a, b, c), half_xyz, strict=True)
        ]
        return bend(*points) if bend else (points[0], points[1], points[2])

    radii = tuple(min(radius, 0.95 * half) for half in half_xyz)
    return Block(name, half_xyz, (radii[0], radii[1], radii[2]), grid_xyz, deform, mirrored)


def _soft_interp(value: Floats, at: NDArray[np.float64], heights: tuple[float, ...]) -> Floats:
    """Interpolate evenly spaced heights by a cubic (Catmull-Rom) spline, so that the profile has no creases."""
    h = np.array([2 * heights[0] - heights[1], *heights, 2 * heights[-1] - heights[-2]])
    place = np.clip(value, at[0], at[-1]) * (len(heights) - 1)
    k = np.minimum(place.astype(np.int64), len(heights) - 2)
    f = place - k
    p0, p1, p2, p3 = h[k], h[k + 1], h[k + 2], h[k + 3]
    curve = p1 + 0.5 * f * (p2 - p0 + f * (2 * p0 - 5 * p1 + 4 * p2 - p3 + f * (3 * (p1 - p2) + p3 - p0)))
    return np.asarray(curve, np.float32)
