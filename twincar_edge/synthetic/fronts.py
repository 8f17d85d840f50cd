"""Styles of the parts at a car's front and rear: headlights, grilles, bumper inlets and tail lights.

A style draws on the half of the front (or rear) blueprint with y > 0, and on the side blueprint where the part wraps
around the corner. Heights are shares: 0 is the bumper's lower edge, 1 the edge of the hood or trunk lid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import twincar_edge.synthetic.blueprint as bp
from twincar_edge.synthetic.blueprint import Blueprint, Point


@dataclass(frozen=True)
class End:
    """One end of a car to draw on: its head-on board, the board of the side, and their dimensions."""

    board: Blueprint
    side: Blueprint
    half_width: float
    low: float
    high: float
    tip: float
    """x of the outermost point; positive in front, negative behind."""

    def at(self, share_y: float, share_z: float) -> Point:
        """Convert shares of half width and height to meters on the head-on board."""
        return share_y * self.half_width, self.low + share_z * (self.high - self.low)

    def poly(self, shares: Sequence[Point]) -> list[Point]:
        """Convert several points by `at`."""
        return [self.at(*share) for share in shares]

    def around(self, back_and_height: Sequence[Point]) -> list[Point]:
        """Return points on the side board from meters behind the tip and height shares."""
        sign = 1.0 if self.tip > 0 else -1.0
        return [(self.tip - sign * back, self.at(0, share)[1]) for back, share in back_and_height]


Style = Callable[[End], None]


def _none(end: End) -> None:
    """Draw nothing."""


def _lamp(end: End, front: Sequence[Point], wrap: Sequence[Point], inner: bp.Material = bp.LAMP_DIM) -> None:
    for board, outline in ((end.board, end.poly(front)), (end.side, end.around(wrap))):
        board.fill(outline, inner, 0.02, 0.006)
        board.gap(outline, closed=True, width=0.009)


def _headlights_swept(end: End) -> None:
    """Large lamps that sweep back over the fenders, with a bright projector and an amber corner."""
    front = [(0.46, 0.66), (0.56, 0.90), (0.86, 1.02), (1.1, 1.02), (1.1, 0.64), (0.62, 0.58)]
    _lamp(end, front, [(-0.1, 0.63), (-0.1, 1.02), (0.34, 1.08), (0.62, 1.12), (0.40, 0.84), (0.24, 0.66)], bp.LAMP)
    y, z = end.at(0.66, 0.765)
    end.board.disc((y, z), 0.080, bp.LAMP_DIM, 0.006)
    end.board.disc((y, z), 0.055, bp.LED, 0.008)
    y, z = end.at(0.875, 0.80)
    end.board.disc((y, z), 0.066, bp.LAMP_DIM, 0.006)
    end.board.disc((y, z), 0.042, bp.LED, 0.006)
    end.side.fill(end.around([(0.10, 0.70), (0.10, 0.94), (0.34, 1.02), (0.27, 0.76)]), bp.AMBER)


def _headlights_blade(end: End) -> None:
    """Narrow dark lamps under a white running-light blade."""
    front = [(0.44, 0.80), (0.60, 0.93), (0.86, 1.00), (1.1, 1.01), (1.1, 0.79), (0.8, 0.76)]
    _lamp(end, front, [(-0.1, 0.78), (-0.1, 1.01), (0.2, 1.05), (0.40, 1.06), (0.25, 0.90)], bp.GLOSS_BLACK)
    end.board.stroke(end.poly([(0.47, 0.815), (0.80, 0.79), (1.1, 0.83)]), 0.028, bp.LED)
    for share in (0.66, 0.78, 0.90):
        y, z = end.at(share, 0.885)
        end.board.fill(bp.rectangle(y - 0.035, y + 0.035, z - 0.016, z + 0.018, 0.008), bp.LAMP)


def _headlights_almond(end: End) -> None:
    """Upright almond lamps."""
    front = [(0.56, 0.60), (0.60, 0.86), (0.78, 1.02), (1.1, 1.04), (1.1, 0.62), (0.80, 0.54)]
    _lamp(end, front, [(-0.1, 0.60), (-0.1, 1.03), (0.22, 1.12), (0.44, 1.12), (0.28, 0.78)], bp.LAMP)
    y, z = end.at(0.745, 0.78)
    end.board.disc((y, z), 0.085, bp.LAMP_DIM, 0.008)
    end.board.disc((y, z), 0.052, bp.LED, 0.008)
    y, z = end.at(0.94, 0.78)
    end.board.disc((y, z), 0.05, bp.AMBER, 0.004)


def _headlights_block(end: End) -> None:
    """Square-cut lamps with two stacked elements, as on trucks."""
    front = [(0.58, 0.62), (0.58, 0.96), (0.90, 0.98), (1.1, 0.98), (1.1, 0.62)]
    _lamp(end, front, [(-0.1, 0.63), (-0.1, 0.98), (0.22, 0.98), (0.26, 0.80), (0.18, 0.63)], bp.GLOSS_BLACK)
    for share in (0.71, 0.89):
        y, z = end.at(share, 0.84)
        end.board.fill(bp.rectangle(y - 0.062, y + 0.062, z - 0.05, z + 0.045, 0.015), bp.LAMP, 0.01, 0.004)
        end.board.disc((y, z), 0.036, bp.LED)
    end.board.fill(end.poly([(0.61, 0.65), (0.61, 0.695), (1.02, 0.695), (1.02, 0.65)]), bp.AMBER)
    end.side.fill(end.around([(0.02, 0.65), (0.02, 0.70), (0.17, 0.70), (0.15, 0.65)]), bp.AMBER)


def _frame(end: End, outline: Sequence[Point], rim: bp.Material = bp.CHROME, width: float = 0.026) -> None:
    mirrored = [(-y, z) for y, z in reversed(outline)]
    points = end.poly([*outline, *mirrored])
    end.board.fill(points, bp.VOID, 0.02, -0.02)
    end.board.stroke(points, width, rim, closed=True, bevel=0.02, lift=0.008)


def _across(end: End, share_z: float, share_y: float, width: float, material: bp.Material) -> None:
    end.board.stroke(end.poly([(-share_y, share_z), (share_y, share_z)]), width, material, bevel=0.012, lift=0.006)


def _badge(end: End, share_z: float) -> None:
    y, z = end.at(0, share_z)
    end.board.disc((y, z), 0.062, bp.CHROME, 0.012)
    end.board.disc((y, z), 0.046, bp.GLOSS_BLACK)
    # Two stars for Gemini, the emblem of both invented makes.
    for sign in (-1, 1):
        end.board.disc((y + sign * 0.018, z + sign * 0.008), 0.012, bp.CHROME)


def _grille_bars(end: End) -> None:
    """A wide opening with dark horizontal bars."""
    _frame(end, [(0.36, 0.56), (0.43, 0.90)], bp.GLOSS_BLACK)
    for k in range(4):
        _across(end, 0.62 + 0.075 * k, 0.39, 0.014, bp.PLASTIC)
    _badge(end, 0.75)


def _grille_chrome_bars(end: End) -> None:
    """Bright horizontal bars in a chrome frame."""
    _frame(end, [(0.38, 0.50), (0.50, 0.72), (0.44, 0.92)])
    for k in range(4):
        _across(end, 0.575 + 0.09 * k, 0.44, 0.017, bp.CHROME)
    _badge(end, 0.71)


def _grille_slots(end: End) -> None:
    """Seven upright slots in body color."""
    _frame(end, [(0.38, 0.50), (0.50, 0.72), (0.44, 0.92)], bp.PAINT)
    for k in range(-4, 4):
        share = (k + 0.5) * 0.105
        end.board.stroke(end.poly([(share, 0.50), (share, 0.92)]), 0.042, bp.PAINT, bevel=0.015, lift=0.01)


def _grille_slim(end: End) -> None:
    """A narrow slit between the lamps."""
    _frame(end, [(0.50, 0.74), (0.54, 0.86)], bp.CHROME, 0.014)
    _badge(end, 0.81)


def _grille_mouth(end: End) -> None:
    """A low, wide mouth with a mesh, and a closed nose above it."""
    _frame(end, [(0.40, 0.26), (0.56, 0.50), (0.46, 0.66)], bp.GLOSS_BLACK)
    for k in range(-9, 10):
        end.board.stroke(end.poly([(k * 0.055 - 0.04, 0.30), (k * 0.055 + 0.04, 0.62)]), 0.008, bp.PLASTIC)
    _badge(end, 0.84)


def _grille_truck(end: End) -> None:
    """A tall frame with two heavy bars and a mesh behind."""
    _frame(end, [(0.54, 0.52), (0.55, 0.95)], bp.CHROME, 0.034)
    for k in range(-10, 11):
        end.board.stroke(end.poly([(k * 0.052, 0.54), (k * 0.052, 0.93)]), 0.008, bp.PLASTIC)
    _across(end, 0.66, 0.53, 0.05, bp.CHROME)
    _across(end, 0.81, 0.53, 0.05, bp.CHROME)
    _badge(end, 0.735)


def _intake(end: End) -> None:
    points = [(0.42, 0.13), (0.50, 0.34)]
    _frame(end, points, bp.BLACK, 0.012)
    for k in range(2):
        _across(end, 0.20 + 0.07 * k, 0.45, 0.012, bp.PLASTIC)


def _fog_slim(end: End) -> None:
    """Slit-shaped lamps."""
    _intake(end)
    end.board.fill(end.poly([(0.60, 0.22), (0.60, 0.33), (0.88, 0.36), (0.88, 0.25)]), bp.BLACK, 0.02, -0.012)
    end.board.fill(end.poly([(0.66, 0.25), (0.66, 0.30), (0.82, 0.32), (0.82, 0.27)]), bp.LAMP)


def _fog_round(end: End) -> None:
    """Round lamps in a small dark pocket."""
    _intake(end)
    y, z = end.at(0.72, 0.28)
    end.board.fill(bp.rectangle(y - 0.125, y + 0.125, z - 0.085, z + 0.085, 0.06), bp.BLACK, 0.02, -0.012)
    end.board.disc((y, z), 0.066, bp.CHROME, 0.008)
    end.board.disc((y, z), 0.050, bp.LAMP, 0.006)


def _fog_vents(end: End) -> None:
    """Tall three-cornered air inlets with a bright fin."""
    _intake(end)
    end.board.fill(end.poly([(0.58, 0.10), (0.66, 0.30), (0.90, 0.52), (0.92, 0.14)]), bp.VOID, 0.02, -0.015)
    end.board.stroke(end.poly([(0.65, 0.16), (0.86, 0.42)]), 0.022, bp.CHROME, bevel=0.012, lift=0.006)


def _rear_lamp(end: End, rear: Sequence[Point], wrap: Sequence[Point], body: bp.Material = bp.RED_DARK) -> None:
    _lamp(end, rear, wrap, body)


def _tail_wide(end: End) -> None:
    """Lamps that reach from the corner into the trunk lid."""
    rear = [(0.48, 0.66), (0.50, 0.84), (0.82, 0.90), (1.1, 0.92), (1.1, 0.62), (0.84, 0.62)]
    _rear_lamp(end, rear, [(-0.1, 0.63), (-0.1, 0.92), (0.18, 0.93), (0.38, 0.90), (0.24, 0.68)], bp.RED)
    end.board.fill(end.poly([(0.52, 0.70), (0.52, 0.75), (0.80, 0.75), (0.80, 0.70)]), bp.LAMP)
    end.board.stroke(end.poly([(0.53, 0.81), (0.84, 0.855), (1.1, 0.87)]), 0.022, bp.RED_LED)
    end.board.gap(end.poly([(0.72, 0.60), (0.74, 0.92)]))


def _tail_stacked(end: End) -> None:
    """Upright lamps: red above, amber in the middle, white below."""
    rear = [(0.72, 0.42), (0.74, 0.96), (0.95, 0.98), (1.1, 0.98), (1.1, 0.42)]
    _rear_lamp(end, rear, [(-0.1, 0.42), (-0.1, 0.98), (0.16, 0.96), (0.22, 0.70), (0.14, 0.44)], bp.RED)
    end.board.fill(end.poly([(0.75, 0.60), (0.75, 0.70), (1.1, 0.70), (1.1, 0.60)]), bp.AMBER)
    end.board.fill(end.poly([(0.75, 0.47), (0.75, 0.57), (0.94, 0.57), (0.94, 0.47)]), bp.LAMP)
    end.board.fill(end.poly([(0.76, 0.76), (0.77, 0.91), (0.94, 0.92), (0.93, 0.76)]), bp.RED_LED)


def _tail_bracket(end: End) -> None:
    """A dark, wide lamp with a glowing bracket in it."""
    rear = [(0.46, 0.66), (0.50, 0.92), (0.84, 0.97), (1.1, 0.98), (1.1, 0.60), (0.86, 0.60)]
    _rear_lamp(end, rear, [(-0.1, 0.60), (-0.1, 0.98), (0.20, 0.98), (0.30, 0.94), (0.16, 0.64)], bp.RED_DARK)
    bracket = [(0.52, 0.85), (0.93, 0.90), (0.93, 0.68), (0.56, 0.72)]
    end.board.stroke(end.poly(bracket), 0.034, bp.RED_LED)


def _tail_pillar(end: End) -> None:
    """Tall narrow lamps at the outer edge, as on vans."""
    rear = [(0.86, 0.50), (0.86, 1.1), (1.1, 1.1), (1.1, 0.50)]
    _rear_lamp(end, rear, [(-0.1, 0.50), (-0.1, 1.1), (0.07, 1.1), (0.07, 0.50)], bp.RED)
    end.board.fill(end.poly([(0.87, 0.66), (0.87, 0.76), (1.1, 0.76), (1.1, 0.66)]), bp.AMBER)
    end.board.fill(end.poly([(0.87, 0.52), (0.87, 0.62), (1.1, 0.62), (1.1, 0.52)]), bp.LAMP)


HEADLIGHTS: dict[str, Style] = {
    "swept": _headlights_swept,
    "blade": _headlights_blade,
    "almond": _headlights_almond,
    "block": _headlights_block,
}
GRILLES: dict[str, Style] = {
    "bars": _grille_bars,
    "chrome_bars": _grille_chrome_bars,
    "slots": _grille_slots,
    "slim": _grille_slim,
    "mouth": _grille_mouth,
    "truck": _grille_truck,
}
FOG_LAMPS: dict[str, Style] = {"none": _none, "slim": _fog_slim, "round": _fog_round, "vents": _fog_vents}
TAIL_LIGHTS: dict[str, Style] = {
    "wide": _tail_wide,
    "stacked": _tail_stacked,
    "bracket": _tail_bracket,
    "pillar": _tail_pillar,
}
