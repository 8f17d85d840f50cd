"""Draws the blueprints of a whole car from its body shape and its trim."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

import twincar_edge.synthetic.blueprint as bp
from twincar_edge.synthetic.arrays import f32
from twincar_edge.synthetic.blueprint import Blueprint, Point, oval, rectangle
from twincar_edge.synthetic.body import Block, BodyShape, cabin_block
from twincar_edge.synthetic.catalog import Trim
from twincar_edge.synthetic.fronts import FOG_LAMPS, GRILLES, HEADLIGHTS, TAIL_LIGHTS, End

Boards = dict[tuple[str, str], Blueprint]
"""(block, face) -> its blueprint. Sides are drawn in (x, z), ends in (y, z), tops in (x, y)."""


def draw_boards(shape: BodyShape, trim: Trim) -> Boards:
    """Return all blueprints of one car."""
    half_length, half_width, cabin = shape.length / 2, shape.width / 2, shape.cabin
    peak = float(shape.shoulder_z(np.linspace(-half_length, half_length, 64, dtype=np.float32)).max()) + 0.1
    side = Blueprint(-half_length - 0.1, half_length + 0.1, 0.0, peak)
    front = Blueprint(-half_width - 0.1, half_width + 0.1, 0.0, peak)
    rear = Blueprint(-half_width - 0.1, half_width + 0.1, 0.0, peak)
    top = Blueprint(-half_length - 0.1, half_length + 0.1, -half_width - 0.1, half_width + 0.1)
    _draw_side(side, shape, trim)
    _draw_front(front, side, shape, trim)
    _draw_rear(rear, side, shape, trim)
    _draw_top(top, shape)
    _cut_arches(side, shape)
    boards = {("lower", "left"): side, ("lower", "front"): front, ("lower", "rear"): rear, ("lower", "top"): top}

    block = cabin_block(shape)
    low, high = cabin.roof_z - 0.95, cabin.roof_z + 0.1
    cabin_side = Blueprint(cabin.base_rear - 0.1, cabin.base_front + 0.1, low, high)
    cabin_front = Blueprint(-half_width, half_width, low, high)
    cabin_rear = Blueprint(-half_width, half_width, low, high)
    roof = Blueprint(cabin.base_rear - 0.1, cabin.base_front + 0.1, -half_width, half_width)
    _draw_side_glass(cabin_side, block, shape)
    _draw_end_glass(cabin_front, block, "front", 0.055)
    _draw_end_glass(cabin_rear, block, "rear", 0.10)
    _draw_roof(roof, shape, trim)
    boards |= {
        ("cabin", "left"): cabin_side,
        ("cabin", "front"): cabin_front,
        ("cabin", "rear"): cabin_rear,
        ("cabin", "top"): roof,
    }
    return boards


def _draw_side(board: Blueprint, shape: BodyShape, trim: Trim) -> None:
    sill, cabin, half_length = shape.clearance, shape.cabin, shape.length / 2
    front_gap, rear_gap = shape.front_axle - shape.arch_radius, shape.rear_axle + shape.arch_radius
    shoulder = float(shape.shoulder_z(f32([0.0]))[0])
    xs = np.linspace(-half_length + 0.15, half_length - 0.3, 24, dtype=np.float32)
    crease = [(float(x), float(z) - 0.13) for x, z in zip(xs, shape.shoulder_z(xs), strict=True)]
    board.crease(crease, 0.014, 0.10)
    height = shoulder - sill
    low_line = [(rear_gap - 0.05, sill + 0.34 * height), (front_gap + 0.05, sill + 0.25 * height)]
    board.crease(low_line, -0.016, 0.12)

    dark = bp.PLASTIC if trim.cladding else bp.BLACK
    rocker = 0.115 if trim.cladding else 0.055
    board.fill([(-half_length, 0), (half_length, 0), (half_length, sill + rocker), (-half_length, sill + rocker)], dark,
               0.02, -0.006)  # fmt: skip
    if trim.cladding:
        for axle in (shape.front_axle, shape.rear_axle):
            board.fill(oval((axle, shape.wheel_radius), shape.arch_radius + 0.06, shape.arch_radius + 0.06), dark)
    else:
        for axle in (shape.front_axle, shape.rear_axle):
            ring = oval((axle, shape.wheel_radius), shape.arch_radius + 0.02, shape.arch_radius + 0.02)
            board.stroke(ring, 0.045, None, bevel=0.03, lift=0.012)

    door_low = sill + rocker + 0.03
    edges = [min(front_gap - 0.04, cabin.base_front - 0.12), *(pillar for pillar in cabin.pillars if pillar > rear_gap)]
    if len(edges) == 1:
        edges.append(rear_gap + 0.22)
    elif cabin.pillars[-1] >= rear_gap:
        edges.append(max(rear_gap + 0.02, cabin.base_rear + 0.25))
    else:
        edges.append(rear_gap + 0.04)
    top = board.v1
    for ahead, behind in pairwise(edges):
        outline = [(ahead, top), (ahead, door_low + 0.05), (ahead - 0.05, door_low)]
        cut_low = door_low + (0.22 if behind <= rear_gap + 0.1 else 0.0)
        outline += [(behind + 0.14, door_low), (behind, cut_low + 0.05), (behind, top)]
        board.gap(outline)
        handle_z = float(shape.shoulder_z(f32([behind]))[0]) - 0.165
        board.fill(oval((behind + 0.16, handle_z - 0.005), 0.09, 0.034), bp.SHADED_PAINT, 0.02, -0.008)
        board.fill(rectangle(behind + 0.07, behind + 0.25, handle_z - 0.014, handle_z + 0.016, 0.014), bp.PAINT, 0.012,
                   0.012)  # fmt: skip
    fuel = (shape.rear_axle - 0.28, float(shape.shoulder_z(f32([shape.rear_axle]))[0]) - 0.22)
    board.gap(
        rectangle(fuel[0] - 0.085, fuel[0] + 0.085, fuel[1] - 0.075, fuel[1] + 0.075, 0.03), closed=True, width=0.007
    )
    if shape.cabin.base_rear < -half_length + 0.4 and len(cabin.pillars) == 1 and cabin.pillars[0] > 0.2:
        rail = cabin.pillars[0] - 1.35
        board.gap([(rail, top), (rail, door_low + 0.05), (rail + 0.05, door_low), (cabin.pillars[0], door_low)])
        board.stroke([(rail, shoulder - 0.10), (-half_length + 0.35, shoulder - 0.10)], 0.028, bp.BLACK)
    MOLDINGS[trim.side_molding](board, shape)


def _no_molding(board: Blueprint, shape: BodyShape) -> None:
    """Leave the doors bare."""


def _broad_molding(board: Blueprint, shape: BodyShape) -> None:
    """Draw a broad black rub strip with a bright insert along the side."""
    z = shape.clearance + 0.345
    rear = shape.rear_axle + shape.arch_radius + 0.08
    ahead = shape.front_axle - shape.arch_radius - 0.06
    board.fill(rectangle(rear, ahead, z - 0.085, z + 0.085, 0.04), bp.BLACK, 0.03, 0.02)
    # The bright insert makes the strip visible on black cars too.
    board.stroke([(rear + 0.04, z + 0.01), (ahead - 0.04, z + 0.01)], 0.038, bp.ALUMINUM)
    tail = shape.rear_axle - shape.arch_radius - 0.06
    board.fill(rectangle(-shape.length / 2 + 0.12, tail, z - 0.085, z + 0.085, 0.04), bp.BLACK, 0.03, 0.02)
    board.stroke([(-shape.length / 2 + 0.16, z + 0.01), (tail - 0.04, z + 0.01)], 0.038, bp.ALUMINUM)


MOLDINGS = {"none": _no_molding, "broad": _broad_molding}


def _cut_arches(board: Blueprint, shape: BodyShape) -> None:
    for axle in (shape.front_axle, shape.rear_axle):
        radius, z = shape.arch_radius, shape.wheel_radius
        board.stroke(oval((axle, z), radius, radius, -20, 200), 0.025, bp.BLACK)
        arch = oval((axle, z), radius, radius, 0, 180)
        board.cut([*arch, (axle - radius - 0.01, -0.1), (axle + radius + 0.01, -0.1)])


def _end(board: Blueprint, side: Blueprint, shape: BodyShape, front: bool) -> End:
    tip = shape.length / 2 if front else -shape.length / 2
    at = f32([tip])
    low, high = float(shape.sill_z(at)[0]), float(shape.shoulder_z(at)[0])
    return End(board, side, shape.width / 2 * 0.93, low, high, tip)


def _draw_front(board: Blueprint, side: Blueprint, shape: BodyShape, trim: Trim) -> None:
    end = _end(board, side, shape, True)
    board.fill(end.poly([(-1.2, -0.2), (1.2, -0.2), (1.2, 0.09), (0.7, 0.05), (-0.7, 0.05), (-1.2, 0.09)]),
               bp.PLASTIC if trim.cladding else bp.BLACK, 0.02, -0.008)  # fmt: skip
    board.gap(end.poly([(-0.56, 0.97), (-0.4, 0.945), (0.4, 0.945), (0.56, 0.97)]))
    FOG_LAMPS[trim.fog_lamps](end)
    GRILLES[trim.grille](end)
    HEADLIGHTS[trim.headlights](end)
    _number_plate(end, 0.40)
    board.mirror_u()


def _draw_rear(board: Blueprint, side: Blueprint, shape: BodyShape, trim: Trim) -> None:
    end = _end(board, side, shape, False)
    board.fill(end.poly([(-1.2, -0.2), (1.2, -0.2), (1.2, 0.14), (0.7, 0.10), (-0.7, 0.10), (-1.2, 0.14)]),
               bp.PLASTIC if trim.cladding else bp.BLACK, 0.02, -0.008)  # fmt: skip
    lid = [(0.80, 1.2), (0.80, 0.62), (0.72, 0.45)]
    board.gap(end.poly([*lid, *[(-y, z) for y, z in reversed(lid)]]))
    board.crease(end.poly([(-1.1, 0.40), (1.1, 0.40)]), 0.02, 0.08)
    TAIL_LIGHTS[trim.tail_lights](end)
    board.fill(end.poly([(0.60, 0.20), (0.60, 0.25), (0.80, 0.26), (0.80, 0.21)]), bp.RED)
    y, z = end.at(0.55, 0.06)
    board.disc((y, z), 0.045, bp.CHROME, 0.006)
    board.disc((y, z), 0.034, bp.VOID)
    board.stroke(end.poly([(-0.32, 0.80), (0.32, 0.80)]), 0.02, bp.CHROME, bevel=0.012, lift=0.006)
    _number_plate(end, 0.66)
    board.mirror_u()


def _number_plate(end: End, share_z: float) -> None:
    """Draw a blank plate: its text would be a cue."""
    y, z = end.at(0.0, share_z)
    end.board.fill(rectangle(y - 0.27, y + 0.27, z - 0.065, z + 0.065, 0.012), bp.BLACK)
    end.board.fill(rectangle(y - 0.255, y + 0.255, z - 0.052, z + 0.052, 0.01), bp.PLATE)


def _draw_top(board: Blueprint, shape: BodyShape) -> None:
    half_length, half_width, cabin = shape.length / 2, shape.width / 2, shape.cabin
    width = half_width * 0.80
    bow = oval((cabin.base_front - 0.36, 0.0), 0.42, cabin.base_half * 0.99, -90, 90)
    board.fill(bow, bp.BLACK)
    for sign in (-1.0, 1.0):
        board.gap([(cabin.base_front - 0.05, sign * width), (half_length - 0.25, sign * width * 0.86)])
        ridge = [(cabin.base_front + 0.1, sign * width * 0.62), (half_length - 0.1, sign * width * 0.46)]
        board.stroke(ridge, 0.05, None, bevel=0.10, lift=0.012)
    rear = cabin.base_rear
    if shape.bed:
        cover = rectangle(-half_length + 0.09, rear - 0.05, -half_width * 0.84, half_width * 0.84, 0.05)
        board.fill(cover, bp.BLACK, 0.03, -0.015)
        for k in range(1, 4):
            x = rear - 0.05 + (-half_length + 0.14 - rear) * k / 4
            board.stroke([(x, -half_width * 0.84), (x, half_width * 0.84)], 0.03, None, bevel=0.03, lift=0.008)
    elif rear > -half_length + 0.3:
        lid = rectangle(-half_length - 0.2, rear + 0.06, -width, width, 0.12)
        board.gap(lid, closed=True)


def _edge_points(
    block: Block, face: str, s: float, levels: np.ndarray[tuple[int], np.dtype[np.float32]]
) -> list[Point]:
    """Return the edge of a cabin face at column `s`, in its plane: (x, z) for sides, (y, z) for ends."""
    points = block.surface(face, np.full_like(levels, s), levels)
    across = 0 if face == "left" else 1
    return [(float(p[across]), float(p[2])) for p in points]


def _draw_side_glass(board: Blueprint, block: Block, shape: BodyShape) -> None:
    cabin = shape.cabin
    levels = np.linspace(-0.62, 0.72, 9, dtype=np.float32)
    front = [(x - cabin.glass_front - 0.02, z) for x, z in _edge_points(block, "left", 1.0, levels)]
    rear = [(x + cabin.glass_rear, z) for x, z in _edge_points(block, "left", -1.0, levels)]
    if cabin.glass_end is not None:
        slant = np.linspace(0.0, 0.05, len(rear))
        rear = [(max(x, cabin.glass_end + float(k)), z) for (x, z), k in zip(rear, slant, strict=True)]
    # Belt line: slightly above the shoulder along its whole length.
    xs = np.linspace(rear[0][0], front[0][0] + 0.05, 12, dtype=np.float32)
    belt = [(float(x), float(z) + 0.015) for x, z in zip(xs, shape.shoulder_z(xs), strict=True)]
    outline = [*belt, *front[1:], *reversed(rear[1:])]
    board.stroke(outline, 0.04, bp.BLACK, closed=True, bevel=0.02, lift=-0.006)
    board.fill(outline, bp.GLASS, 0.02, -0.006)
    top, low = front[-1][1], belt[4][1]
    # Daylight shines through the far windows; the seats are dark against it.
    inner = [*[(x, z + 0.07) for x, z in belt[1:-1]], *[(x - 0.05, z) for x, z in front[2:-1]], *reversed(rear[2:-1])]
    board.shade(inner, 0.85, 0.035, bp.SEE_THROUGH)
    for seat in (front[0][0] - 0.98, front[0][0] - 1.86):
        if seat > rear[0][0] + 0.25:
            board.shade(oval((seat, low + 0.13), 0.065, 0.075), 1.0, 0.006, bp.DARK_GLASS)
            board.shade(rectangle(seat - 0.12, seat + 0.09, low - 0.1, low + 0.06, 0.04), 1.0, 0.008, bp.DARK_GLASS)
    wheel = front[0][0] - 0.52
    board.stroke([(wheel, low - 0.02), (wheel - 0.07, low + 0.085)], 0.018, bp.DARK_GLASS)
    for index, pillar in enumerate(cabin.pillars):
        wide, lean = (0.10, 0.04) if index == 0 else (0.085, 0.10)
        foot = belt[0][1] - 0.12
        strip = [(pillar - wide / 2, foot), (pillar + wide / 2, foot)]
        strip += [(pillar + wide / 2 + lean, top + 0.02), (pillar - wide / 2 + lean, top + 0.02)]
        board.fill(strip, bp.GLOSS_BLACK)


def _draw_end_glass(board: Blueprint, block: Block, face: str, margin: float) -> None:
    levels = np.linspace(-0.78, 0.84, 9, dtype=np.float32)
    edge = _edge_points(block, face, 1.0, levels)
    half = [(y - margin, z) for y, z in edge]
    outline = [*half, *[(-y, z) for y, z in reversed(half)]]
    board.fill(outline, bp.GLOSS_BLACK, 0.02, -0.008)
    inner = [(y - 0.028, z) for y, z in half[1:-1]]
    board.fill([*inner, *[(-y, z) for y, z in reversed(inner)]], bp.GLASS)
    low, high, wide = half[0][1], half[-1][1], half[0][0]
    rise = high - low
    seen = [(-0.80 * wide, low + 0.34 * rise), (0.80 * wide, low + 0.34 * rise)]
    seen += [(0.72 * wide, high - 0.10 * rise), (-0.72 * wide, high - 0.10 * rise)]
    board.shade(seen, 0.62, 0.05, bp.SEE_THROUGH)
    for sign in (-1.0, 1.0):
        seat = sign * 0.46 * wide
        board.shade(oval((seat, low + 0.50 * rise), 0.10, 0.085), 0.95, 0.01, bp.DARK_GLASS)
        board.shade(rectangle(seat - 0.20, seat + 0.20, low, low + 0.40 * rise, 0.08), 0.95, 0.012, bp.DARK_GLASS)
    if face == "front":
        for start in (0.05, -0.52):
            board.stroke([(start, low + 0.01), (start + 0.50, low + 0.075)], 0.014, bp.RUBBER)
        board.fill(rectangle(-0.06, 0.06, half[-1][1] - 0.07, half[-1][1] + 0.01, 0.01), bp.BLACK)
    else:
        board.stroke([(0.0, low + 0.015), (0.32, low + 0.06)], 0.014, bp.RUBBER)


def _draw_roof(board: Blueprint, shape: BodyShape, trim: Trim) -> None:
    cabin = shape.cabin
    if trim.dark_roof:
        board.fill(rectangle(cabin.base_rear - 1, cabin.base_front + 1, -2, 2), bp.GLOSS_BLACK)
    for sign in (-1.0, 1.0):
        line = [(cabin.roof_rear, sign * cabin.roof_half * 0.86), (cabin.roof_front, sign * cabin.roof_half * 0.86)]
        board.stroke(line, 0.03, bp.SHADED_PAINT, bevel=0.02, lift=-0.006)
