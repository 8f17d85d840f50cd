"""Image degradations: fog, rain, snow, lens, sensor and JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.synthetic.arrays import Floats, Image
from twincar_edge.synthetic.light import Light, display


@dataclass(frozen=True)
class Weather:
    """Strengths, 0 if absent: share of fog at the car, rain streaks and snow flakes per megapixel."""

    fog: float = 0.0
    rain: float = 0.0
    snow: float = 0.0

    @property
    def wet(self) -> bool:
        """Whether the road is wet and reflects."""
        return self.rain > 0


def random_weather(rng: np.random.Generator) -> Weather:
    """Choose random weather: mostly dry, sometimes rain, fog or snow."""
    kind, strength = rng.random(), rng.uniform(0.3, 1.0)
    if kind < 0.66:
        return Weather()
    if kind < 0.82:
        return Weather(fog=0.06 * strength, rain=2000 * strength)
    if kind < 0.93:
        return Weather(fog=0.12 + 0.22 * strength)
    return Weather(fog=0.05, snow=2600 * strength)


def fog_color(light: Light) -> Floats:
    """Return the color of fog: display BGR [3], 0..255."""
    return display(light.horizon * np.float32(0.80))


def add_fog(frame: Image, light: Light, share: float) -> Image:
    """Blend the frame with the color of fog."""
    if share <= 0:
        return frame
    haze = np.broadcast_to(np.round(fog_color(light)).astype(np.uint8), frame.shape)
    return np.asarray(cv2.addWeighted(frame, 1 - share, np.ascontiguousarray(haze), share, 0), np.uint8)


def add_falling(frame: Image, weather: Weather, rng: np.random.Generator) -> Image:
    """Draw rain streaks or snow flakes."""
    height, width = frame.shape[:2]
    lean = rng.uniform(-0.3, 0.3)
    seed = int(rng.integers(1 << 31))
    if weather.rain <= 0 and weather.snow <= 0:
        return frame
    local = np.random.default_rng(seed)
    count = int((weather.rain + weather.snow) * width * height / 1e6)
    veil = np.zeros((height, width), np.uint8)
    xs, ys = local.uniform(-20, width + 20, count), local.uniform(-20, height, count)
    near = local.uniform(0.3, 1.0, count)
    for x, y, size in zip(xs.tolist(), ys.tolist(), near.tolist(), strict=True):
        if weather.rain > 0:
            long = size * height * 0.09
            cv2.line(veil, (int(x * 16), int(y * 16)), (int((x + lean * long) * 16), int((y + long) * 16)),
                     int(50 + 60 * size), 1, cv2.LINE_AA, 4)  # fmt: skip
        else:
            cv2.circle(veil, (int(x * 16), int(y * 16)), int(size * height * 0.11), 235, -1, cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(veil, (0, 0), 0.7 if weather.rain > 0 else height / 220)
    return np.asarray(cv2.add(frame, cv2.merge([cv2.convertScaleAbs(soft, alpha=0.62)] * 3)), np.uint8)


def blur(frame: Image, rng: np.random.Generator) -> Image:
    """Apply defocus or motion blur, too weak to hide a headlight."""
    kind, strength, angle = rng.random(), rng.uniform(0.35, 1.0), rng.uniform(-0.35, 0.35)
    scale = frame.shape[0] / 240
    if kind < 0.35:
        return frame
    if kind < 0.75:
        return np.asarray(cv2.GaussianBlur(frame, (0, 0), 0.95 * strength * scale), np.uint8)
    length = max(1.0, 4.5 * strength * scale)
    size = 2 * int(np.ceil(length / 2)) + 3
    kernel = np.zeros((size, size), np.uint8)
    middle = size / 2 - 0.5
    dx, dy = np.cos(angle) * length / 2, np.sin(angle) * length / 2
    ends = [(round((middle + s * dx) * 16), round((middle + s * dy) * 16)) for s in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 255, 1, cv2.LINE_AA, 4)
    return np.asarray(cv2.filter2D(frame, -1, kernel.astype(np.float32) / float(kernel.sum())), np.uint8)


@lru_cache(maxsize=1)
def _noise_bank() -> NDArray[np.int8]:
    """Return sensor noise to crop from: fresh noise for every pixel would cost more than drawing the car."""
    rng = np.random.default_rng(7)
    fine = rng.standard_normal((640, 1100, 3), np.float32)
    gray = rng.standard_normal((640, 1100, 1), np.float32)
    return np.asarray(np.clip((0.75 * fine + 0.9 * gray) * 24, -127, 127), np.int8)


def add_noise(frame: Image, sigma: float, rng: np.random.Generator) -> Image:
    """Add sensor noise of about `sigma` gray levels."""
    bank = _noise_bank()
    height, width = frame.shape[:2]
    y, x = int(rng.integers(1 << 30)), int(rng.integers(1 << 30))
    if height >= bank.shape[0] or width >= bank.shape[1]:
        times = (height // bank.shape[0] + 2, width // bank.shape[1] + 2, 1)
        bank = np.tile(bank, times)
    y, x = y % (bank.shape[0] - height), x % (bank.shape[1] - width)
    piece = bank[y : y + height, x : x + width]
    return np.asarray(cv2.addWeighted(frame, 1.0, piece, sigma / 28, 0, dtype=cv2.CV_8U), np.uint8)


def sensor(frame: Image, rng: np.random.Generator) -> Image:
    """Apply random mild changes of exposure, contrast and color balance, noise and JPEG compression."""
    gain, lift = rng.uniform(0.88, 1.10), rng.uniform(-8, 8)
    balance = rng.uniform(0.97, 1.03, 3)
    sigma, quality = rng.uniform(0.8, 4.5), int(rng.integers(66, 96))
    ramp = np.arange(256, dtype=np.float32)[:, None] * (gain * balance)[None, :] + lift
    table = np.clip(ramp, 0, 255).astype(np.uint8)[None]
    frame = np.asarray(cv2.LUT(frame, table), np.uint8)
    frame = add_noise(frame, float(sigma), rng)
    _, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
