"""Gate clips: a fixed camera by a road films twin cars that pass one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from twincar_edge.files import replacing
from twincar_edge.synthetic.arrays import Floats, Image, f32, over
from twincar_edge.synthetic.camera import Camera, look_at
from twincar_edge.synthetic.catalog import TWIN_PARTS, VIEWS, check_label
from twincar_edge.synthetic.ground import cast_shadow
from twincar_edge.synthetic.light import Light, make_light
from twincar_edge.synthetic.paint import random_paint
from twincar_edge.synthetic.render import draw_car, outline_points
from twincar_edge.synthetic.scene import Scene, draw_scene
from twincar_edge.synthetic.shading import Paint
from twincar_edge.synthetic.skin import car_model
from twincar_edge.synthetic.truth import Box, GatePass, GateTruth
from twincar_edge.synthetic.weather import add_noise
from twincar_edge.videos import open_writer

EMPTY_START_S = 1.0
"""Seconds of empty road at the start, for a background model to learn from."""

_FIELD_DEG = 58.0
_AIM_DEG = 41.0
"""Angle between the optical axis and the perpendicular to the road: cars pass in three-quarter view."""


@dataclass(frozen=True)
class _Drive:
    """One car's drive: world x from `start` to `stop`, in meters; `heading` is its direction along x (+1 or -1)."""

    label: int
    paint: Paint
    start: float
    stop: float
    heading: int
    first_frame: int
    frames: int

    def x_at(self, frame: int) -> float:
        share = (frame - self.first_frame) / max(1, self.frames - 1)
        return self.start + (self.stop - self.start) * share

    @property
    def yaw(self) -> float:
        return 0.0 if self.heading > 0 else float(np.pi)


@dataclass(frozen=True)
class _Gate:
    """What stays the same throughout a clip."""

    camera: Camera
    light: Light
    scene: Scene
    size_wh: tuple[int, int]
    far_side: int
    """The camera's direction along x, +1 or -1."""


def gate_clip(
    labels: Sequence[int],
    seed: int,
    size_wh: tuple[int, int] = (960, 540),
    fps: float = 25.0,
    seconds_per_pass: float = 2.4,
    gap_seconds: float = 0.8,
) -> tuple[GateTruth, Iterator[Image]]:
    """Plan a clip in which the cars of `labels` pass one after the other, and draw its frames on demand.

    The ground truth is complete before the first frame is drawn. Frames are uint8 BGR [H, W, 3]. Cars that differ from
    their twin at the front drive toward the camera, those that differ at the rear drive away from it.

    Raises:
        ValueError: the list of labels is empty, a label is unknown, the frame is smaller than 160 x 96 pixels, or a
            time is not positive.
    """
    if not labels:
        raise ValueError("labels is empty; a gate clip needs at least one car")
    for label in labels:
        check_label(label)
    if size_wh[0] < 160 or size_wh[1] < 96:
        raise ValueError(f"size_wh is {size_wh}; a gate clip needs at least 160 x 96 pixels")
    for name, value in (("fps", fps), ("seconds_per_pass", seconds_per_pass)):
        if not value > 0:
            raise ValueError(f"{name} is {value}; expected a positive number")
    if gap_seconds < 0:
        raise ValueError(f"gap_seconds is {gap_seconds}; expected 0 or more")
    rng = np.random.default_rng(seed)
    gate = _make_gate(rng, size_wh)
    drives, passes = [], []
    frame, per_pass = round(EMPTY_START_S * fps), max(2, round(seconds_per_pass * fps))
    for label in labels:
        drive = _plan_drive(label, gate, rng, frame, per_pass)
        drives.append(drive)
        passes.append(_true_pass(drive, gate))
        frame += per_pass + round(gap_seconds * fps)
    truth = GateTruth(float(fps), size_wh, frame, tuple(passes))
    return truth, _frames(gate, drives, frame, seed)


def write_gate_clip(
    path: Path,
    labels: Sequence[int],
    seed: int,
    size_wh: tuple[int, int] = (960, 540),
    fps: float = 25.0,
    seconds_per_pass: float = 2.4,
    gap_seconds: float = 0.8,
) -> GateTruth:
    """Write a gate clip as MP4 (MPEG-4 part 2), and its ground truth as a `.json` of the same name.

    Both files are written atomically.

    Raises:
        ValueError: as `gate_clip`, or the frame size is odd, or the name does not end in `.mp4`.
        InputError: the video cannot be written.
    """
    if path.suffix != ".mp4":
        raise ValueError(f"{path.name} must end in .mp4: clips are written as MP4")
    if size_wh[0] % 2 or size_wh[1] % 2:
        raise ValueError(f"size_wh is {size_wh}; MP4 needs an even width and height")
    truth, frames = gate_clip(labels, seed, size_wh, fps, seconds_per_pass, gap_seconds)
    # The ground truth is moved into place after the video, so its presence implies a complete video.
    with replacing(path.with_suffix(".json")) as truth_temporary, replacing(path) as temporary:
        _write_video(temporary, frames, truth)
        truth_temporary.write_text(truth.to_json(), encoding="utf-8")
    return truth


def _write_video(path: Path, frames: Iterator[Image], truth: GateTruth) -> None:
    writer = open_writer(path, truth.fps, truth.size_wh)
    try:
        for frame in frames:
            writer.write(frame)
    finally:
        writer.release()
    if not path.is_file() or path.stat().st_size == 0:
        raise OSError(f"OpenCV wrote no video into {path.parent}")


def _make_gate(rng: np.random.Generator, size_wh: tuple[int, int]) -> _Gate:
    far_side = 1 if rng.random() < 0.5 else -1
    focal = size_wh[0] / 2 / float(np.tan(np.radians(_FIELD_DEG / 2)))
    aim = np.radians(_AIM_DEG + rng.uniform(-2, 2))
    position = f32([0.0, -rng.uniform(7.6, 8.6), rng.uniform(2.6, 3.4)])
    forward = f32([far_side * np.sin(aim), np.cos(aim), -rng.uniform(0.15, 0.19)])
    camera = look_at(position, position + forward, focal, (size_wh[0] / 2 - 0.5, size_wh[1] / 2 - 0.5))
    light = make_light("sun" if rng.random() < 0.6 else "overcast", rng)
    wall = ("hedge", "houses", "trees", "wall")[int(rng.integers(4))]
    setting = ("road", "street")[int(rng.integers(2))]
    scene = Scene(setting, wall, float(rng.uniform(5.5, 9.0)), wet=False, snow=False, seed=int(rng.integers(1 << 31)))
    return _Gate(camera, light, scene, size_wh, far_side)


def _plan_drive(label: int, gate: _Gate, rng: np.random.Generator, first_frame: int, frames: int) -> _Drive:
    drives = VIEWS[TWIN_PARTS[label // 2]].drives
    coin = rng.random() < 0.5
    toward = coin if drives == "either" else drives == "toward"
    heading = -gate.far_side if toward else gate.far_side
    paint = random_paint(rng)
    trial = _Drive(label, paint, 0.0, 0.0, heading, 0, 1)
    # Find the stretch of road on which any part of the car is in the frame; start and end a little beyond it.
    places = np.arange(-12.0, 90.0, 0.5) * gate.far_side
    seen = [float(x) for x in places if _box_at(trial, gate, float(x)) is not None]
    if not seen:
        raise RuntimeError("the gate camera does not see the road")
    # The search started at the camera: the first place is the nearest, the last the farthest.
    near, far = seen[0] - 1.5 * gate.far_side, seen[-1] + 1.5 * gate.far_side
    start, stop = (far, near) if toward else (near, far)
    return _Drive(label, paint, start, stop, heading, first_frame, frames)


@cache
def _outline(label: int) -> Floats:
    return outline_points(car_model(label))


def _box_at(drive: _Drive, gate: _Gate, x: float) -> Box | None:
    """Return the box of the car at `x`, clipped to the frame, or None if the car is out of sight."""
    camera = gate.camera.from_car(x, 0.0, drive.yaw)
    pixels, depth = camera.project(_outline(drive.label))
    if float(depth.min()) < 0.5:
        return None
    width, height = gate.size_wh
    # Clip the hull before boxing it: points outside the frame must not stretch the box.
    hull = cv2.convexHull(pixels)
    edges = f32([[0, 0], [width, 0], [width, height], [0, height]])
    _, cut = cv2.intersectConvexConvex(hull, edges)
    if cut is None or len(cut) < 3:
        return None
    x0, y0 = np.maximum(np.round(cut.reshape(-1, 2).min(axis=0)).astype(int), 0)
    x1, y1 = np.minimum(np.round(cut.reshape(-1, 2).max(axis=0)).astype(int) + 1, (width, height))
    return (int(x0), int(y0), int(x1), int(y1)) if x1 - x0 >= 2 and y1 - y0 >= 2 else None


def _true_pass(drive: _Drive, gate: _Gate) -> GatePass:
    boxes = {}
    for frame in range(drive.first_frame, drive.first_frame + drive.frames):
        box = _box_at(drive, gate, drive.x_at(frame))
        if box is not None:
            boxes[frame] = box
    if not boxes:
        raise ValueError("a car passes between two frames: increase seconds_per_pass or fps")
    first, last = min(boxes), max(boxes)
    # The camera looks across the road from y < 0, so x grows to the right of the image.
    return GatePass(drive.label, first, last, drive.heading, tuple(boxes[k] for k in range(first, last + 1)))


def _frames(gate: _Gate, drives: Sequence[_Drive], count: int, seed: int) -> Iterator[Image]:
    empty = draw_scene(gate.scene, gate.camera, gate.light, gate.size_wh)
    for index in range(count):
        # Noise depends only on the frame number, so a shorter clip equals the start of a longer one.
        rng = np.random.default_rng([seed, 17, index])
        frame = empty.copy()
        for drive in drives:
            if drive.first_frame <= index < drive.first_frame + drive.frames:
                _draw_at(frame, drive, gate, drive.x_at(index))
        flicker = 1.0 + 0.006 * float(np.sin(index * 1.7)) + float(rng.normal(0, 0.003))
        frame = np.asarray(cv2.convertScaleAbs(frame, alpha=flicker), np.uint8)
        yield add_noise(frame, 2.0, rng)


def _draw_at(frame: Image, drive: _Drive, gate: _Gate, x: float) -> None:
    model = car_model(drive.label)
    camera, light = gate.camera.from_car(x, 0.0, drive.yaw), gate.light.for_car(drive.yaw)
    cast_shadow(frame, model, camera, light)
    turn = x * drive.heading / model.shape.wheel_radius
    layer = draw_car(model, camera, light, drive.paint, gate.size_wh, wheel_turn=turn)
    if layer is None:
        return
    h, w = layer.alpha.shape
    over(frame[layer.y : layer.y + h, layer.x : layer.x + w], layer.color, layer.alpha)
