"""How small a crop may be for a full name: the held-out images, shrunk step by step and answered as a box answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from twincar_edge.dataset_logits import labels_for
from twincar_edge.datasets import Dataset
from twincar_edge.export.confidence.calibrate import FEW_IMAGES
from twincar_edge.manifest import CropSizeFigures, CropSizesRecord
from twincar_edge.preprocess import shrink_to
from twincar_edge.progress import Progress
from twincar_edge.runtime.inference.classifier import BATCH, Classifier

SIZES_PX = (224, 160, 112, 80, 64, 48, 32)  # of the shorter side
TOLERANCE = 0.02


def measure_crop_sizes(
    classifier: Classifier, dataset: Dataset, progress: Progress | None = None
) -> CropSizesRecord | None:
    """Return what full names are worth by crop size, and the least size that supports them.

    Args:
        classifier: the exported file; a record of sizes that it already has plays no part.
        dataset: labelled images that it was not trained on.
        progress: called with (images done, images in all).

    Returns:
        None where fewer than `FEW_IMAGES` images get a full name: one more that is wrong would move the limit.

    Raises:
        InputError: an image is unusable, or of a class that the model does not know.
        ModelError: the model fails.
    """
    if len(dataset) < FEW_IMAGES:
        return None
    labels = labels_for(dataset, classifier.manifest.class_mapping)
    full = np.full(len(dataset), -1, np.int64)
    told = {px: full.copy() for px in SIZES_PX}

    def answer(images: Sequence[NDArray[np.uint8]], into: NDArray[np.int64]) -> None:
        answers = [classifier.answer(*row) for row in classifier.judge(images).rows()]
        into[:] = [-1 if one.label is None else one.label for one in answers]

    for start in range(0, len(dataset), BATCH):
        images = [sample.read() for sample in dataset.samples[start : start + BATCH]]
        part = slice(start, start + len(images))
        answer(images, full[part])
        for px, found in told.items():
            answer([shrink_to(image, px) for image in images], found[part])
        if progress is not None:
            progress(part.stop, len(dataset))
    if (full >= 0).sum() < FEW_IMAGES:
        return None
    coverage, right = _figures(full, labels)
    assert right is not None
    sizes = []
    for px, found in told.items():
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
    """Return the smallest size at which, and at all larger ones, full names are right within the tolerance of `right`.

    Where the largest one is not, it is that one all the same: what is larger was not measured.
    """
    ordered = sorted(sizes, key=lambda size: -size.px)
    least = ordered[0].px
    for size in ordered:
        if size.right is None or size.right < right - TOLERANCE:
            break
        least = size.px
    return least


def _figures(told: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[float, float | None]:
    named = told >= 0
    right = float((told[named] == labels[named]).mean()) if named.any() else None
    return round(float(named.mean()), 4), None if right is None else round(right, 4)
