"""Vehicles in a picture by a detector: an ONNX file in the layout of YOLOX's official exports.

Input `images`, float32 [1, 3, H, W], BGR from 0 to 255, scaled to fit into the upper left corner, the rest gray. Output
float32 [1, N, 5 + classes], one row for each cell of three grids with strides 8, 16 and 32: center as an offset from
the cell and size as a logarithm, both in strides, then objectness, then each class, as probabilities.
Source: Ge et al., YOLOX, arXiv:2107.08430; https://github.com/Megvii-BaseDetection/YOLOX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError, ModelError, nearest
from twincar_edge.preprocess import LETTERBOX_GRAY, resize
from twincar_edge.runtime.inference.engine import Engine, open_engine
from twincar_edge.runtime.inference.providers import AUTO
from twincar_edge.runtime.locating.boxes import Box, Detection, area, intersection
from twincar_edge.runtime.locating.coco import COCO_CLASSES, VEHICLE_KINDS

RELEASES = "https://github.com/Megvii-BaseDetection/YOLOX/releases"
ANY = "any"
VEHICLES = ("car", "bus", "truck", "motorcycle")
"""The vehicles that a gate opens for; bicycles bypass it."""

_STRIDES = (8, 16, 32)
_LONGEST_SIDE = 2048
_LARGEST_LOG = 10.0  # of a size in strides: beyond any picture, and not yet beyond float32
_FARTHEST = 1e4  # of a center's offset from its cell, in strides: same reason
_OVERLAP = 0.45  # of two boxes, as intersection over union: of one vehicle, and the surer one stands
_WITHIN = 0.8  # of a box lies in a surer one: a part of that vehicle, or one that hides behind it
_MOST = 1000  # candidates that are compared with each other


@dataclass(frozen=True)
class Detector:
    """An open detector. It has no state: several cameras may share one.

    Attributes:
        size_wh: of its input, in pixels.
        classes: their names, in the order of the output: COCO's where there are 80, else their numbers.
    """

    size_wh: tuple[int, int]
    classes: tuple[str, ...]
    _engine: Engine = field(repr=False)
    _cells: NDArray[np.float32] = field(repr=False)  # [N, 3]: column, row and stride

    def class_ids(self, wanted: Sequence[str]) -> tuple[int, ...]:
        """Return the numbers of the classes that are wanted, by name or number; `any` is all of them.

        Raises:
            InputError: the detector does not have one of them.
        """
        if ANY in wanted:
            return tuple(range(len(self.classes)))
        return tuple(dict.fromkeys(self._class_id(name.strip()) for name in wanted))

    def detect(self, image_bgr: NDArray[np.uint8], class_ids: Sequence[int], least_score: float) -> list[Detection]:
        """Return the detections of these classes in a picture, highest score first.

        Non-maximum suppression is class-agnostic: a box that is a car and, with a lower score, a truck is one car.

        Args:
            image_bgr: uint8 [H, W, 3].
            class_ids: as `class_ids` gives them.
            least_score: threshold for objectness times class probability.

        Raises:
            ModelError: the provider failed, or returned numbers that are not finite.
        """
        batch, scale = self._letterboxed(image_bgr)
        rows = self._run(batch)
        of_class = rows[:, [5 + number for number in class_ids]]
        scores = np.clip(rows[:, 4] * of_class.max(axis=1), 0, 1)
        chosen = np.flatnonzero(scores >= least_score)
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")[:_MOST]]
        boxes = _decoded(rows[chosen, :4], self._cells[chosen]) / scale
        columns_rows = np.array(image_bgr.shape[1::-1] * 2)
        boxes = np.clip(boxes, 0, columns_rows)
        sizes = boxes[:, 2:] - boxes[:, :2]
        seen = (sizes >= 1).all(axis=1)
        boxes, sizes, chosen = boxes[seen], sizes[seen], chosen[seen]
        scores, best = scores[chosen], of_class[chosen].argmax(axis=1)
        if len(boxes) == 0:
            return []
        kept = cv2.dnn.NMSBoxes(np.hstack([boxes[:, :2], sizes]).tolist(), scores.tolist(), 0.0, _OVERLAP)
        found: list[Detection] = []
        for row in np.ravel(kept):
            box = _pixels(boxes[row])
            if not any(intersection(box, surer.box_xyxy) > _WITHIN * area(box) for surer in found):
                name = self.classes[class_ids[best[row]]]
                found.append(Detection(box, float(scores[row]), kind=name if name in VEHICLE_KINDS else None))
        return found

    def _class_id(self, name: str) -> int:
        if name in self.classes:
            return self.classes.index(name)
        if name.isdecimal() and int(name) < len(self.classes):
            return int(name)
        known = f"its classes have the numbers 0 to {len(self.classes) - 1}, and no names"
        if self.classes == COCO_CLASSES:
            known = nearest(name, self.classes) if not name.isdecimal() else "COCO's classes are 0 to 79"
        raise InputError(f"the detector has no class {name!r}: {known}; or use {ANY}")

    def _letterboxed(self, image_bgr: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
        """Return the picture as detector input, float32 [1, 3, H, W], and the scale factor."""
        (width, height), (rows, columns) = self.size_wh, image_bgr.shape[:2]
        scale = min(width / columns, height / rows)
        inner_wh = max(1, int(columns * scale)), max(1, int(rows * scale))
        batch = np.full((1, 3, height, width), LETTERBOX_GRAY, np.float32)
        batch[0, :, : inner_wh[1], : inner_wh[0]] = resize(image_bgr, inner_wh, "linear").transpose(2, 0, 1)
        return batch, scale

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = self._engine.run(batch)[0]
        if not np.isfinite(rows).all():
            raise ModelError(f"{self._engine.model} returned numbers that are not finite on {self._engine.ep}")
        return rows


def open_detector(path: Path, *, ep: str = AUTO, threads: int | None = None) -> Detector:
    """Open a detector, and check its input and output against the layout.

    Args:
        path: the ONNX file.
        ep: a provider's short name, or `auto`.
        threads: threads within one inference; None for all cores that this process may use.

    Raises:
        InputError: no such file or provider.
        MissingExtraError: the provider, or ONNX Runtime itself, is not installed.
        ModelError: the file cannot be opened, or does not have this layout.
    """
    engine = open_engine(path, ep=ep, threads=threads)
    width, height = _input_size(path, engine)
    gray = np.full((1, 3, height, width), LETTERBOX_GRAY, np.float32)
    rows, cells = np.asarray(engine.run(gray)), _grid(width, height)
    if rows.dtype != np.float32 or rows.ndim != 3 or rows.shape[:2] != (1, len(cells)) or rows.shape[2] < 6:
        raise ModelError(
            f"{path} is not a YOLOX detector: it returns {rows.dtype} {list(rows.shape)}, expected float32 "
            f"[1, {len(cells)}, 5 + classes]; use an official ONNX file, from {RELEASES}"
        )
    if not np.isfinite(rows).all():
        raise ModelError(f"{path} returned numbers that are not finite on {engine.ep}")
    if rows[0, :, 2:4].max() > _LARGEST_LOG:  # of pixels, then, not of logarithms
        raise ModelError(f"{path} returns boxes that are already decoded: export it without --decode_in_inference")
    if not ((rows[0, :, 4:] >= 0) & (rows[0, :, 4:] <= 1)).all():
        raise ModelError(f"{path} returns scores outside 0 to 1: use an official ONNX file from {RELEASES}")
    count = rows.shape[2] - 5
    classes = COCO_CLASSES if count == len(COCO_CLASSES) else tuple(str(number) for number in range(count))
    return Detector((width, height), classes, engine, cells)


def _input_size(path: Path, engine: Engine) -> tuple[int, int]:
    """Return the width and height of the input, which must be the layout's."""
    inputs = engine.session.get_inputs()
    shape = list(inputs[0].shape) if len(inputs) == 1 and inputs[0].type == "tensor(float)" else []
    # The first number may be a name: a batch of any size.
    fits = len(shape) == 4 and shape[1] == 3 and (shape[0] == 1 or not isinstance(shape[0], int))
    if not fits or not all(isinstance(side, int) and 32 <= side <= _LONGEST_SIDE for side in shape[2:]):
        found = ", ".join(f"{one.type} {one.shape}" for one in inputs)
        raise ModelError(
            f"{path} is not a YOLOX detector: its input is {found}, expected tensor(float) [1, 3, H, W] with "
            f"sides of 32 to {_LONGEST_SIDE}; use an official ONNX file, from {RELEASES}"
        )
    height, width = int(shape[2]), int(shape[3])
    if width % _STRIDES[-1] or height % _STRIDES[-1]:
        raise ModelError(
            f"{path} is not a YOLOX detector: it takes {width} by {height} pixels, expected multiples of {_STRIDES[-1]}"
        )
    return width, height


def _grid(width: int, height: int) -> NDArray[np.float32]:
    """Return column, row and stride of each cell, float32 [N, 3], in the order of the output."""
    grids = []
    for stride in _STRIDES:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        grids.append(np.stack([columns.ravel(), rows.ravel(), np.full(rows.size, stride)], axis=1))
    return np.concatenate(grids).astype(np.float32)


def _decoded(rows: NDArray[np.float32], cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return boxes [N, 4] as left, top, right, bottom in pixels of the input."""
    strides = cells[:, 2:]
    centers = (np.clip(rows[:, :2], -_FARTHEST, _FARTHEST) + cells[:, :2]) * strides
    halves = np.exp(np.minimum(rows[:, 2:], _LARGEST_LOG)) * strides / 2
    return np.concatenate([centers - halves, centers + halves], axis=1)


def _pixels(box: NDArray[np.float32]) -> Box:
    left, top = np.floor(box[:2]).astype(int)
    right, bottom = np.ceil(box[2:]).astype(int)
    return int(left), int(top), int(right), int(bottom)
