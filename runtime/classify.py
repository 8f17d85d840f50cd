"""Classifies image files: the simplest way to use a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twincar_edge.arguments import require_at_least
from twincar_edge.errors import InputError
from twincar_edge.images import ImageError, read_image
from twincar_edge.runtime.inference.answers import Prediction
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.locating.boxes import Detection, area
from twincar_edge.runtime.locating.locate import Locator
from twincar_edge.runtime.sources import Frame
from twincar_edge.runtime.sources.images import expand


@dataclass(frozen=True)
class ImageAnswer:
    """The answer to one image file, or to one vehicle in it.

    Attributes:
        image: the file.
        prediction: the answer; None if the image cannot be read, or a detector found no vehicle in it.
        problem: why the image cannot be read, in one line; otherwise None.
        detection: where a detector found the vehicle; None for the whole image.
    """

    image: Path
    prediction: Prediction | None
    problem: str | None
    detection: Detection | None = None


def classify_each(
    paths: Sequence[Path],
    classifier: Classifier,
    *,
    batch: int = 16,
    recursive: bool = False,
    locator: Locator | None = None,
) -> Iterator[ImageAnswer]:
    """Yield an answer for each image, in order, as soon as its batch is done.

    With a locator, each vehicle in an image gets its own answer, largest first.

    Args:
        paths: image files, folders and glob patterns.
        classifier: an open model.
        batch: images per model run.
        recursive: search subfolders too.
        locator: finds the vehicles in an image; None treats each image as a crop of one vehicle.

    Raises:
        InputError: a folder or pattern matches no image, `batch` is less than 1, or, at the end, no image was usable.
    """
    require_at_least(1, batch=batch)
    images = expand(list(paths), recursive=recursive)
    if not images:
        raise InputError("no images to classify: name image files, folders or patterns")
    problem = None
    usable = 0
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        read = [_read(path) for path in part]
        crops = [] if locator is not None else [image for image in read if not isinstance(image, ImageError)]
        predictions = iter(classifier.predict(crops) if crops else ())
        for path, image in zip(part, read, strict=True):
            if isinstance(image, ImageError):
                problem = str(image)
                yield ImageAnswer(path, None, problem)
                continue
            usable += 1
            if locator is None:
                yield ImageAnswer(path, next(predictions), None)
            else:
                yield from _vehicles(path, image, locator, classifier)
    if not usable:
        others = f" ({len(images) - 1} more images are unusable too)" if len(images) > 1 else ""
        raise InputError(f"{problem}{others}")


def _vehicles(
    path: Path, image_bgr: NDArray[np.uint8], locator: Locator, classifier: Classifier
) -> Iterator[ImageAnswer]:
    """Yield an answer for each vehicle in an image, largest first, or one without a prediction if there are none."""
    detections = locator.locate(Frame(0, 0.0, image_bgr, path.name))
    detections.sort(key=lambda detection: area(detection.box_xyxy), reverse=True)
    if not detections:
        yield ImageAnswer(path, None, None)
        return
    predictions = classifier(image_bgr, boxes=[detection.box_xyxy for detection in detections])
    for detection, prediction in zip(detections, predictions, strict=True):
        yield ImageAnswer(path, classifier.hierarchy.of_kind(prediction, detection.kind), None, detection)


def classify(paths: Sequence[Path], classifier: Classifier, *, batch: int = 16) -> list[ImageAnswer]:
    """Return the answers of `classify_each` as a list; raises the same errors."""
    return list(classify_each(paths, classifier, batch=batch))


def _read(path: Path) -> NDArray[np.uint8] | ImageError:
    try:
        return read_image(path)
    except ImageError as error:
        return error
