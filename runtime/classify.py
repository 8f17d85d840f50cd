"""Classifies image files: the simplest way to use a model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twincar_edge.arguments import require_at_least
from twincar_edge.errors import InputError, Parameter
from twincar_edge.files import check_not_read, is_folder, make_folder, result_paths
from twincar_edge.images import ImageError, read_image, write_image
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
        picture: the annotated picture of the image, if one was requested and written.
        picture_problem: why the requested picture could not be written, in one line; otherwise None.
    """

    image: Path
    prediction: Prediction | None
    problem: str | None
    detection: Detection | None = None
    picture: Path | None = None
    picture_problem: str | None = None


def classify_each(
    paths: Sequence[Path],
    classifier: Classifier,
    *,
    batch: int = 16,
    recursive: bool = False,
    locator: Locator | None = None,
    annotate: Path | None = None,
) -> Iterator[ImageAnswer]:
    """Yield an answer for each image, in order, as soon as its batch is done.

    With a locator, each vehicle in an image gets its own answer, largest first.

    Args:
        paths: image files, folders and glob patterns.
        classifier: an open model.
        batch: images per model run.
        recursive: search subfolders too.
        locator: finds the vehicles in an image; None treats each image as a crop of one vehicle.
        annotate: write each readable image with its answers drawn on it into this folder, as a JPEG of the same name;
            equal names get numbers. A picture that cannot be written changes no answer.

    Raises:
        InputError: a folder or pattern matches no image, `batch` is less than 1, `annotate` cannot be created or is
            searched for images, or, at the end, no image was usable.
    """
    require_at_least(1, batch=batch)
    images = expand(list(paths), recursive=recursive)
    if not images:
        raise InputError("no images to classify: name image files, folders or patterns")
    pictures = None if annotate is None else _pictures(annotate, images, paths, recursive=recursive)
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
                answers = [ImageAnswer(path, next(predictions), None)]
            else:
                answers = list(_vehicles(path, image, locator, classifier))
            yield from answers if pictures is None else _annotated(answers, image, pictures[path])
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


def _pictures(folder: Path, images: Sequence[Path], paths: Sequence[Path], *, recursive: bool) -> dict[Path, Path]:
    """Create the folder of pictures, and return the path of each image's picture."""
    searched = {image.parent for image in set(images).difference(paths)} | {path for path in paths if is_folder(path)}
    target = Path(os.path.realpath(folder))
    for place in map(os.path.realpath, searched):  # the next run would read the pictures
        if target == Path(place) or (recursive and target.is_relative_to(place)):
            raise InputError(f"{folder} is searched for images to classify: choose another ", Parameter("annotate"))
    places = result_paths(images, folder, ".jpg")
    check_not_read(places, images, "annotate")
    make_folder(folder)
    return dict(zip(images, places, strict=True))


def _annotated(answers: list[ImageAnswer], image_bgr: NDArray[np.uint8], place: Path) -> list[ImageAnswer]:
    """Write an image with its answers drawn on it, and return the answers with the result."""
    from twincar_edge.runtime.annotating.photo import draw_answers  # imports the camera loop's view

    predictions = [answer.prediction for answer in answers if answer.prediction is not None]
    found = [answer.detection for answer in answers if answer.detection is not None]
    whole = bool(predictions) and not found
    boxes = None if whole else [detection.box_xyxy for detection in found]
    try:
        write_image(place, draw_answers(image_bgr, predictions, boxes, [detection.kind for detection in found]))
    except InputError as error:
        return [replace(answer, picture_problem=str(error)) for answer in answers]
    return [replace(answer, picture=place) for answer in answers]


def classify(paths: Sequence[Path], classifier: Classifier, *, batch: int = 16) -> list[ImageAnswer]:
    """Return the answers of `classify_each` as a list; raises the same errors."""
    return list(classify_each(paths, classifier, batch=batch))


def _read(path: Path) -> NDArray[np.uint8] | ImageError:
    try:
        return read_image(path)
    except ImageError as error:
        return error
