"""Batch augmentation on the training device, with random parameters for each image.

torchvision's transforms draw one set of parameters for a whole batch. Here each image has its own. Crop, flip and
rotation are combined into one affine map, so that each pixel is interpolated only once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, interpolate, one_hot, pad
from torchvision.transforms import v2

from twincar_edge.training.camera_view import CameraViews, draw_views
from twincar_edge.training.recipe import Augmentation

BLUR_KERNEL, BLUR_SIGMA = 5, (0.1, 1.5)
ROTATED_SHARE = 0.5  # of the images; the others stay upright, which is the usual view of a camera
_GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma of red, green, blue
_RGB_TO_YIQ = (_GRAY, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))  # NTSC's luma and two color axes


@dataclass(frozen=True)
class Choices:
    """The random parameters of a batch of N images. Drawn on the CPU, so that they are the same for all devices.

    Attributes:
        affine: float32 [N, 2, 3], from output to input coordinates, both from -1 to 1
            (`torch.nn.functional.affine_grid`).
        jitter: float32 [3, N], factors of brightness, contrast and saturation.
        hue: float32 [N], hue shifts in radians.
        sigma: float32 [N], of the Gaussian blur, in pixels; 0 for none.
        camera: camera conditions, or None if the recipe has none.
    """

    affine: Tensor
    jitter: Tensor
    hue: Tensor
    sigma: Tensor
    camera: CameraViews | None = None

    def part(self, rows: slice) -> Choices:
        """Return the parameters of the images in `rows`."""
        camera = None if self.camera is None else self.camera.part(rows)
        return Choices(self.affine[rows], self.jitter[:, rows], self.hue[rows], self.sigma[rows], camera)


def reduced(batch_nhwc: Tensor, size_wh: tuple[int, int]) -> Tensor:
    """Return the images at a smaller size, antialiased; the same tensor if it already has that size."""
    width, height = size_wh
    if tuple(batch_nhwc.shape[1:3]) == (height, width):
        return batch_nhwc
    pixels = interpolate(batch_nhwc.permute(0, 3, 1, 2), (height, width), mode="bilinear", antialias=True)
    return pixels.permute(0, 2, 3, 1)


def draw_choices(
    augmentation: Augmentation, count: int, size_wh: tuple[int, int], generator: torch.Generator | None = None
) -> Choices:
    """Draw the random parameters of `count` images.

    Args:
        augmentation: the strengths.
        count: images in the batch.
        size_wh: the size of the augmented images, in pixels; rotation depends on its aspect ratio.
        generator: source of randomness, on the CPU; None for torch's global one.
    """

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count).uniform_(low, high, generator=generator)

    # Inception-style crop (Szegedy et al., 2015): area and aspect ratio uniform, the latter on a log scale.
    area = uniform(augmentation.min_scale, 1.0)
    stretch = torch.exp(uniform(-1, 1) * math.log(augmentation.stretch))
    width = (area * stretch).sqrt().clamp(max=1)
    height = (area / stretch).sqrt().clamp(max=1)
    left, top = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    mirror = torch.where(uniform(0, 1) < augmentation.flip, -1.0, 1.0)
    angle = torch.deg2rad(uniform(-1, 1) * augmentation.rotation_degrees)
    angle = torch.where(uniform(0, 1) < ROTATED_SHARE, angle, 0.0)
    columns, rows = size_wh
    cos, sin = angle.cos(), angle.sin()
    first = torch.stack([width * cos * mirror, -width * sin * (rows / columns), left], dim=1)
    second = torch.stack([height * sin * mirror * (columns / rows), height * cos, top], dim=1)
    jitter = torch.empty(3, count).uniform_(1 - augmentation.jitter, 1 + augmentation.jitter, generator=generator)
    hue = uniform(-2 * math.pi, 2 * math.pi) * augmentation.hue
    sigma = torch.where(uniform(0, 1) < augmentation.blur, uniform(*BLUR_SIGMA), 0.0)
    # Drawn last, and only if enabled, so that other recipes keep their random sequence.
    camera = draw_views(augmentation.camera, count, generator) if augmentation.camera else None
    return Choices(torch.stack([first, second], dim=1), jitter, hue, sigma, camera)


def augment(batch_nhwc: Tensor, choices: Choices, size_wh: tuple[int, int]) -> Tensor:
    """Return the augmented images: float32 [N, size_wh[1], size_wh[0], 3], 0 to 255, on the batch's device.

    Args:
        batch_nhwc: uint8 [N, H, W, 3] in RGB, ideally only slightly larger than `size_wh`, because shrinking is not
            antialiased.
        choices: the random parameters of each image.
        size_wh: the size of the result, in pixels.
    """
    device = batch_nhwc.device
    width, height = size_wh
    images = batch_nhwc.permute(0, 3, 1, 2).float()
    affine = choices.affine.to(device, non_blocking=True)
    grid = affine_grid(affine, [len(images), 3, height, width], align_corners=False)
    # Where a rotated crop extends beyond the image, the border pixels are repeated.
    images = grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    images = _jitter(images, choices.jitter.to(device, non_blocking=True))
    if choices.hue.any():
        images = _shift_hue(images, choices.hue.to(device, non_blocking=True))
    blurred = choices.sigma.nonzero()[:, 0]
    if len(blurred):
        rows = blurred.to(device)
        images[rows] = _blur(images[rows], choices.sigma[blurred].to(device))
    return images.permute(0, 2, 3, 1)


def _jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Scale brightness, then contrast around the image's mean gray, then saturation around each pixel's gray."""
    brightness, contrast, saturation = factors[:, :, None, None, None]
    gray = images.new_tensor(_GRAY)[None, :, None, None]
    images = (images * brightness).clamp_(0, 255)
    mean = (images * gray).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    images = torch.lerp(mean, images, contrast).clamp_(0, 255)
    return torch.lerp((images * gray).sum(dim=1, keepdim=True), images, saturation).clamp_(0, 255)


def _shift_hue(images: Tensor, radians: Tensor) -> Tensor:
    """Shift each image's hue by rotating the IQ plane of YIQ, which preserves the luma of each pixel."""
    cos, sin = radians.cos(), radians.sin()
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).reshape(-1, 3, 3)
    to_yiq = images.new_tensor(_RGB_TO_YIQ)
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return torch.einsum("nij,njhw->nihw", matrix, images).clamp_(0, 255)


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image with its own Gaussian, separately along each axis."""
    count, channels, height, width = images.shape
    steps = torch.arange(BLUR_KERNEL, device=images.device) - BLUR_KERNEL // 2
    kernel = torch.exp(-0.5 * (steps / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    margin = BLUR_KERNEL // 2
    planes = pad(images, (margin,) * 4, mode="reflect").reshape(1, count * channels, height + 2 * margin, -1)
    planes = conv2d(planes, kernel[:, None, None, :], groups=count * channels)
    planes = conv2d(planes, kernel[:, None, :, None], groups=count * channels)
    return planes.reshape(count, channels, height, width)


class Mixing:
    """Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019) on a share of the batches, by torchvision.

    Uses torch's global random state.
    """

    def __init__(self, augmentation: Augmentation, classes: int) -> None:
        """Prepare the transforms whose alpha is not 0."""
        kinds = ((v2.MixUp, augmentation.mixup), (v2.CutMix, augmentation.cutmix))
        self._transforms = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha]
        self._share = augmentation.mixed_share
        self._classes = classes

    def __call__(self, batch_nhwc: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return images of the same shape, and targets: float32 [N, classes], each row with sum 1."""
        chosen = int(torch.randint(len(self._transforms), ())) if self._transforms else 0
        if not self._transforms or float(torch.rand(())) >= self._share:
            return batch_nhwc, one_hot(labels, self._classes).float()
        images, targets = self._transforms[chosen](batch_nhwc.permute(0, 3, 1, 2), labels)
        return images.permute(0, 2, 3, 1), targets
