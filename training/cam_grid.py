"""A contact sheet of right and wrong answers, each with its heat map."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.datasets import Dataset
from twincar_edge.draw import GREEN, RED, Cell, Color, contact_sheet, overlay_heatmap
from twincar_edge.errors import InputError
from twincar_edge.heatmaps import to_image_geometry
from twincar_edge.images import write_image
from twincar_edge.preprocess import prepare_batch, resize
from twincar_edge.training.cam import heat_maps
from twincar_edge.training.evaluation import Evaluation
from twincar_edge.training.model import CarClassifier, cam_layer

logger = logging.getLogger(__name__)

MAX_EACH = 8  # right answers, and the same number of wrong ones
COLUMNS = 4
CELL_WH = (420, 270)  # wide enough for the longest class names of Stanford Cars
FRAME = 5  # pixels


def write_cam_grid(model: CarClassifier, dataset: Dataset, evaluation: Evaluation, path: Path) -> Path | None:
    """Draw right answers, spread over the classes, and the most confident wrong ones, with Grad-CAM++ heat maps.

    The heat map shows the evidence for the model's answer, right or wrong. The sheet is deterministic.

    Args:
        model: the evaluated model.
        dataset: the images that it was evaluated on.
        evaluation: its answers to these images.
        path: the picture, written atomically.

    Returns:
        The path, or None if the architecture has no convolutional stage, which is logged.

    Raises:
        InputError: an image is unusable, or the picture cannot be written.
        MissingExtraError: grad-cam is not installed.
    """
    try:
        cam_layer(model)
    except InputError as error:
        logger.info("no %s: %s", path.name, error)
        return None
    right, wrong = choose_right(evaluation), choose_wrong(evaluation)
    chosen = [*right, *wrong]
    images = [dataset.samples[index].read() for index in chosen]
    maps = heat_maps(model, prepare_batch(images, model.preprocess), evaluation.answers[chosen])
    cells = []
    for index, image_bgr, heat in zip(chosen, images, maps, strict=True):
        heatmap = to_image_geometry(heat, image_bgr.shape[:2], model.preprocess)
        cells.append(_cell(evaluation, index, image_bgr, heatmap))
    heading = (
        f"Grad-CAM++, evidence for the answer: {len(right)} right and the {len(wrong)} most confident wrong answers "
        f"of {evaluation.images} ({evaluation.metrics.top1:.1%} right)"
    )
    write_image(path, contact_sheet(cells, heading, COLUMNS, CELL_WH))
    return path


def choose_wrong(evaluation: Evaluation, count: int = MAX_EACH) -> list[int]:
    """Return the indices of at most `count` images with wrong answers, the most confident answer first."""
    wrong = np.flatnonzero(evaluation.answers != evaluation.labels).tolist()
    return sorted(wrong, key=lambda index: (-evaluation.confidences[index], index))[:count]


def choose_right(evaluation: Evaluation, count: int = MAX_EACH) -> list[int]:
    """Return the indices of at most `count` images with right answers, in class order.

    Takes the most confident answer of each of `count` evenly spaced classes. With fewer classes, takes the next most
    confident answers of each in turn.
    """
    right = np.flatnonzero(evaluation.answers == evaluation.labels).tolist()
    rank: Counter[int] = Counter()
    ranked = []
    for index in sorted(right, key=lambda index: (-evaluation.confidences[index], index)):
        label = int(evaluation.labels[index])
        ranked.append((rank[label], label, index))
        rank[label] += 1
    ranked.sort()
    if len(rank) > count:
        places = np.linspace(0, len(rank) - 1, count).round().astype(int)
        ranked = [ranked[place] for place in places]  # the first answer of each class comes first
    return [index for _, _, index in sorted(ranked[:count], key=lambda entry: (entry[1], entry[0]))]


def _cell(evaluation: Evaluation, index: int, image_bgr: NDArray[np.uint8], heatmap: NDArray[np.float32]) -> Cell:
    label, answer = int(evaluation.labels[index]), int(evaluation.answers[index])
    confidence = f"{evaluation.confidences[index]:.0%}"
    truth = evaluation.classes[label]
    if label == answer:
        return Cell(_framed(image_bgr, heatmap, GREEN), truth, f"right, {confidence}", GREEN)
    return Cell(_framed(image_bgr, heatmap, RED), truth, f"answered {confidence}: {evaluation.classes[answer]}", RED)


def _framed(image_bgr: NDArray[np.uint8], heatmap: NDArray[np.float32], color: Color) -> NDArray[np.uint8]:
    """Return the framed image with its heat map, resized to the cell first, so that all frames are equally thick."""
    scale = min((side - 2 * FRAME) / size for side, size in zip(CELL_WH, image_bgr.shape[1::-1], strict=True))
    width, height = (max(1, round(size * scale)) for size in image_bgr.shape[1::-1])
    picture = overlay_heatmap(resize(image_bgr, (width, height), "cubic" if scale > 1 else "area"), heatmap)
    framed = cv2.copyMakeBorder(picture, FRAME, FRAME, FRAME, FRAME, cv2.BORDER_CONSTANT, value=color)
    return np.asarray(framed, np.uint8)
