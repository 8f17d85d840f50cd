"""A pinhole camera and its transforms."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from twincar_edge.synthetic.arrays import Floats, f32

_NEAR_M = 0.4


@dataclass(frozen=True)
class Camera:
    """A camera's position and orientation.

    `position` [3] meters; `axes` [3, 3], rows are the camera's right, down and forward; `focal_px`; `center_xy`
    is the pixel on the optical axis.
    """

    position: Floats
    axes: Floats
    focal_px: float
    center_xy: tuple[float, float]

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """Return pixels [N, 2] and depths [N] (meters along the optical axis) of points [N, 3]."""
        seen = (points - self.position) @ self.axes.T
        depth = seen[:, 2]
        pixels = seen[:, :2] * (self.focal_px / np.maximum(depth, 0.05))[:, None] + f32(self.center_xy)
        return pixels.astype(np.float32), depth.astype(np.float32)

    def clip(self, corners: Floats, size_wh: tuple[int, int]) -> Floats:
        """Clip a polygon [N, 3] to the space in front of the camera and not far outside a frame of `size_wh`.

        Projection diverges near the camera, and OpenCV's fixed-point fills overflow far outside the frame.
        """
        seen = f32((corners - self.position) @ self.axes.T)
        wide = (size_wh[0] * 1.5 + abs(self.center_xy[0])) / self.focal_px
        tall = (size_wh[1] * 1.5 + abs(self.center_xy[1])) / self.focal_px
        planes = f32([(0.0, 0.0, 1.0), (1.0, 0.0, wide), (-1.0, 0.0, wide), (0.0, 1.0, tall), (0.0, -1.0, tall)])
        nearest = f32([_NEAR_M, 0, 0, 0, 0])
        inside = seen @ planes.T >= nearest
        if inside.all():
            return corners
        if not inside.any(axis=0).all():
            return np.zeros((0, 3), np.float32)
        for plane, least in zip(planes, nearest, strict=True):
            reach = seen @ plane - least
            kept = []
            for k in range(len(seen)):
                if (reach[k - 1] < 0) != (reach[k] < 0):
                    kept.append(seen[k - 1] + (seen[k] - seen[k - 1]) * (reach[k - 1] / (reach[k - 1] - reach[k])))
                if reach[k] >= 0:
                    kept.append(seen[k])
            seen = f32(np.array(kept)).reshape(-1, 3)
        return f32(seen @ self.axes + self.position)

    def window(self, x: float, y: float, scale: float) -> Camera:
        """Return the camera for a window of the frame with its corner at (x, y), enlarged `scale` times."""
        center = ((self.center_xy[0] - x + 0.5) * scale - 0.5, (self.center_xy[1] - y + 0.5) * scale - 0.5)
        return replace(self, focal_px=self.focal_px * scale, center_xy=center)

    def from_car(self, x: float, y: float, yaw: float) -> Camera:
        """Return the camera in the axes of a car at (x, y) in the world that is turned by `yaw` radians."""
        turn = rotation_z(yaw)
        position = (self.position - f32([x, y, 0])) @ turn
        return replace(self, position=position.astype(np.float32), axes=(self.axes @ turn).astype(np.float32))

    def ground_homography(self) -> NDArray[np.float64]:
        """Return the matrix [3, 3] that maps ground points (x, y, 1) in meters to pixels."""
        intrinsics = np.array(
            [[self.focal_px, 0, self.center_xy[0]], [0, self.focal_px, self.center_xy[1]], [0, 0, 1]], np.float64
        )
        axes = self.axes.astype(np.float64)
        shift = -axes @ self.position.astype(np.float64)
        return np.asarray(intrinsics @ np.column_stack([axes[:, 0], axes[:, 1], shift]), np.float64)

    def horizon_y(self) -> float:
        """Return the row of the horizon at the image center (level unless the camera rolls)."""
        forward, down = self.axes[2], self.axes[1]
        level = f32([forward[0], forward[1], 0])
        level /= np.linalg.norm(level)
        return float(self.center_xy[1] + self.focal_px * float(down @ level) / float(forward @ level))


def rotation_z(angle: float) -> Floats:
    """Return the rotation by `angle` radians around the vertical, for column vectors."""
    c, s = np.cos(angle), np.sin(angle)
    return f32([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def look_at(
    position: Floats, target: Floats, focal_px: float, center_xy: tuple[float, float], roll: float = 0.0
) -> Camera:
    """Return a camera at `position` that looks at `target`; `roll` in radians."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, f32([0, 0, 1]))
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    axes = np.stack([c * right + s * down, c * down - s * right, forward])
    return Camera(np.asarray(position, np.float32), axes.astype(np.float32), focal_px, center_xy)
