"""A real detector of a few kilobytes in the YOLOX layout, pictures for it, and the boxes that it must find."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.clips import Image
from twincar_edge.runtime.locating.boxes import Box
from twincar_edge.runtime.locating.coco import COCO_CLASSES
from twincar_edge.runtime.locating.pulled import OFFICIAL, OfficialDetector

SIDE, CELLS = 64, 84  # cells of 8 x 8, 4 x 4 and 2 x 2
CAR, TRUCK, PHONE = (COCO_CLASSES.index(name) for name in ("car", "truck", "cell phone"))
WIDTH_HEIGHT = (24.0, 16.0)  # of every box, in pixels of the input


def red_detector(
    path: Path, left: Sequence[tuple[int, float]] = ((CAR, 0.9),), right: Sequence[tuple[int, float]] = ((CAR, 0.9),),
    *, classes: int = 80, side: object = SIDE, cells: int = CELLS, kind: int = TensorProto.FLOAT, boxes: float = 0.0,
    boost: float = 1.0,
) -> Path:  # fmt: skip
    """Write an ONNX file in the YOLOX layout that finds red cells of 8x8 pixels, and return its path.

    `left` and `right` are the classes and their probabilities in each half of the picture. The other arguments make
    the file invalid.
    """
    head = np.zeros((1, cells, 4), np.float32)
    head[:, :, :2] = 0.5 + boxes
    head[:, :, 2:] = np.log(np.array(WIDTH_HEIGHT, np.float32) / 8) + boxes
    scores = np.zeros((1, cells, classes), np.float32)
    columns = np.arange(cells) % 8
    for half, named in ((columns < 4, left), (columns >= 4, right)):
        for number, probability in named:
            scores[:, half, number] = probability
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("AveragePool", ["pixels"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
            helper.make_node("Gather", ["pooled", "two"], ["red"], axis=1),  # BGR
            helper.make_node("Gather", ["pooled", "one"], ["green"], axis=1),
            helper.make_node("Sub", ["red", "green"], ["difference"]),
            helper.make_node("Relu", ["difference"], ["excess"]),
            helper.make_node("Mul", ["excess", "scale"], ["share"]),
            helper.make_node("Reshape", ["share", "column"], ["fine"]),
            helper.make_node("Concat", ["fine", "rest"], ["objects"], axis=1),
            helper.make_node("Concat", ["head", "objects", "scores"], ["output"], axis=2),
        ],
        "red_detector",
        [helper.make_tensor_value_info("images", kind, [1, 3, side, side])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", "rows", "columns"])],
        [
            numpy_helper.from_array(np.int64(2), "two"),
            numpy_helper.from_array(np.int64(1), "one"),
            numpy_helper.from_array(np.float32(boost / 255), "scale"),
            numpy_helper.from_array(np.array([1, 64, 1], np.int64), "column"),
            numpy_helper.from_array(np.full((1, cells - 64, 1), boost - 1, np.float32), "rest"),
            numpy_helper.from_array(head, "head"),
            numpy_helper.from_array(scores, "scores"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(path))
    return path


def picture(*cells: tuple[int, int], size_wh: tuple[int, int] = (128, 96), red: int = 255) -> Image:
    """Return a gray picture with red cells, given by column and row in the detector's input."""
    cell = max(size_wh) // 8
    image = np.full((size_wh[1], size_wh[0], 3), 90, np.uint8)
    for column, row in cells:
        image[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = (0, 0, red)
    return image


def expected_box(column: int, row: int, size_wh: tuple[int, int] = (128, 96)) -> Box:
    """Return the box of a red cell, clipped to the picture."""
    scale = max(size_wh) / SIDE
    (x, y), (width, height) = (8 * column + 4, 8 * row + 4), WIDTH_HEIGHT
    left, right = max(0, (x - width / 2) * scale), min(size_wh[0], (x + width / 2) * scale)
    top, bottom = max(0, (y - height / 2) * scale), min(size_wh[1], (y + height / 2) * scale)
    return round(left), round(top), round(right), round(bottom)


@contextmanager
def fake_official_detector(folder: Path) -> Iterator[Path]:
    """Write a small detector that replaces the official YOLOX-nano inside the block."""
    path = red_detector(folder / "yolox_nano.onnx")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OFFICIAL, "nano", OfficialDetector(path.name, path.stat().st_size, digest))
        yield path
