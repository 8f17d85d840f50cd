"""Finds the minimum crop size for a full name: classifies held-out images at decreasing sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from twincar_edge.dataset_logits import labels_for
from twincar_edge.datasets import Dataset
from twincar_edge.export.confidence.calibrate import FEW_IMAGES
from twincar_edge.manifest import CropSizeFigures, CropSizesRecord
from twincar_edge.metrics import at_least
from twincar_edge.preprocess import shrink_to
from twincar_edge.progress import Progress
from twincar_edge.runtime.inference.classifier import BATCH, Classifier

SIZES_PX = (224, 160, 112, 80, 64, 48, 32)  # of the shorter side
TOLERANCE = 0.02


def measure_crop_sizes(
    classifier: Classifier, dataset: Dataset, progress: Progress | None = None
) -> CropSizesRecord | None:
    """Return coverage and accuracy of full names by crop size, and the minimum size.

    Args:
        classifier: the exported file; crop sizes in its manifest are ignored.
        dataset: labeled images that were not used for training.
        progress: called with (images done, total images).

    Returns:
        None if fewer than `FEW_IMAGES` images get a full name: single errors would then change the result.

    Raises:
        InputError: an image is unusable, or its class is not one of the model's.
        ModelError: inference fails.
    """
    if len(dataset) < FEW_IMAGES:
        return None
    labels = labels_for(dataset, classifier.manifest.class_mapping)
    full = np.full(len(dataset), -1, np.int64)
    answers_by_size = {px: full.copy() for px in SIZES_PX}

    def answer(images: Sequence[NDArray[np.uint8]], into: NDArray[np.int64]) -> None:
        answers = [classifier.answer(*row) for row in classifier.judge(images).rows()]
        into[:] = [-1 if one.label is None else one.label for one in answers]

    for start in range(0, len(dataset), BATCH):
        images = [sample.read() for sample in dataset.samples[start : start + BATCH]]
        part = slice(start, start + len(images))
        answer(images, full[part])
        for px, found in answers_by_size.items():
            answer([shrink_to(image, px) for image in images], found[part])
        if progress is not None:
            progress(part.stop, len(dataset))
    if (full >= 0).sum() < FEW_IMAGES:
        return None
    coverage, right = _figures(full, labels)
    assert right is not None
    sizes = []
    for px, found in answers_by_size.items():
        covered, named_right = _figures(found, labels)
        sizes.append(CropSizeFigures(px=px, coverage=covered, right=named_right))
    return CropSizesRecord(
        minimum_px=least_size(sizes, right),
        tolerance=TOLERANCE,
        images=len(dataset),
        coverage=coverage,
        right=right,
        sizes=tuple(sizes),
    )


def least_size(sizes: Sequence[CropSizeFigures], right: float) -> int:
    """Return the smallest size such that accuracy is within the tolerance of `right` there and at all larger sizes.

    Returns the largest size if even that is not within the tolerance.
    """
    ordered = sorted(sizes, key=lambda size: -size.px)
    least = ordered[0].px
    for size in ordered:
        if size.right is None or not at_least(size.right, right - TOLERANCE):
            break
        least = size.px
    return least


def _figures(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[float, float | None]:
    named = answers >= 0
    right = float((answers[named] == labels[named]).mean()) if named.any() else None
    return round(float(named.mean()), 4), None if right is None else round(right, 4)
