"""Seamless textures of asphalt, hedges, trees, walls and houses, each drawn once from noise."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from twincar_edge.synthetic.arrays import Floats, Image, f32


@lru_cache(maxsize=1)
def asphalt_grain() -> Image:
    """Return a seamless tile of stones, stains and patches, with mean 128."""
    rng = np.random.default_rng(20_240_131)
    size = 512
    total = np.zeros((size, size), np.float32)
    for sigma, weight in ((0.7, 15.0), (3.0, 7.0), (18.0, 9.0), (60.0, 10.0)):
        noise = rng.standard_normal((size, size)).astype(np.float32)
        tiled = cv2.GaussianBlur(np.tile(noise, (3, 3)), (0, 0), sigma)[size : 2 * size, size : 2 * size]
        total += weight * (tiled / tiled.std())
    return np.asarray(np.clip(128 + total * 0.8, 40, 215), np.uint8)


@lru_cache(maxsize=32)
def wall_tile(kind: str, pick: int) -> Image:
    """Return a seamless texture, uint8 [H, W, 4] (BGR and coverage), of 12.8 m of wall."""
    return _TILES[kind](np.random.default_rng(1000 + pick))


def _leaves(rng: np.random.Generator, rows: int, columns: int, sigma: float) -> Floats:
    noise = np.tile(rng.standard_normal((rows, columns)).astype(np.float32), (1, 3))
    soft = cv2.GaussianBlur(noise, (0, 0), sigma)[:, columns : 2 * columns]
    return np.asarray(soft / soft.std(), np.float32)


def _hedge_tile(rng: np.random.Generator) -> Image:
    tile = np.empty((96, 512, 4), np.uint8)
    shade = 1 + 0.22 * _leaves(rng, 96, 512, 1.2) + 0.15 * _leaves(rng, 96, 512, 6)
    shade *= np.linspace(1.15, 0.55, 96, dtype=np.float32)[:, None]
    base = f32([46, 96, 72]) * rng.uniform(0.75, 1.15)
    tile[..., :3] = np.clip(shade[..., None] * base, 0, 255)
    edge = 5 + 2.0 * _leaves(rng, 1, 512, 3)[0]
    tile[..., 3] = np.clip((np.arange(96)[:, None] - edge[None, :]) * 128 + 128, 0, 255)
    return tile


def _trees_tile(rng: np.random.Generator) -> Image:
    tile = np.zeros((256, 512, 4), np.uint8)
    for x in rng.uniform(0, 512, 3):
        cv2.rectangle(tile, (int(x) - 4, 120), (int(x) + 4, 256), (40, 52, 62, 255), -1)
    cover = np.zeros((256, 512), np.float32)
    for _ in range(26):
        x, y, r = rng.uniform(0, 512), rng.uniform(50, 165), rng.uniform(24, 52)
        for wrap in (-512, 0, 512):
            cv2.circle(cover, (int(x + wrap), int(y)), int(r), 1.0, -1)
    ragged = cv2.GaussianBlur(cover, (0, 0), 5) + 0.10 * _leaves(rng, 256, 512, 1.5) + 0.12 * _leaves(rng, 256, 512, 5)
    crown = np.clip((ragged - 0.5) * 6 + 0.5, 0, 1)[..., None]
    shade = 1 + 0.25 * _leaves(rng, 256, 512, 1.6) + 0.22 * _leaves(rng, 256, 512, 8)
    shade *= np.linspace(1.2, 0.7, 256, dtype=np.float32)[:, None]
    green = np.clip(shade[..., None] * (f32([40, 84, 66]) * rng.uniform(0.8, 1.15)), 0, 255)
    solid = np.concatenate([green, np.full((256, 512, 1), 255, np.float32)], axis=2)
    tile[:] = np.clip(tile * (1 - crown) + solid * crown, 0, 255)
    return tile


def _wall_plain_tile(rng: np.random.Generator) -> Image:
    tile = np.full((96, 512, 4), 255, np.uint8)
    base = f32([[150, 160, 172], [96, 110, 150], [170, 172, 174], [120, 138, 150]][int(rng.integers(4))])
    shade = 1 + 0.03 * _leaves(rng, 96, 512, 0.8) + 0.05 * _leaves(rng, 96, 512, 12)
    tile[..., :3] = np.clip(shade[..., None] * base, 0, 255)
    for row in range(0, 96, 8):
        tile[row, :, :3] = (tile[row, :, :3] * 0.86).astype(np.uint8)
        for x in range((row // 8 % 2) * 12, 512, 24):
            tile[row : row + 8, x, :3] = (tile[row : row + 8, x, :3] * 0.88).astype(np.uint8)
    tile[:5, :, :3] = np.clip(tile[:5, :, :3] * 1.15, 0, 255).astype(np.uint8)
    return tile


def _houses_tile(rng: np.random.Generator) -> Image:
    tile = np.full((256, 512, 4), 255, np.uint8)
    palette = [(176, 190, 200), (130, 152, 190), (168, 168, 166), (186, 204, 214), (110, 122, 150)]
    edges = np.sort(rng.choice(np.arange(1, 8), 2, replace=False)) * 64
    for x0, x1 in zip([0, *edges.tolist()], [*edges.tolist(), 512], strict=True):
        base = f32(palette[int(rng.integers(len(palette)))]) * rng.uniform(0.8, 1.05)
        roof = int(rng.integers(0, 46))
        tile[:roof, x0:x1, 3] = 0
        tile[roof:, x0:x1, :3] = base
        tile[roof : roof + 6, x0:x1, :3] = base * 0.7
        for y in range(roof + 22, 196, 52):
            for x in range(x0 + 10, x1 - 24, 32):
                glass = rng.uniform(0.35, 0.8)
                cv2.rectangle(tile, (x - 2, y - 2), (x + 19, y + 30), [*(base * 1.12).clip(0, 255).tolist(), 255], -1)
                cv2.rectangle(tile, (x, y), (x + 17, y + 28), (120 * glass, 108 * glass, 92 * glass, 255), -1)
                cv2.line(tile, (x + 8, y), (x + 8, y + 28), [*(base * 1.05).clip(0, 255).tolist(), 255], 1)
        tile[226:, x0:x1, :3] = base * 0.62
    shade = 1 + 0.03 * _leaves(rng, 256, 512, 1.0) + 0.04 * _leaves(rng, 256, 512, 20)
    tile[..., :3] = np.clip(tile[..., :3] * shade[..., None], 0, 255)
    return tile


_TILES = {"hedge": _hedge_tile, "trees": _trees_tile, "wall": _wall_plain_tile, "houses": _houses_tile}
