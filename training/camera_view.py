"""Degrades training crops as a roadside camera does: motion blur, low resolution, low light, noise, JPEG artifacts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

SMALLEST = 0.2  # of the crop's side: a vehicle of 45 pixels, where the model's input has 224
LONGEST_BLUR = 0.05  # of the crop's side: 11 of 224 pixels
LEAST_LIGHT = 0.2
NOISE = 6.0  # standard deviation at the least light, in gray levels of linear light
WORST_JPEG, BEST_JPEG = 25, 95
_GAMMA = 2.2


@dataclass(frozen=True)
class CameraViews:
    """Random camera conditions of N images, on the CPU. Images with `quality` 0 are not degraded.

    Attributes:
        scale: float32 [N], resolution of the camera as a share of the crop's side.
        blur: float32 [N], length of the motion blur as a share of the crop's side.
        direction: float32 [N], of the motion, in radians from the horizontal.
        light: float32 [N], factor of the linear light intensity.
        quality: int64 [N], of the JPEG compression.
        seed: int64 [N], of the sensor noise.
    """

    scale: Tensor
    blur: Tensor
    direction: Tensor
    light: Tensor
    quality: Tensor
    seed: Tensor

    def part(self, rows: slice) -> CameraViews:
        """Return the conditions of some of the images."""
        return CameraViews(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def draw_views(share: float, count: int, generator: torch.Generator | None = None) -> CameraViews:
    """Draw the conditions of `count` images; each is degraded with probability `share`."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count).uniform_(low, high, generator=generator)

    seen = uniform(0, 1) < share
    scale = torch.exp(uniform(math.log(SMALLEST), 0))
    # Half of the degraded images are sharp, as from a well-adjusted camera. Traffic mostly moves horizontally.
    blur = torch.where(uniform(0, 1) < 0.5, uniform(0, LONGEST_BLUR), 0.0)
    direction = torch.deg2rad(uniform(-30, 30))
    light = torch.where(uniform(0, 1) < 0.5, uniform(LEAST_LIGHT, 1), 1.0)
    quality = torch.randint(WORST_JPEG, BEST_JPEG + 1, (count,), generator=generator)
    seed = torch.randint(2**31, (count,), generator=generator)
    return CameraViews(
        torch.where(seen, scale, 1.0),
        torch.where(seen, blur, 0.0),
        direction,
        torch.where(seen, light, 1.0),
        torch.where(seen, quality, 0),
        seed,
    )


def as_camera(images_nhwc: Tensor, views: CameraViews) -> Tensor:
    """Return the degraded crops at their original size; crops with `quality` 0 are unchanged.

    JPEG runs on the CPU, so on a GPU each degraded image is copied to the CPU and back.

    Args:
        images_nhwc: float32 [N, H, W, 3] in red, green, blue, from 0 to 255.
        views: the conditions of each image.
    """
    result = images_nhwc.clone()
    for row in views.quality.nonzero()[:, 0].tolist():
        image = images_nhwc[row].permute(2, 0, 1)
        size = image.shape[1:]
        image = _blurred(image, float(views.blur[row]) * min(size), float(views.direction[row]))
        small = [max(1, round(side * float(views.scale[row]))) for side in size]
        image = interpolate(image[None], small, mode="bilinear", antialias=True)[0]
        image = _exposed(image, float(views.light[row]), int(views.seed[row]))
        image = _compressed(image, int(views.quality[row]))
        image = interpolate(image[None], list(size), mode="bilinear")[0]
        result[row] = image.permute(1, 2, 0)
    return result


def _blurred(image: Tensor, length: float, direction: float) -> Tensor:
    """Average along a line of `length` pixels."""
    steps = math.ceil(length)
    if steps < 2:
        return image
    radius = steps // 2 + 1
    kernel = torch.zeros(2 * radius + 1, 2 * radius + 1)
    samples = 4 * steps
    along = (torch.arange(samples) + 0.5) / samples * length - length / 2
    rows, columns = along * math.sin(direction) + radius, along * math.cos(direction) + radius
    for down in (0, 1):  # bilinear: each sample is shared by four pixels
        for right in (0, 1):
            weight = (1 - (rows - (rows.floor() + down)).abs()) * (1 - (columns - (columns.floor() + right)).abs())
            places = (rows.floor() + down).long(), (columns.floor() + right).long()
            kernel.index_put_(places, weight, accumulate=True)
    kernel = (kernel / kernel.sum()).to(image.device)
    padded = pad(image[:, None], (radius,) * 4, mode="replicate")
    return conv2d(padded, kernel[None, None])[:, 0]


def _exposed(image: Tensor, light: float, seed: int) -> Tensor:
    """Scale the linear light and add sensor noise, more for less light."""
    if light == 1:
        return image
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)).to(image.device)
    linear = (image / 255) ** _GAMMA * light + noise * (NOISE / 255 * LEAST_LIGHT * (1 - light))
    return 255 * linear.clamp(0, 1) ** (1 / _GAMMA)


def _compressed(image: Tensor, quality: int) -> Tensor:
    pixels = image.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, quality))
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
    return torch.from_numpy(decoded).permute(2, 0, 1).to(image.device).float()
