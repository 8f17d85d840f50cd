"""Names the car in image files: the simplest way to use a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError
from twincar_edge.images import ImageError, read_image
from twincar_edge.runtime.inference.answers import Prediction
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.sources.images import expand


@dataclass(frozen=True)
class ImageAnswer:
    """One image file's answer: `prediction`, or the `problem` that kept the image from being read, in one line."""

    image: Path
    prediction: Prediction | None
    problem: str | None


def classify_each(
    paths: Sequence[Path], classifier: Classifier, *, batch: int = 16, recursive: bool = False
) -> Iterator[ImageAnswer]:
    """Give the answers in the order of the images, as they come, `batch` images at once through the model.

    Args:
        paths: image files, folders and glob patterns.
        classifier: an open model.
        batch: images at once.
        recursive: search folders with their subfolders.

    Raises:
        InputError: a folder or pattern holds no image, `batch` is less than 1, or, at the end, no image was usable.
    """
    if batch < 1:
        raise InputError(f"a batch holds 1 image or more, found {batch}")
    images = expand(list(paths), recursive=recursive)
    if not images:
        raise InputError("no image to classify: name image files, folders or patterns")
    problem = None
    usable = 0
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        read = [_read(path) for path in part]
        predictions = iter(classifier.predict([image for image in read if not isinstance(image, ImageError)]))
        for path, image in zip(part, read, strict=True):
            if isinstance(image, ImageError):
                problem = str(image)
                yield ImageAnswer(path, None, problem)
            else:
                usable += 1
                yield ImageAnswer(path, next(predictions), None)
    if not usable:
        others = f", and {len(images) - 1} more are unusable" if len(images) > 1 else ""
        raise InputError(f"{problem}{others}")


def classify(paths: Sequence[Path], classifier: Classifier, *, batch: int = 16) -> list[ImageAnswer]:
    """Return all answers of `classify_each`, which says what is raised."""
    return list(classify_each(paths, classifier, batch=batch))


def _read(path: Path) -> NDArray[np.uint8] | ImageError:
    try:
        return read_image(path)
    except ImageError as error:
        return error
