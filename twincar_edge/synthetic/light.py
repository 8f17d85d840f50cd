"""Daylight: sun, sky and road, as light sources and as reflected by paint.

Colors are linear light, BGR; 1.0 is a white card's white.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from twincar_edge.synthetic.arrays import Floats, f32
from twincar_edge.synthetic.camera import rotation_z

MAP_SIZE = 72
"""Pixels along a side of a surroundings map."""

EXPOSURE = 1.15
"""The camera's gain: linear light is multiplied by this before it is shown."""


@dataclass(frozen=True)
class Light:
    """The daylight of one moment.

    `to_sun` unit [3]; `sun`, `sky`, `horizon`, `ground` BGR [3]; `surroundings` float32
    [MAP_SIZE, MAP_SIZE, 3] maps every direction to the color seen there (Lambert's equal-area projection, straight up
    in the center); `heading` rotates the surroundings, in radians; `shadow` 0..1 is the strength of cast shadows.
    """

    to_sun: Floats
    sun: Floats
    sky: Floats
    horizon: Floats
    ground: Floats
    surroundings: Floats
    shadow: float
    heading: float = 0.0

    def for_car(self, yaw: float) -> Light:
        """Return the light in the axes of a car turned by `yaw` radians."""
        return replace(self, to_sun=(self.to_sun @ rotation_z(yaw)).astype(np.float32), heading=self.heading + yaw)

    def on_plane(self, normal: tuple[float, float, float]) -> Floats:
        """Return the linear light BGR [3] that falls on a plane."""
        up = normal[2] * 0.5 + 0.5
        facing = max(0.0, float(np.dot(self.to_sun, f32(normal))))
        ambient = self.horizon * 0.5 + self.sky * 0.5
        return np.asarray(ambient * up + self.ground * (1 - up) + self.sun * facing, np.float32)


@dataclass(frozen=True)
class _Mood:
    sun: tuple[float, float, float]
    sky: tuple[float, float, float]
    horizon: tuple[float, float, float]
    ground: tuple[float, float, float]
    height_deg: tuple[float, float]
    shadow: float
    weight: float


MOODS: dict[str, _Mood] = {
    "sun": _Mood((0.78, 0.89, 0.96), (0.40, 0.27, 0.18), (0.56, 0.52, 0.47), (0.14, 0.14, 0.14), (28, 65), 0.66, 0.45),
    "overcast": _Mood((0.1, 0.1, 0.1), (0.74, 0.72, 0.69), (0.70, 0.68, 0.67), (0.13,) * 3, (40, 70), 0.15, 0.30),
    "dusk": _Mood((0.30, 0.52, 0.90), (0.42, 0.30, 0.25), (0.50, 0.62, 0.82), (0.12, 0.12, 0.13), (10, 24), 0.40, 0.25),
}  # fmt: skip
"""Kinds of daylight and their frequencies; colors are linear BGR."""


@lru_cache(maxsize=1)
def _directions() -> tuple[Floats, Floats]:
    """Return the unit vectors [S, S, 3] of the surroundings map, and their azimuths [S, S] in turns."""
    axis = ((np.arange(MAP_SIZE) + 0.5) / MAP_SIZE * 2 - 1).astype(np.float32)
    u, v = np.meshgrid(axis, axis)
    share = np.minimum(u * u + v * v, 1.0)
    z = 1 - 2 * share
    spread = np.sqrt(2 * (1 + z))
    directions = np.stack([u * spread, v * spread, z], axis=-1).astype(np.float32)
    return directions, (np.arctan2(v, u) / (2 * np.pi) + 0.5).astype(np.float32)


def make_light(mood_name: str, rng: np.random.Generator) -> Light:
    """Return daylight of one kind, with random sun position, clouds, strength and color cast."""
    mood = MOODS[mood_name]
    azimuth, height = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(*mood.height_deg))
    to_sun = f32([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)])
    strength = f32(rng.uniform(0.80, 1.12))
    warmth = rng.uniform(-0.05, 0.05)
    cast = f32([1 - warmth, 1, 1 + warmth]) * strength
    sun, sky, horizon = (f32(value) * cast for value in (mood.sun, mood.sky, mood.horizon))
    ground = f32(mood.ground) * strength
    directions, turn = _directions()
    z = directions[..., 2]
    knots = rng.uniform(0.02, 0.30, 24).astype(np.float32)
    places = np.floor(turn * 24).astype(np.int64) % 24
    skyline = knots[places] * 0.8
    clouds = cv2.resize(
        rng.uniform(0, 1, (9, 9)).astype(np.float32), (MAP_SIZE, MAP_SIZE), interpolation=cv2.INTER_CUBIC
    )
    up = np.clip(z, 0, 1)
    low = (1 - up) ** 2
    glow = np.maximum(directions @ to_sun, 0.0) ** 24 * np.float32(0.8)
    cloudy = 1 + np.float32(0.5) * np.clip(f32(clouds) - 0.45, 0, 1)
    open_sky, above_ground = z > skyline, z > 0
    planes = []
    for k in range(3):
        above = (sky[k] + (horizon[k] - sky[k]) * low) * cloudy + sun[k] * glow
        houses = horizon[k] * np.float32(0.18) + ground[k] * np.float32(0.35)
        below = ground[k] * (1 + np.float32(0.5) * (1 + z))
        planes.append(np.where(open_sky, above, np.where(above_ground, houses, below)).astype(np.float32))
    seen = cv2.GaussianBlur(cv2.merge(planes), (0, 0), 0.7)
    return Light(to_sun, sun, sky, horizon, ground, np.asarray(seen, np.float32), mood.shadow)


def display(linear: Floats) -> Floats:
    """Convert linear light to display values 0..255 by a soft shoulder and gamma 2."""
    soft = linear * np.float32(EXPOSURE)
    return f32(np.minimum(np.sqrt(soft * np.float32(1.30) / (1.0 + np.float32(0.30) * soft)) * np.float32(255), 255))
