"""Preprocessing equals independent references and does not alias, for any shape of crop."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from tests.support.memory import traced_memory
from twincar_edge.errors import InputError
from twincar_edge.preprocess import LETTERBOX_GRAY, Preprocess, prepare, prepare_batch, resize


def area_weights(source: int, target: int) -> NDArray[np.float64]:
    """Weights of area averaging along one axis, [target, source]; inputs at the ends of an output count in part."""
    weights = np.zeros((target, source))
    scale = source / target
    for place in range(target):
        low, high = place * scale, (place + 1) * scale
        for at in range(int(low), min(int(np.ceil(high)), source)):
            weights[place, at] = max(0.0, min(high, at + 1) - max(low, at))
    return weights / weights.sum(axis=1, keepdims=True)


def area_average(image: NDArray[np.uint8], size_wh: tuple[int, int]) -> NDArray[np.float64]:
    rows, columns = image.shape[:2]
    rows_averaged = np.tensordot(area_weights(rows, size_wh[1]), image.astype(np.float64), axes=(1, 0))
    return np.tensordot(rows_averaged, area_weights(columns, size_wh[0]), axes=(1, 1)).transpose(0, 2, 1)


def noise(rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("factor", [2, 3, 4, 7])
def test_shrinking_by_an_integer_factor_averages_each_block(rng: np.random.Generator, factor: int) -> None:
    image = noise(rng, 16 * factor, 8 * factor)
    boxes = image.reshape(8, factor, 16, factor, 3).astype(np.float64).mean(axis=(1, 3))
    assert np.abs(resize(image, (16, 8)) - boxes).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("source_wh", [(301, 199), (64, 33), (33, 64), (1000, 32), (32, 1000), (47, 1)])
def test_shrinking_averages_areas(rng: np.random.Generator, source_wh: tuple[int, int]) -> None:
    image = noise(rng, *source_wh)
    size_wh = (min(32, source_wh[0]), min(32, source_wh[1]))
    # Half a gray value for rounding, and a little because OpenCV sums in float32.
    assert np.abs(resize(image, size_wh) - area_average(image, size_wh)).max() <= 0.51


@settings(deadline=None, max_examples=200)
@given(source_wh=st.tuples(st.integers(8, 300), st.integers(8, 300)), parts=st.tuples(*2 * [st.floats(0.05, 1)]))
def test_shrinking_equals_opencvs_area_interpolation_exactly(
    source_wh: tuple[int, int], parts: tuple[float, float]
) -> None:
    width, height = (max(1, int(side * part)) for side, part in zip(source_wh, parts, strict=True))
    image = noise(np.random.default_rng(0), *source_wh)
    expected = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(resize(image, (width, height)), expected)


def test_shrinking_a_large_image_makes_no_copy_of_it() -> None:
    image = noise(np.random.default_rng(0), 4001, 3001)
    with traced_memory() as peak_bytes:
        found = resize(image, (224, 224))
    assert peak_bytes() < image.nbytes / 10
    np.testing.assert_array_equal(found, cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA))


@settings(deadline=None, max_examples=200)
@given(
    source_wh=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    size_wh=st.tuples(st.integers(8, 256), st.integers(8, 256)),
    kind=st.sampled_from(["noise", "bars", "smooth"]),
)
def test_prepared_images_equal_plain_opencv_calls_exactly(
    source_wh: tuple[int, int], size_wh: tuple[int, int], kind: str
) -> None:
    """All models trained so far depend on this: axes that shrink are averaged first, then the others grow."""
    image = noise(np.random.default_rng(0), *source_wh)
    if kind == "bars":  # sums end in .5, where rounding matters
        image = np.where(image > 127, np.uint8(255), np.uint8(0))
    elif kind == "smooth":
        image = cv2.blur(image, (15, 15)).reshape(image.shape)
    shrunk = cv2.resize(image, tuple(map(min, source_wh, size_wh)), interpolation=cv2.INTER_AREA)
    grown = cv2.resize(shrunk, size_wh, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(prepare(image, Preprocess(size_wh=size_wh)), grown[:, :, ::-1])


@pytest.mark.parametrize("source_wh", [(256, 256), (256, 20), (20, 256), (256, 32), (513, 8)])
def test_a_fine_checkerboard_shrinks_to_gray_even_if_one_axis_grows(source_wh: tuple[int, int]) -> None:
    width, height = source_wh
    board = ((np.indices((height, width)).sum(axis=0) % 2) * 255).astype(np.uint8)
    shrunk = prepare(np.repeat(board[:, :, None], 3, axis=2), Preprocess(size_wh=(32, 32)))
    assert np.abs(shrunk.astype(int) - 127.5).max() <= 128 / 8  # at most one of 8 or more averaged pixels is unpaired


def test_fine_stripes_vanish_only_along_the_shrinking_axis(rng: np.random.Generator) -> None:
    stripes = np.zeros((16, 320, 3), np.uint8)
    stripes[:, ::2] = 254  # fine columns: gone when the width shrinks tenfold
    stripes[8:] //= 2  # two broad bands: still there when the height doubles
    resized = resize(stripes, (32, 32)).astype(int)
    assert np.abs(resized[:14] - 127).max() <= 1
    assert np.abs(resized[18:] - 63.5).max() <= 1


def pyramid(image: NDArray[np.uint8], size_wh: tuple[int, int]) -> NDArray[np.float64]:
    """Each axis halved while it is at least twice too long, then interpolated linearly between pixel centers."""
    pixels = image.astype(np.float64)
    for axis, target in ((0, size_wh[1]), (1, size_wh[0])):
        pixels = np.moveaxis(pixels, axis, 0)
        while len(pixels) >= 2 * target:
            pixels = (pixels[: len(pixels) // 2 * 2 : 2] + pixels[1::2]) / 2
        centers = ((np.arange(target) + 0.5) * len(pixels) / target - 0.5).clip(0, len(pixels) - 1)
        low = centers.astype(int)
        high = np.minimum(low + 1, len(pixels) - 1)
        share = (centers - low)[:, None, None]
        pixels = np.moveaxis(pixels[low] * (1 - share) + pixels[high] * share, 0, axis)
    return pixels


@settings(deadline=None, max_examples=200)
@given(
    source_wh=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    size_wh=st.tuples(st.integers(8, 256), st.integers(8, 256)),
)
def test_a_pyramid_halves_and_then_interpolates(source_wh: tuple[int, int], size_wh: tuple[int, int]) -> None:
    image = noise(np.random.default_rng(0), *source_wh)
    found = resize(image, size_wh, "pyramid")
    halvings = sum(max(0, int(np.log2(source / size))) for source, size in zip(source_wh, size_wh, strict=True))
    # Each step rounds to a gray value, and OpenCV's linear weights are multiples of 1/256 on both axes.
    assert np.abs(found - pyramid(image, size_wh)).max() <= 0.51 * (halvings + 1) + 2 * 255 / 512


@pytest.mark.parametrize("source_wh", [(256, 256), (256, 20), (20, 256), (256, 32), (513, 8), (257, 65)])
def test_a_fine_checkerboard_becomes_gray_in_a_pyramid(source_wh: tuple[int, int]) -> None:
    width, height = source_wh
    board = ((np.indices((height, width)).sum(axis=0) % 2) * 255).astype(np.uint8)
    shrunk = resize(np.repeat(board[:, :, None], 3, axis=2), (32, 32), "pyramid")
    assert np.abs(shrunk.astype(int) - 127.5).max() <= 1


def test_an_image_of_the_input_size_is_unchanged(rng: np.random.Generator) -> None:
    image = noise(rng, 40, 24)
    assert np.array_equal(prepare(image, Preprocess(size_wh=(40, 24), color="bgr")), image)
    assert np.array_equal(prepare(image, Preprocess(size_wh=(40, 24), color="rgb")), image[:, :, ::-1])


def test_prepared_images_have_the_color_order_of_the_model() -> None:
    blue = np.zeros((50, 60, 3), np.uint8)
    blue[:, :, 0] = 200  # OpenCV's order: blue first
    assert prepare(blue, Preprocess(size_wh=(16, 16), color="rgb"))[3, 4].tolist() == [0, 0, 200]
    assert prepare(blue, Preprocess(size_wh=(16, 16), color="bgr"))[3, 4].tolist() == [200, 0, 0]


@pytest.mark.parametrize(
    ("source_wh", "size_wh", "inner"),
    [
        ((200, 100), (64, 64), (0, 16, 64, 48)),
        ((100, 200), (64, 64), (16, 0, 48, 64)),
        ((20, 10), (64, 64), (0, 16, 64, 48)),
        ((64, 64), (64, 64), (0, 0, 64, 64)),
        ((100, 100), (96, 32), (32, 0, 64, 32)),
        ((4000, 1), (64, 64), (0, 31, 64, 32)),
    ],
)
def test_letterbox_keeps_the_aspect_and_pads_evenly(
    source_wh: tuple[int, int], size_wh: tuple[int, int], inner: tuple[int, int, int, int]
) -> None:
    white = np.full((source_wh[1], source_wh[0], 3), 255, np.uint8)
    boxed = prepare(white, Preprocess(size_wh=size_wh, resize="letterbox"))
    left, top, right, bottom = inner
    expected = np.full_like(boxed, LETTERBOX_GRAY)
    expected[top:bottom, left:right] = 255
    assert np.array_equal(boxed, expected)


@pytest.mark.parametrize(
    ("source_wh", "size_wh", "kept"),
    [
        ((200, 100), (50, 50), (50, 0, 150, 100)),
        ((100, 200), (50, 50), (0, 50, 100, 150)),
        ((300, 100), (100, 50), (50, 0, 250, 100)),
        ((50, 50), (50, 50), (0, 0, 50, 50)),
    ],
)
def test_center_crop_takes_the_middle_and_resizes_it(
    rng: np.random.Generator,
    source_wh: tuple[int, int],
    size_wh: tuple[int, int],
    kept: tuple[int, int, int, int],
) -> None:
    image = noise(rng, *source_wh)
    left, top, right, bottom = kept
    got = prepare(image, Preprocess(size_wh=size_wh, resize="center_crop", color="bgr"))
    assert np.abs(got - area_average(image[top:bottom, left:right], size_wh)).max() <= 0.51


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 0, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
    ],
)
def test_an_array_that_is_not_a_uint8_bgr_image_is_refused(bad: NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match=r"expected a uint8 image \[H, W, 3\], found .*\["):
        prepare(bad, Preprocess())


def test_array_views_are_prepared_like_their_copies(rng: np.random.Generator) -> None:
    image = noise(rng, 90, 60)
    preprocess = Preprocess(size_wh=(16, 16))
    for view in (image[5:40, 10:70], image[:, ::-1], image[::2, ::3], image.transpose(1, 0, 2)):
        assert np.array_equal(prepare(view, preprocess), prepare(view.copy(), preprocess))


def test_a_batch_contains_each_prepared_image(rng: np.random.Generator) -> None:
    images = [noise(rng, 30, 20), noise(rng, 9, 200), noise(rng, 16, 16)]
    preprocess = Preprocess(size_wh=(16, 24), resize="letterbox")
    batch = prepare_batch(images, preprocess)
    assert batch.shape == (3, 24, 16, 3)
    assert batch.flags.c_contiguous
    for row, image in zip(batch, images, strict=True):
        assert np.array_equal(row, prepare(image, preprocess))
    assert prepare_batch([], preprocess).shape == (0, 24, 16, 3)


@settings(max_examples=100, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size_wh=st.tuples(st.integers(8, 80), st.integers(8, 80)),
    rule=st.sampled_from(["squash", "letterbox", "center_crop"]),
    interpolation=st.sampled_from(["area", "pyramid", "linear", "cubic"]),
    color=st.sampled_from(["rgb", "bgr"]),
    gray=st.integers(0, 255),
)
def test_every_rule_gives_a_contiguous_uint8_input_and_keeps_a_flat_image_flat(
    width: int, height: int, size_wh: tuple[int, int], rule: str, interpolation: str, color: str, gray: int
) -> None:
    preprocess = Preprocess.model_validate(
        {"size_wh": size_wh, "resize": rule, "interpolation": interpolation, "color": color}
    )
    got = prepare(np.full((height, width, 3), gray, np.uint8), preprocess)
    assert got.shape == (size_wh[1], size_wh[0], 3)
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    assert set(np.unique(got)) <= {gray, LETTERBOX_GRAY if rule == "letterbox" else gray}


@pytest.mark.parametrize(
    "fields",
    [
        {"size_wh": (7, 224)},
        {"size_wh": (224, 5000)},
        {"std": (0.2, 0.0, 0.2)},
        {"mean": (float("nan"), 0, 0)},
        {"resize": "stretch"},
        {"normalise": True},
    ],
)
def test_invalid_preprocessing_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Preprocess.model_validate(fields)


def test_preprocessing_round_trips_through_json_and_is_immutable() -> None:
    preprocess = Preprocess(size_wh=(192, 160), resize="letterbox", color="bgr", mean=(0.1, 0.2, 1 / 3))
    assert Preprocess.model_validate_json(preprocess.model_dump_json()) == preprocess
    with pytest.raises(ValidationError):
        preprocess.size_wh = (8, 8)  # type: ignore[misc]


@pytest.mark.parametrize("key", ["colour", "color"])
def test_color_order_is_read_in_both_spellings_and_written_in_the_old_one(key: str) -> None:
    preprocess = Preprocess.model_validate({key: "bgr"})

    assert preprocess.color == "bgr"
    assert preprocess.model_dump()["colour"] == "bgr"  # so that older versions read new files
