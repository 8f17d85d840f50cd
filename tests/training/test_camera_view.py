"""Camera conditions of training crops: each has its own effect, and crops without one do not change."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.support.training_toys import PLAIN
from twincar_edge.training.augmentation import draw_choices
from twincar_edge.training.camera_view import BEST_JPEG, LEAST_LIGHT, LONGEST_BLUR, CameraViews, as_camera, draw_views

SIDE = 64


def noise_image() -> torch.Tensor:
    """Return noise, which has detail at every scale: float32 [1, SIDE, SIDE, 3]."""
    return torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0)) * 255


def view(**conditions: float) -> CameraViews:
    """Return the conditions of one image: by default a good JPEG and nothing else."""
    clear = {"scale": 1.0, "blur": 0.0, "direction": 0.0, "light": 1.0, "quality": 100, "seed": 7} | conditions
    return CameraViews(**{name: torch.tensor([value]) for name, value in clear.items()})


def detail(images: torch.Tensor, axis: int) -> float:
    """Return the mean difference of adjacent pixels along an axis of [N, H, W, 3]."""
    return float(images.diff(dim=axis).abs().mean())


def test_images_without_conditions_do_not_change() -> None:
    images = noise_image().repeat(4, 1, 1, 1)
    assert torch.equal(as_camera(images, draw_views(0.0, 4)), images)


def test_the_recipe_sets_the_share_of_degraded_images() -> None:
    views = draw_views(0.3, 4000, torch.Generator().manual_seed(1))
    assert float((views.quality > 0).float().mean()) == pytest.approx(0.3, abs=0.03)
    clean = views.quality == 0
    assert (views.scale[clean] == 1).all() and (views.blur[clean] == 0).all() and (views.light[clean] == 1).all()
    assert float(views.light.min()) >= LEAST_LIGHT and float(views.blur.max()) <= LONGEST_BLUR
    assert int(views.quality.max()) <= BEST_JPEG


def test_motion_blurs_along_its_direction_only() -> None:
    columns = (torch.arange(SIDE) // 2 % 2 * 200.0).expand(1, 3, SIDE, SIDE).permute(0, 2, 3, 1)
    rows = columns.transpose(1, 2)
    motion = view(blur=0.1, direction=0.0)
    assert detail(as_camera(columns, motion), 2) < 0.3 * detail(columns, 2)
    assert detail(as_camera(rows, motion), 1) == pytest.approx(detail(rows, 1), rel=0.1)


def test_low_resolution_removes_detail_and_keeps_size_and_mean() -> None:
    image = noise_image()
    small = as_camera(image, view(scale=0.2))
    assert small.shape == image.shape and detail(small, 2) < 0.2 * detail(image, 2)
    assert float(small.mean()) == pytest.approx(float(image.mean()), abs=2)


def test_low_light_scales_linear_light_and_adds_noise() -> None:
    gray = torch.full((1, SIDE, SIDE, 3), 200.0)
    dark = as_camera(gray, view(light=0.25))
    assert float(dark.mean()) == pytest.approx(200 * 0.25 ** (1 / 2.2), abs=3)
    assert float(dark.std()) > 0.5
    assert float(as_camera(gray, view()).std()) < 0.5


def test_low_quality_adds_artifacts() -> None:
    image = noise_image()
    errors = [float((as_camera(image, view(quality=quality)) - image).abs().mean()) for quality in (95, 25)]
    assert errors[0] < errors[1]


def test_the_same_seed_gives_the_same_images_for_a_batch_and_a_part_of_it() -> None:
    images = noise_image().repeat(8, 1, 1, 1)
    views = [draw_views(0.8, 8, torch.Generator().manual_seed(3)) for _ in range(2)]
    whole = as_camera(images, views[0])
    assert torch.equal(whole, as_camera(images, views[1]))
    assert torch.equal(whole[2:5], as_camera(images[2:5], views[0].part(slice(2, 5))))
    assert float(whole.min()) >= 0 and float(whole.max()) <= 255


def test_camera_conditions_do_not_change_the_other_random_choices() -> None:
    plain, camera = (
        draw_choices(strength, 6, (24, 24), torch.Generator().manual_seed(5))
        for strength in (PLAIN, PLAIN.model_copy(update={"camera": 0.5}))
    )
    assert plain.camera is None and camera.camera is not None
    assert torch.equal(plain.affine, replace(camera, camera=None).affine)
