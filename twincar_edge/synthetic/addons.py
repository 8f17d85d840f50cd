"""Parts that protrude from the body: door mirrors, roof rails, spoilers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twincar_edge.synthetic.arrays import Floats, f32
from twincar_edge.synthetic.blueprint import ALUMINUM, BLACK, GLOSS_BLACK, PAINT, Material
from twincar_edge.synthetic.body import Block, BodyShape, box_block
from twincar_edge.synthetic.catalog import Trim


@dataclass(frozen=True)
class Piece:
    """One block and its surface: a blueprint per face, or one material for the whole block."""

    block: Block
    material: Material | None = None


def door_mirror(shape: BodyShape) -> Piece:
    """Return the left door mirror; its block is mirrored to the right side."""
    cabin = shape.cabin
    x = cabin.base_front - 0.42 * (cabin.base_front - cabin.roof_front) - 0.05
    z = float(shape.shoulder_z(f32([x]))[0]) + 0.10
    y = cabin.base_half + 0.09

    def bend(px: Floats, py: Floats, pz: Floats) -> tuple[Floats, Floats, Floats]:
        out = (py - y) / 0.12
        return px - 0.05 * np.maximum(out, 0), py, pz + 0.012 * out

    return Piece(box_block("mirror", (x, y, z), (0.065, 0.125, 0.08), 0.06, bend), PAINT)


def extra_pieces(shape: BodyShape, trim: Trim) -> list[Piece]:
    """Return the parts that a trim adds to the body."""
    return [*RAILS[trim.roof_rails](shape), *SPOILERS[trim.spoiler](shape)]


def _nothing(shape: BodyShape) -> list[Piece]:
    """Add no part."""
    return []


def _raised_rails(shape: BodyShape) -> list[Piece]:
    """Return aluminum bars on three feet."""
    cabin = shape.cabin
    front, rear = cabin.roof_front - 0.10, cabin.roof_rear + 0.12
    y, z = cabin.roof_half * 0.88, cabin.roof_z - 0.035
    middle, half = (front + rear) / 2, (front - rear) / 2

    def bend(px: Floats, py: Floats, pz: Floats) -> tuple[Floats, Floats, Floats]:
        end = np.abs((px - middle) / half)
        return px, py - 0.03 * end**4, pz - 0.03 * end**2 - 0.045 * end**12

    rail = box_block("rail", (middle, y, z + 0.028), (half, 0.022, 0.020), 0.018, bend, grid_xyz=(12, 1, 1))
    feet = [
        box_block(f"rail_foot_{k}", (x, y, z - 0.005), (0.06, 0.018, 0.035), 0.012)
        for k, x in enumerate((front - 0.06, middle, rear + 0.06))
    ]
    return [*[Piece(foot, BLACK) for foot in feet], Piece(rail, ALUMINUM)]


def _wing(shape: BodyShape) -> list[Piece]:
    """Return a wing on two posts at the rear edge."""
    x = -shape.length / 2 + 0.20
    z = float(shape.shoulder_z(f32([x]))[0])
    half = shape.width / 2 * 0.80

    def bend(px: Floats, py: Floats, pz: Floats) -> tuple[Floats, Floats, Floats]:
        out = np.abs(py / half)
        return px + 0.05 * out**2, py, pz - 0.06 * out**6 - 0.12 * (px - x)

    blade = box_block("wing", (x, 0.0, z + 0.20), (0.15, half, 0.022), 0.02, bend, mirrored=False, grid_xyz=(2, 8, 1))
    post = box_block("wing_post", (x, half * 0.62, z + 0.09), (0.07, 0.022, 0.11), 0.02)
    return [Piece(post, GLOSS_BLACK), Piece(blade, GLOSS_BLACK)]


RAILS = {"none": _nothing, "raised": _raised_rails}
SPOILERS = {"none": _nothing, "wing": _wing}
