"""The invented cars: one table of twin pairs.

Twins share body, trim and colors, and differ in one field of their `Trim`. To add a pair, add one `Pair` (and, for a
new style of a part, one entry in the table of that part's styles).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from twincar_edge.synthetic.body import BodyShape, Cabin


@dataclass(frozen=True)
class Trim:
    """The style of each visible part of a car; the names are keys of the style tables."""

    headlights: str = "swept"
    grille: str = "bars"
    fog_lamps: str = "slim"
    tail_lights: str = "wide"
    wheels: str = "five_spoke"
    roof_rails: str = "none"
    spoiler: str = "none"
    side_molding: str = "none"
    cladding: bool = False
    dark_roof: bool = False


@dataclass(frozen=True)
class View:
    """Camera positions that see a part: degrees from the car's nose, on either side."""

    nearest_deg: float
    farthest_deg: float
    drives: str
    """The car's direction as seen by a gate camera: 'toward', 'away' or 'either'."""


VIEWS: dict[str, View] = {
    "headlights": View(10, 52, "toward"),
    "grille": View(8, 46, "toward"),
    "fog lamps": View(8, 46, "toward"),
    "tail lights": View(130, 172, "away"),
    "spoiler": View(122, 168, "away"),
    "wheels": View(42, 138, "either"),
    "side molding": View(38, 142, "either"),
    "roof rails": View(28, 152, "either"),
}
"""Part -> the views in which it is visible."""


@dataclass(frozen=True)
class Pair:
    """Two classes that differ in `part` alone."""

    part: str
    names: tuple[str, str]
    styles: tuple[str, str]
    shape: BodyShape
    trim: Trim

    def trims(self) -> tuple[Trim, Trim]:
        """Return the trims of the two twins."""
        field = self.part.replace(" ", "_")
        first, second = (replace(self.trim, **{field: style}) for style in self.styles)  # type: ignore[arg-type]
        return first, second


_SEDAN = BodyShape(
    length=4.72, width=1.84, front_axle=1.45, rear_axle=-1.36, wheel_radius=0.335, clearance=0.20,
    top_line=((2.36, 0.70), (2.05, 0.80), (1.1, 0.93), (0.6, 0.95), (-1.2, 0.985), (-1.9, 1.02), (-2.36, 1.00)),
    cabin=Cabin(1.12, 0.20, -1.00, -1.90, 1.47, 0.82, 0.62, (-0.18,), 0.13, 0.26),
    tail=(0.14, 0.03, 0.0, 0.02, 0.03),
)  # fmt: skip
_HATCHBACK = BodyShape(
    length=4.06, width=1.77, front_axle=1.24, rear_axle=-1.30, wheel_radius=0.32, clearance=0.19,
    top_line=((2.03, 0.72), (1.75, 0.83), (1.0, 0.96), (0.5, 0.98), (-1.2, 1.03), (-2.03, 1.04)),
    cabin=Cabin(1.10, 0.28, -1.30, -1.93, 1.49, 0.79, 0.60, (-0.10,), 0.14, 0.24, -1.42,
                roof_drop_rear=0.10),
    tail=(0.10, 0.02, 0.0, 0.03, 0.07), tail_bow=0.16,
)  # fmt: skip
_WAGON = BodyShape(
    length=4.78, width=1.84, front_axle=1.46, rear_axle=-1.36, wheel_radius=0.335, clearance=0.20,
    top_line=((2.39, 0.71), (2.05, 0.81), (1.1, 0.94), (0.6, 0.965), (-1.4, 1.01), (-2.39, 1.01)),
    cabin=Cabin(1.12, 0.24, -1.85, -2.28, 1.47, 0.82, 0.62, (-0.14, -1.10), 0.14, 0.20, roof_drop_rear=0.08),
)  # fmt: skip
_SUV = BodyShape(
    length=4.55, width=1.87, front_axle=1.37, rear_axle=-1.32, wheel_radius=0.375, clearance=0.25,
    top_line=((2.27, 0.93), (2.0, 1.01), (1.1, 1.08), (0.6, 1.09), (-1.4, 1.13), (-2.27, 1.13)),
    cabin=Cabin(1.10, 0.42, -1.66, -2.16, 1.70, 0.84, 0.66, (-0.12, -1.12), 0.13, 0.20),
    nose=(0.12, 0.02, 0.0, 0.0, 0.05), nose_bow=0.18, corner=0.28,
)  # fmt: skip
_COUPE = BodyShape(
    length=4.42, width=1.86, front_axle=1.35, rear_axle=-1.28, wheel_radius=0.345, clearance=0.15,
    top_line=((2.21, 0.62), (1.9, 0.72), (1.0, 0.84), (0.4, 0.87), (-0.6, 0.90), (-1.4, 0.98), (-2.21, 0.96)),
    cabin=Cabin(0.94, -0.02, -0.78, -2.02, 1.30, 0.80, 0.54, (), 0.16, 0.44),
    tail=(0.14, 0.03, 0.0, 0.01, 0.04), nose_bow=0.28, corner=0.36,
)  # fmt: skip
_PICKUP = BodyShape(
    length=5.35, width=1.93, front_axle=1.68, rear_axle=-1.55, wheel_radius=0.40, clearance=0.34,
    top_line=((2.67, 1.02), (2.4, 1.08), (1.3, 1.14), (0.8, 1.15), (-2.67, 1.17)),
    cabin=Cabin(1.36, 0.68, -0.66, -0.94, 1.84, 0.86, 0.69, (0.22,), 0.13, 0.16),
    nose=(0.12, 0.0, 0.0, 0.0, 0.03), tail=(0.10, 0.02, 0.0, 0.0, 0.01), nose_bow=0.14, tail_bow=0.03,
    corner=0.22, bed=True,
)  # fmt: skip
_VAN = BodyShape(
    length=4.95, width=1.92, front_axle=1.58, rear_axle=-1.50, wheel_radius=0.345, clearance=0.22,
    top_line=((2.47, 0.88), (2.2, 1.00), (1.7, 1.13), (1.2, 1.17), (-2.47, 1.17)),
    cabin=Cabin(1.98, 1.12, -2.30, -2.44, 1.96, 0.915, 0.80, (0.36,), 0.14, 0.2, 0.30, roof_drop_rear=0.03),
    tail=(0.06, 0.01, 0.0, 0.0, 0.0), tail_bow=0.07, corner=0.24, edge=0.06,
)  # fmt: skip
_MINIVAN = BodyShape(
    length=4.90, width=1.90, front_axle=1.55, rear_axle=-1.45, wheel_radius=0.345, clearance=0.19,
    top_line=((2.45, 0.76), (2.1, 0.88), (1.5, 0.99), (0.9, 1.02), (-1.5, 1.05), (-2.45, 1.05)),
    cabin=Cabin(1.62, 0.58, -1.90, -2.36, 1.72, 0.86, 0.68, (0.02, -1.16), 0.16, 0.20),
    nose_bow=0.26, corner=0.34,
)  # fmt: skip

PAIRS: tuple[Pair, ...] = (
    Pair(
        "headlights", ("Castor Vela Sedan 2019", "Castor Vela Sedan 2022"), ("swept", "blade"),
        _SEDAN, Trim(grille="chrome_bars", wheels="ten_spoke"),
    ),
    Pair(
        "tail lights", ("Castor Norma Hatchback 2018", "Castor Norma Hatchback 2021"), ("stacked", "bracket"),
        _HATCHBACK, Trim(headlights="almond", grille="slim", fog_lamps="round", wheels="five_spoke"),
    ),
    Pair(
        "roof rails", ("Castor Lyra Wagon 2020", "Pollux Lyra Wagon 2020"), ("none", "raised"),
        _WAGON, Trim(headlights="blade", grille="bars", wheels="twin_spoke"),
    ),
    Pair(
        "grille", ("Castor Hydra SUV 2021", "Pollux Hydra SUV 2021"), ("slots", "chrome_bars"),
        _SUV, Trim(headlights="block", fog_lamps="round", tail_lights="stacked", wheels="five_spoke",
                   roof_rails="raised", cladding=True),
    ),
    Pair(
        "spoiler", ("Pollux Corvus Coupe 2017", "Pollux Corvus Coupe 2020"), ("none", "wing"),
        _COUPE, Trim(headlights="blade", grille="mouth", fog_lamps="vents", wheels="twin_spoke", dark_roof=False),
    ),
    Pair(
        "wheels", ("Pollux Taurus Crew Cab 2018", "Pollux Taurus Crew Cab 2023"), ("six_hole", "six_spoke"),
        _PICKUP, Trim(headlights="block", grille="truck", fog_lamps="round", tail_lights="stacked", cladding=True),
    ),
    Pair(
        "side molding", ("Castor Carina Cargo Van 2016", "Pollux Carina Cargo Van 2016"), ("none", "broad"),
        _VAN, Trim(headlights="almond", grille="slim", tail_lights="pillar", wheels="steel"),
    ),
    Pair(
        "fog lamps", ("Pollux Ara Minivan 2019", "Pollux Ara Minivan 2022"), ("round", "vents"),
        _MINIVAN, Trim(headlights="swept", grille="bars", tail_lights="wide", wheels="ten_spoke"),
    ),
)  # fmt: skip
"""All pairs, in label order: pair k holds labels 2k and 2k + 1."""

CLASS_NAMES: tuple[str, ...] = tuple(name for pair in PAIRS for name in pair.names)
"""Class names; the index is the label. Twins are neighbors."""

TWIN_PARTS: tuple[str, ...] = tuple(pair.part for pair in PAIRS)
"""`TWIN_PARTS[label // 2]` names the part that distinguishes a class from its twin."""


def twin_of(label: int) -> int:
    """Return the class that differs from `label` in one part."""
    check_label(label)
    return label ^ 1


def check_label(label: int) -> None:
    """Raise ValueError unless `label` is a class."""
    if not 0 <= label < len(CLASS_NAMES):
        raise ValueError(f"label {label} is not a twin-car class; expected 0 to {len(CLASS_NAMES) - 1}")
