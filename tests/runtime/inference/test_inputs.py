"""Conversion of the images and boxes that users pass."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from twincar_edge.errors import InputError
from twincar_edge.images import ImageError, read_image
from twincar_edge.runtime.inference.inputs import as_boxes, as_image_bgr

SIZE_WH = (100, 60)


@pytest.fixture
def picture(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (60, 100, 3), dtype=np.uint8)


def test_a_file_its_bytes_an_array_and_a_pil_image_give_the_same_picture(
    picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = tmp_path / "car.png"
    assert cv2.imwrite(str(path), picture)
    data = path.read_bytes()
    for image in (str(path), path, data, bytearray(data), memoryview(data), picture, Image.open(path)):
        assert np.array_equal(as_image_bgr(image), picture)


def test_a_reversed_view_of_an_rgb_array_is_read(picture: NDArray[np.uint8]) -> None:
    rgb = np.ascontiguousarray(picture[..., ::-1])
    turned = as_image_bgr(rgb[..., ::-1])
    assert np.array_equal(turned, picture) and turned.flags.c_contiguous


def test_gray_becomes_bgr_and_alpha_is_dropped(picture: NDArray[np.uint8]) -> None:
    gray = picture[..., 0]
    for image in (gray, gray[..., None], Image.fromarray(gray)):
        assert np.array_equal(as_image_bgr(image), np.repeat(gray[..., None], 3, axis=2))
    alpha = np.dstack([picture, np.full((60, 100), 9, np.uint8)])
    assert np.array_equal(as_image_bgr(alpha), picture)
    assert np.array_equal(as_image_bgr(Image.fromarray(cv2.cvtColor(alpha, cv2.COLOR_BGRA2RGBA))), picture)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pil_image_is_oriented_like_its_file(orientation: int, tmp_path: Path) -> None:
    upright = Image.fromarray(np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    upright.save(file, "PNG", exif=exif)
    path = tmp_path / "turned.png"
    path.write_bytes(file.getvalue())
    assert np.array_equal(as_image_bgr(Image.open(path)), read_image(path))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"crop: expected uint8 \[H, W, 3\] in BGR.*found float32 \[4, 4, 3\]"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"found uint8 \[2, 4, 4, 3\]; pass list\(images\)"),
        (np.zeros((4, 4, 2), np.uint8), r"found uint8 \[4, 4, 2\]"),
        (np.zeros((0, 4, 3), np.uint8), r"found uint8 \[0, 4, 3\]"),
        (np.zeros(4, np.uint8), r"found uint8 \[4\]"),
        (Image.new("F", (4, 4)), "crop: a PIL image of mode 'F' has no 8-bit colors; pass its file's path"),
        (io.BytesIO(b"x"), "crop: expected a path, bytes, a NumPy array or a PIL image, found BytesIO; pass its bytes"),
        (b"", "crop is empty"),
        (b"text", "crop is not a"),
        (None, "crop: expected a path, bytes, a NumPy array or a PIL image, found None, which cv2.imread returns"),
        ((path for path in ["a.jpg"]), r"found generator; pass list\(images\)"),
        ("missing.jpg", "cannot read missing.jpg: No such file or directory"),
        ("https://host/car.jpg", "cannot read https:/host/car.jpg: it is a URL, not a file: download it first"),
        (Path(), "a folder, a pipe or a device"),
    ],
)
def test_other_types_and_shapes_are_refused_in_one_line(image: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_image_bgr(image, "crop")


def test_another_kind_of_path_is_a_file(tmp_path: Path) -> None:
    class ElsewherePath:
        def __fspath__(self) -> str:
            return str(tmp_path / "car.png")

    assert cv2.imwrite(str(tmp_path / "car.png"), np.full((4, 4, 3), 7, np.uint8))
    assert as_image_bgr(ElsewherePath()).shape == (4, 4, 3)


def test_a_pil_image_of_a_truncated_file_is_refused(picture: NDArray[np.uint8]) -> None:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    cut = Image.open(io.BytesIO(file.getvalue()[:-2000]))
    with pytest.raises(InputError, match="the PIL image cannot be decoded"):
        as_image_bgr(cut)


def test_an_unreadable_file_is_an_image_error_with_its_kind() -> None:
    with pytest.raises(ImageError) as caught:
        as_image_bgr("missing.jpg")
    assert caught.value.problem == "missing"


def test_boxes_are_clipped_and_widened_to_whole_pixels() -> None:
    boxes = [[10, 5, 20, 15], [9.2, 4.7, 20.1, 15.0], [-30, -1, 500, 30.5]]
    assert as_boxes(boxes, SIZE_WH) == [(10, 5, 20, 15), (9, 4, 21, 15), (0, 0, 100, 31)]
    assert as_boxes([], SIZE_WH) == as_boxes(np.empty((0, 4)), SIZE_WH) == []


def test_the_boxes_of_detectors_results_are_found() -> None:
    rows = np.array([[10, 5, 20, 15], [1, 2, 3, 4]], np.float32)
    expected = [(10, 5, 20, 15), (1, 2, 3, 4)]
    detections = SimpleNamespace(xyxy=rows)
    tensors = SimpleNamespace(xyxy=torch.from_numpy(rows).requires_grad_())
    half = SimpleNamespace(xyxy=torch.from_numpy(rows).to(torch.bfloat16))
    for boxes in (rows, rows.tolist(), torch.from_numpy(rows), detections, tensors, half):
        assert as_boxes(boxes, SIZE_WH) == expected
        assert as_boxes(SimpleNamespace(boxes=boxes), SIZE_WH) == expected


def test_detections_of_supervision_are_accepted() -> None:
    sv = pytest.importorskip("supervision")
    detections = sv.Detections(xyxy=np.array([[10.0, 5, 20, 15]]), confidence=np.array([0.9]))
    assert as_boxes(detections, SIZE_WH) == [(10, 5, 20, 15)]
    assert as_boxes(sv.Detections.empty(), SIZE_WH) == []


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([10, 5, 20, 15], r"boxes: expected \[N, 4\].*found \[4\]"),
        ([[10, 5, 20]], r"found \[1, 3\]"),
        ([[10, 5, 20, 15], [1, 2]], "boxes: expected"),
        ([[1, 2, 3, 4], [10, 5, float("nan"), 15]], r"boxes\[1\] = \(10, 5, nan, 15\) is not finite"),
        ([[1, 2, 3, float("inf")]], r"boxes\[0\] .* is not finite"),
        ([[20, 5, 10, 15]], r"boxes\[0\] = \(20, 5, 10, 15\) is empty: expected left < right"),
        ([[20, 5, 20, 15]], "is empty"),
        ([[1, 2, 3, 4], [200, 5, 300, 15]], r"boxes\[1\] = .* lies outside the image of 100x60 pixels"),
        ([[-20, 5, 0, 15]], "lies outside"),
        ("10 5 20 15", "boxes: expected .* found str"),
        (SimpleNamespace(boxes=None), "these results have no boxes"),
        ([SimpleNamespace(boxes=None)], r"a list of results; pass results\[0\]"),
    ],
)
def test_invalid_boxes_are_refused_by_index(boxes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_boxes(boxes, SIZE_WH)
