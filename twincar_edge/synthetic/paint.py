"""Body colors, about as frequent as on roads."""

from __future__ import annotations

import numpy as np

from twincar_edge.synthetic.shading import Paint

_PALETTE: tuple[tuple[float, tuple[float, float, float], float], ...] = (
    (0.22, (0.70, 0.71, 0.71), 0.05),
    (0.08, (0.60, 0.63, 0.65), 0.55),
    (0.17, (0.013, 0.012, 0.012), 0.35),
    (0.16, (0.095, 0.090, 0.085), 0.80),
    (0.13, (0.36, 0.35, 0.345), 0.95),
    (0.07, (0.20, 0.060, 0.018), 0.75),
    (0.04, (0.42, 0.20, 0.06), 0.60),
    (0.07, (0.022, 0.016, 0.30), 0.45),
    (0.02, (0.03, 0.03, 0.10), 0.70),
    (0.02, (0.045, 0.075, 0.032), 0.70),
    (0.01, (0.03, 0.21, 0.52), 0.40),
    (0.01, (0.04, 0.46, 0.62), 0.15),
)
"""(share, linear BGR, metallic): whites, black, grays, silver, blues, reds, brown, green, orange, yellow."""


def random_paint(rng: np.random.Generator) -> Paint:
    """Pick a color and vary it slightly, as paint batches and dirt do."""
    shares = np.array([share for share, _, _ in _PALETTE])
    _, bgr, metallic = _PALETTE[int(rng.choice(len(_PALETTE), p=shares / shares.sum()))]
    varied = np.clip(np.array(bgr) * rng.uniform(0.85, 1.15) * rng.uniform(0.93, 1.07, 3), 0.008, 0.80)
    return Paint((float(varied[0]), float(varied[1]), float(varied[2])), metallic * float(rng.uniform(0.7, 1.0)))
