"""Measure a model's accuracy on the pictures of a data set as a camera would give them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twincar_edge.dataset_logits import Predict, dataset_logits, labels_for
from twincar_edge.datasets import Dataset
from twincar_edge.export.as_camera.conditions import CAMERA_CONDITIONS, seen_by_camera
from twincar_edge.export.as_camera.report import CameraFigures, CameraReport
from twincar_edge.export.parity.statistics import paired_difference_interval
from twincar_edge.labels import ClassMapping
from twincar_edge.metrics import top_k
from twincar_edge.preprocess import Preprocess
from twincar_edge.progress import Progress


def measure_as_camera(
    name: str,
    predict: Predict,
    dataset: Dataset,
    classes: ClassMapping,
    preprocess: Preprocess,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> CameraReport:
    """Answer every image of a data set as it is and under each of `CAMERA_CONDITIONS`, and count top-1 and top-5.

    If the data set has boxes in larger pictures, a wrong box shows the real surroundings. If pictures are already
    cropped, the pixels at their border are repeated.

    Args:
        name: what the report calls the model.
        predict: the model, an exported file or a checkpoint.
        dataset: images that are usable.
        classes: names of the model's outputs; the data set's classes are matched by name.
        preprocess: the model's own.
        batch_size: images in a batch.
        progress: called with (images done, images in all).

    Raises:
        InputError: the data set is empty, an image is unusable, or the model does not know one of its classes.
        ModelError: the model does not return [N, classes].
    """
    labels = labels_for(dataset, classes)
    total = (1 + len(CAMERA_CONDITIONS)) * len(dataset)
    done = 0

    def right_in(pictures: Dataset) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return whether the first answer is right, and whether one of the first five is: bool [N] both."""
        nonlocal done
        before = done

        def tell(within: int, _: int) -> None:
            if progress is not None:
                progress(before + within, total)

        done += len(pictures)
        logits = dataset_logits(predict, pictures, preprocess, batch_size, tell)
        right = top_k(logits, 5) == labels[:, None]
        return right[:, 0], np.asarray(right.any(axis=1), np.bool_)

    right, right5 = right_in(dataset)
    figures = []
    for condition in CAMERA_CONDITIONS:
        now, now5 = right_in(seen_by_camera(dataset, condition, preprocess))
        figures.append(
            CameraFigures(
                name=condition.name,
                top1=float(now.mean()),
                top1_change=float(now.mean() - right.mean()),
                top1_interval=paired_difference_interval(now, right),
                top5=float(now5.mean()),
                top5_change=float(now5.mean() - right5.mean()),
                top5_interval=paired_difference_interval(now5, right5),
            )
        )
    return CameraReport(
        name=name,
        dataset=dataset.name,
        images=len(dataset),
        top1=float(right.mean()),
        top5=float(right5.mean()),
        conditions=tuple(figures),
    )
