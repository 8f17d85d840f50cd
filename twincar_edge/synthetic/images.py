"""Single images of twin cars with their ground truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.datasets.table import write_rows
from twincar_edge.files import write_bytes, write_text
from twincar_edge.synthetic.arrays import Image, f32, over
from twincar_edge.synthetic.camera import Camera, look_at
from twincar_edge.synthetic.catalog import CLASS_NAMES, TWIN_PARTS, VIEWS, check_label
from twincar_edge.synthetic.ground import cast_shadow, mirror_in_wet_road
from twincar_edge.synthetic.light import MOODS, Light, make_light
from twincar_edge.synthetic.paint import random_paint
from twincar_edge.synthetic.render import CarLayer, draw_car
from twincar_edge.synthetic.scene import draw_scene, random_scene
from twincar_edge.synthetic.skin import CarModel, car_model
from twincar_edge.synthetic.weather import add_falling, add_fog, blur, fog_color, random_weather, sensor

_SMALLEST = 48


@dataclass(frozen=True)
class TwinCarImage:
    """One image and its ground truth.

    `image_bgr` uint8 [H, W, 3]; `label` indexes `CLASS_NAMES`; `box_xyxy` holds the car in pixels,
    end-exclusive and inside the image; `part_mask` bool [H, W] marks the visible pixels of the part that
    distinguishes the twins (on a twin without the part: the place where it would be); `part` names it.
    """

    image_bgr: Image
    label: int
    box_xyxy: tuple[int, int, int, int]
    part_mask: NDArray[np.bool_]
    part: str


def draw_twin_car(label: int, rng: np.random.Generator, size_wh: tuple[int, int] = (320, 240)) -> TwinCarImage:
    """Draw a photo-like picture of one car with a random margin around it.

    Everything except the class comes from `rng`, in the same way for both twins of a pair: the same state gives the
    same picture except for the distinguishing part.

    Raises:
        ValueError: the label is unknown, or a side is shorter than 48 pixels.
    """
    check_label(label)
    if min(size_wh) < _SMALLEST:
        raise ValueError(f"size_wh is {size_wh}; expected at least {_SMALLEST} x {_SMALLEST} pixels")
    model, part = car_model(label), TWIN_PARTS[label // 2]
    moods = list(MOODS)
    weights = np.array([MOODS[name].weight for name in moods])
    mood = moods[int(rng.choice(len(moods), p=weights / weights.sum()))]
    weather = random_weather(rng)
    light = make_light("overcast" if weather.rain or weather.snow or weather.fog > 0.1 else mood, rng)
    paint = random_paint(rng)
    camera = _random_camera(model, part, rng, size_wh)
    scene = random_scene(rng, weather.wet, weather.snow > 0)
    frame = draw_scene(scene, camera, light, size_wh)
    frame = add_fog(frame, light, min(0.85, 1.8 * weather.fog))
    cast_shadow(frame, model, camera, light)
    layer = draw_car(model, camera, light, paint, size_wh, wheel_turn=float(rng.uniform(0, 2 * np.pi)))
    if layer is None:
        raise RuntimeError("the camera does not see the car")
    mirror = rng.uniform(0.25, 0.5)
    if weather.wet:
        mirror_in_wet_road(frame, layer, model, camera, float(mirror))
    part_mask = np.zeros(frame.shape[:2], np.bool_)
    _compose(frame, part_mask, layer, light, weather.fog)
    frame = add_falling(frame, weather, rng)
    frame = blur(frame, rng)
    frame = sensor(frame, rng)
    box = layer.box_xyxy()
    if box is None:
        raise RuntimeError("the car covers no pixel")
    return TwinCarImage(frame, label, box, part_mask, part)


def twin_car_images(count: int, seed: int, size_wh: tuple[int, int] = (320, 240)) -> Iterator[TwinCarImage]:
    """Yield `count` pictures, cycling through the classes; picture i depends only on `seed` and i."""
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        yield draw_twin_car(index % len(CLASS_NAMES), rng, size_wh)


def _compose(frame: Image, part_mask: NDArray[np.bool_], layer: CarLayer, light: Light, fog: float) -> None:
    h, w = layer.alpha.shape
    place = (slice(layer.y, layer.y + h), slice(layer.x, layer.x + w))
    color = layer.color
    if fog > 0:
        # Premultiply the haze by the car's coverage, as its color already is.
        haze = [cv2.convertScaleAbs(layer.alpha, alpha=float(value) / 255) for value in fog_color(light)]
        color = np.asarray(cv2.addWeighted(color, 1 - fog, cv2.merge(haze), fog, 0), np.uint8)
    over(frame[place], color, layer.alpha)
    part_mask[place] = layer.part > 76


def _random_camera(model: CarModel, part: str, rng: np.random.Generator, size_wh: tuple[int, int]) -> Camera:
    """Return a roadside camera that sees the distinguishing part and the whole car, off-center and loosely framed."""
    view = VIEWS[part]
    azimuth = np.radians(rng.uniform(view.nearest_deg, view.farthest_deg)) * (1 if rng.random() < 0.5 else -1)
    distance = rng.uniform(6.5, 15.0)
    height = model.shape.cabin.roof_z * 0.55 + (rng.uniform(0, 1) ** 1.5) * min(3.6, 0.34 * distance)
    position = f32([distance * np.cos(azimuth), distance * np.sin(azimuth), height])
    position += f32([*rng.uniform(-0.5, 0.5, 2), 0])
    target = f32([0, 0, 0.62])
    aim = look_at(position, target, 1.0, (0.0, 0.0), float(np.radians(rng.uniform(-2.0, 2.0))))
    shape = model.shape
    feet = f32([[x, y * shape.width / 2, 0] for x in (shape.front_axle, shape.rear_axle) for y in (-1, 1)])
    pixels, _ = aim.project(np.concatenate([model.vertices, feet]))
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    share = rng.uniform(0.66, 0.90)
    place = rng.uniform(0.2, 0.8, 2)
    frame = f32(size_wh) - 8
    focal = float(share * np.min(frame / (high - low)))
    slack = frame - focal * (high - low)
    corner = 4 + slack * place
    center = corner - focal * low
    return look_at_center(aim, focal, (float(center[0]), float(center[1])))


def look_at_center(camera: Camera, focal_px: float, center_xy: tuple[float, float]) -> Camera:
    """Return the camera with another focal length and optical center, as for a crop of a larger frame."""
    return Camera(camera.position, camera.axes, focal_px, center_xy)


def write_image_folder(folder: Path, per_class: int, seed: int, size_wh: tuple[int, int] = (256, 192)) -> Path:
    """Write a labeled data set of car crops and return its folder.

    The folder gets `images/000001.jpg` and so on (JPEG, quality 92), `labels.csv` with the header `filename,label`
    (names inside `images`, labels from 0), and `class_mapping.json` with `{"0": name}`. The last two are written
    atomically at the end, so a folder that has them is complete.

    Raises:
        ValueError: `per_class` is below 1.
        InputError: a file cannot be written.
    """
    if per_class < 1:
        raise ValueError(f"per_class is {per_class}; expected at least 1")
    rows: list[tuple[str, int]] = []
    for index, picture in enumerate(twin_car_images(per_class * len(CLASS_NAMES), seed, size_wh), start=1):
        name = f"{index:06d}.jpg"
        margins = np.random.default_rng([seed, index, 1]).uniform(0.01, 0.09, 4)
        crop = crop_box(picture.image_bgr, picture.box_xyxy, margins)
        _, data = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 92])
        write_bytes(folder / "images" / name, data.tobytes())
        rows.append((name, picture.label))
    mapping = {str(label): name for label, name in enumerate(CLASS_NAMES)}
    write_text(folder / "class_mapping.json", json.dumps(mapping, indent=2) + "\n")
    write_text(folder / "labels.csv", write_rows(rows))
    return folder


def crop_box(image_bgr: Image, box_xyxy: tuple[int, int, int, int], margins: NDArray[np.float64]) -> Image:
    """Cut a box out of an image with margins (left, top, right, bottom) as shares of the box's size."""
    x0, y0, x1, y1 = box_xyxy
    height, width = image_bgr.shape[:2]
    left, right = max(0, round(x0 - margins[0] * (x1 - x0))), min(width, round(x1 + margins[2] * (x1 - x0)))
    top, bottom = max(0, round(y0 - margins[1] * (y1 - y0))), min(height, round(y1 + margins[3] * (y1 - y0)))
    return np.ascontiguousarray(image_bgr[top:bottom, left:right])
