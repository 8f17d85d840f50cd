"""Augmentation changes each image of a batch independently, within the strengths of the recipe."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from tests.support.training_toys import PLAIN
from twincar_edge.training.augmentation import Choices, Mixing, augment, draw_choices, reduced
from twincar_edge.training.recipe import Augmentation

STRONG = Augmentation(min_scale=0.3, rotation_degrees=20, jitter=0.5, hue=0.3, blur=0.5)


def picture(width: int = 48, height: int = 32) -> torch.Tensor:
    """Return a smooth picture that differs at every place and in every direction: uint8 [1, H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    planes = (255 * x / width, 255 * y / height, 127 + 120 * np.sin(x / 7) * np.cos(y / 5))
    return torch.from_numpy(np.stack(planes, axis=-1).astype(np.uint8))[None]


def no_choices(count: int) -> Choices:
    still = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(count, 2, 3)
    return Choices(still, torch.ones(3, count), torch.zeros(count), torch.zeros(count))


def test_strength_zero_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    varied = augment(picture(), draw_choices(PLAIN, 1, (48, 32), generator), (48, 32))
    assert varied.dtype == torch.float32 and varied.shape == (1, 32, 48, 3)
    torch.testing.assert_close(varied, picture().float(), atol=0.01, rtol=0)


def test_images_of_a_batch_differ_and_the_same_generator_repeats_them() -> None:
    batch = picture().expand(6, -1, -1, -1)
    first, second = (
        augment(batch, draw_choices(STRONG, 6, (24, 24), torch.Generator().manual_seed(5)), (24, 24)) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert all(not torch.equal(first[0], other) for other in first[1:])
    assert float(first.min()) >= 0 and float(first.max()) <= 255


def test_a_slice_of_the_parameters_gives_the_same_images() -> None:
    batch = picture().repeat(6, 1, 1, 1)
    choices = draw_choices(STRONG, 6, (24, 24), torch.Generator().manual_seed(5))
    whole = augment(batch, choices, (24, 24))
    part = augment(batch[2:5], choices.part(slice(2, 5)), (24, 24))
    torch.testing.assert_close(part, whole[2:5], atol=1e-3, rtol=0)


def test_crops_have_a_limited_share_of_the_area_and_are_inside_the_image() -> None:
    strength = Augmentation(min_scale=0.4, stretch=4 / 3, flip=0, rotation_degrees=0)
    affine = draw_choices(strength, 4000, (32, 32), torch.Generator().manual_seed(1)).affine
    width, height = affine[:, 0, 0], affine[:, 1, 1]
    area = width * height
    assert float(area.min()) >= 0.4 * 0.75 and float(area.max()) <= 1  # stretched crops are cut at the border
    assert float(area.mean()) == pytest.approx(0.68, abs=0.03)
    assert float((affine[:, 0, 2].abs() + width).max()) <= 1 + 1e-6
    assert float((affine[:, 1, 2].abs() + height).max()) <= 1 + 1e-6


def test_half_of_the_images_are_mirrored_exactly() -> None:
    strength = PLAIN.model_copy(update={"flip": 0.5})
    choices = draw_choices(strength, 1000, (48, 32), torch.Generator().manual_seed(2))
    mirrored = choices.affine[:, 0, 0] < 0
    assert 440 < int(mirrored.sum()) < 560
    one = int(mirrored.nonzero()[0])
    varied = augment(picture(), choices.part(slice(one, one + 1)), (48, 32))
    torch.testing.assert_close(varied, picture().flip(2).float(), atol=0.01, rtol=0)


def test_a_rotation_turns_the_picture_without_stretching_it() -> None:
    choices = no_choices(1)
    size_wh = (48, 32)
    strength = PLAIN.model_copy(update={"rotation_degrees": 15.0})
    drawn = draw_choices(strength, 500, size_wh, torch.Generator().manual_seed(3)).affine
    tilted = drawn[:, 1, 0] != 0
    assert 200 < int(tilted.sum()) < 300  # half of the images stay upright
    one = drawn[int(tilted.nonzero()[0])]
    angle = math.asin(float(one[1, 0]) * size_wh[1] / size_wh[0])
    assert abs(math.degrees(angle)) <= 15
    rotated = augment(picture(), Choices(one[None], choices.jitter, choices.hue, choices.sigma), size_wh)[0]
    matrix = cv2.getRotationMatrix2D((23.5, 15.5), math.degrees(angle), 1)
    expected = cv2.warpAffine(
        picture()[0].numpy(), matrix, size_wh, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    inner = (slice(6, -6), slice(8, -8))
    np.testing.assert_allclose(rotated.numpy()[inner], expected[inner].astype(np.float32), atol=4)


def test_jitter_equals_torchvisions_brightness_contrast_and_saturation() -> None:
    jitter = torch.tensor([[1.2], [0.7], [1.4]])
    choices = no_choices(1)
    varied = augment(picture(), Choices(choices.affine, jitter, choices.hue, choices.sigma), (48, 32))[0]
    expected = picture()[0].permute(2, 0, 1).float() / 255
    expected = functional.adjust_brightness(expected, 1.2)
    expected = functional.adjust_contrast(expected, 0.7)
    expected = functional.adjust_saturation(expected, 1.4)
    torch.testing.assert_close(varied.permute(2, 0, 1), expected * 255, atol=1.0, rtol=0)


def test_blur_equals_torchvisions_gaussian_and_affects_only_its_images() -> None:
    batch = picture().repeat(3, 1, 1, 1)
    choices = no_choices(3)
    sigma = torch.tensor([0.0, 1.2, 0.4])
    varied = augment(batch, Choices(choices.affine, choices.jitter, choices.hue, sigma), (48, 32))
    torch.testing.assert_close(varied[0], batch[0].float(), atol=0.01, rtol=0)
    for row in (1, 2):
        image = batch[row].permute(2, 0, 1).float()
        expected = functional.gaussian_blur(image, [5, 5], [float(sigma[row])] * 2).permute(1, 2, 0)
        torch.testing.assert_close(varied[row], expected, atol=0.01, rtol=0)


def test_a_hue_shift_preserves_gray_and_luma() -> None:
    choices = no_choices(1)
    colors = torch.tensor([[[[120, 120, 120], [160, 90, 90]]]], dtype=torch.uint8)
    quarter = Choices(choices.affine, choices.jitter, torch.tensor([math.pi / 2]), choices.sigma)
    turned = augment(colors, quarter, (2, 1))
    torch.testing.assert_close(turned[0, 0, 0], torch.full((3,), 120.0), atol=0.5, rtol=0)
    luma = torch.tensor([0.299, 0.587, 0.114])
    assert float(turned[0, 0, 1] @ luma) == pytest.approx(float(colors[0, 0, 1].float() @ luma), abs=0.5)
    assert not torch.allclose(turned[0, 0, 1], colors[0, 0, 1].float(), atol=20)


def test_the_configured_share_of_batches_and_their_labels_is_mixed() -> None:
    torch.manual_seed(0)
    batch = torch.stack([torch.zeros(8, 8, 3), torch.full((8, 8, 3), 200.0)])
    labels = torch.tensor([0, 2])
    mixing = Mixing(Augmentation(mixup=1.0, cutmix=1.0, mixed_share=0.5), classes=3)
    mixed, kinds = 0, set()
    for _ in range(200):
        images, targets = mixing(batch, labels)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(2))
        share = float(targets[0, 2])
        if not torch.equal(targets, torch.tensor([[1.0, 0, 0], [0, 0, 1]])):
            mixed += 1
            assert float(images[0].mean()) == pytest.approx(200 * share, abs=1e-2)
            kinds.add("cut" if set(images[0].unique().tolist()) <= {0.0, 200.0} else "blend")
    assert 70 < mixed < 130 and kinds == {"cut", "blend"}


def test_without_strengths_nothing_is_mixed_and_no_randomness_is_used() -> None:
    torch.manual_seed(0)
    batch, labels = torch.rand(2, 8, 8, 3), torch.tensor([1, 0])
    before = torch.get_rng_state()
    images, targets = Mixing(Augmentation(), classes=2)(batch, labels)
    assert torch.equal(images, batch) and targets.tolist() == [[0, 1], [1, 0]]
    assert torch.equal(torch.get_rng_state(), before)


def test_reducing_averages_pixels_and_returns_images_of_equal_size_unchanged() -> None:
    batch_nhwc = torch.rand(2, 32, 48, 3) * 255
    assert reduced(batch_nhwc, (48, 32)) is batch_nhwc
    small = reduced(batch_nhwc, (12, 8))
    assert small.shape == (2, 8, 12, 3)
    means = batch_nhwc.reshape(2, 8, 4, 12, 4, 3).mean(dim=(2, 4))
    assert (small - means).abs().mean() < 12  # antialiased: a single pixel would be 60 away
