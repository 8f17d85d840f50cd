"""Draws a car's shadow on the road and, on a wet road, its reflection."""

from __future__ import annotations

import cv2
import numpy as np

from twincar_edge.synthetic.arrays import Floats, Image, f32, over
from twincar_edge.synthetic.camera import Camera
from twincar_edge.synthetic.light import Light
from twincar_edge.synthetic.render import CarLayer
from twincar_edge.synthetic.skin import CarModel


def cast_shadow(frame_bgr: Image, model: CarModel, camera: Camera, light: Light) -> None:
    """Darken the road in place: a soft contact shadow under the car and the sun's shadow next to it.

    `camera` and `light` are in the car's axes. Only the shape that both twins share casts a shadow, so the
    distinguishing part leaves no second cue.
    """
    shape = model.shape
    half_length, half_width = shape.length / 2, shape.width / 2
    corners = f32([[0.99, 0.72], [0.90, 0.95], [-0.92, 0.95], [-0.99, 0.72]])
    outline = np.concatenate([corners, corners[::-1] * f32([1, -1])])
    foot = np.column_stack([outline * f32([half_length, half_width]), np.zeros(len(outline))])
    _darken(frame_bgr, camera, foot.astype(np.float32), 0.22, 0.60)
    _darken(frame_bgr, camera, (foot * f32([0.97, 0.93, 1])).astype(np.float32), 0.07, 0.55)
    if light.shadow > 0:
        body = model.vertices[model.triangles[model.block < 4][::5, 0]]
        reach = light.to_sun[:2] / max(float(light.to_sun[2]), 0.22)
        fallen = np.column_stack([body[:, :2] - body[:, 2:] * reach, np.zeros(len(body))]).astype(np.float32)
        hull = cv2.convexHull(fallen[:, :2].copy())[:, 0]
        ground = np.column_stack([hull, np.zeros(len(hull))]).astype(np.float32)
        _darken(frame_bgr, camera, ground, 0.04, light.shadow)


def _darken(frame: Image, camera: Camera, outline: Floats, soft_m: float, strength: float) -> None:
    pixels, depth = camera.project(outline)
    if float(depth.min()) < 0.4:
        return
    sigma = max(0.6, soft_m * camera.focal_px / float(depth.mean()))
    margin = int(3 * sigma) + 2
    height, width = frame.shape[:2]
    x0, y0 = np.maximum(np.floor(pixels.min(axis=0)).astype(int) - margin, 0)
    x1 = min(width, int(pixels[:, 0].max()) + margin)
    y1 = min(height, int(pixels[:, 1].max()) + margin)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return
    # Draw soft shadows at reduced size, and pad them, so that the blur treats them as continuing beyond the frame.
    shrink = max(1.0, sigma / 2.5)
    size = (int((x1 - x0 + 2 * margin) / shrink) + 1, int((y1 - y0 + 2 * margin) / shrink) + 1)
    mask = np.zeros((size[1], size[0]), np.uint8)
    local = np.round(((pixels - f32([x0 - margin, y0 - margin])) / shrink - 0.5 + 0.5 / shrink) * 16).astype(np.int32)
    cv2.fillPoly(mask, [local], 255, cv2.LINE_AA, 4)
    blurred = cv2.GaussianBlur(mask, (0, 0), sigma / shrink)
    back = np.array([[1 / shrink, 0, margin / shrink], [0, 1 / shrink, margin / shrink]])
    full = cv2.warpAffine(blurred, back, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    keep = 255 - np.asarray(cv2.convertScaleAbs(full, alpha=strength), np.uint8)
    place = frame[y0:y1, x0:x1]
    place[:] = cv2.multiply(place, cv2.merge([keep, keep, keep]), scale=1 / 255)


def mirror_in_wet_road(frame_bgr: Image, layer: CarLayer, model: CarModel, camera: Camera, strength: float) -> None:
    """Add the car's blurred mirror image to a wet road, in place.

    The image is flipped about the line through the contact points of the two near tires. The distinguishing part is
    left out: its reflection would be a second, unmarked cue.
    """
    shape = model.shape
    side = 1.0 if float(camera.position[1]) >= 0 else -1.0
    feet = f32([[x, side * shape.width / 2, 0] for x in (shape.front_axle, shape.rear_axle)])
    (ax, ay), (bx, by) = camera.project(feet)[0]
    slope = float(by - ay) / float(bx - ax) if abs(float(bx - ax)) > 4 else 0.0
    slope = float(np.clip(slope, -0.5, 0.5))
    height, width = frame_bgr.shape[:2]
    h, w = layer.alpha.shape
    place = (slice(layer.y, layer.y + h), slice(layer.x, layer.x + w))
    weight, color = np.zeros((height, width), np.uint8), np.zeros((height, width, 3), np.uint8)
    open_to = np.where(layer.part < 5, 255, 0).astype(np.uint8)
    weight[place] = cv2.bitwise_and(layer.alpha, open_to)
    color[place] = cv2.bitwise_and(layer.color, layer.color, mask=open_to)
    offset = float(max(ay - slope * ax, by - slope * bx))
    flip = np.array([[1, 0, 0], [2 * slope, -1, 2 * offset]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    images = []
    for picture in (color, weight):
        flipped = cv2.warpAffine(picture, flip, (width, height), flags=flags)
        blurred = cv2.GaussianBlur(flipped, (0, 0), 1.2, None, 3.5)
        images.append(np.asarray(cv2.convertScaleAbs(blurred, alpha=strength), np.uint8))
    over(frame_bgr, images[0], images[1])
