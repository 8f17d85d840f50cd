"""Annotates single images: each vehicle with its answer, for `classify --annotate` and for Python users."""

from __future__ import annotations

from collections.abc import Sequence

from twincar_edge.draw import PALETTE, draw_box, fit_into, type_size
from twincar_edge.errors import InputError, Parameter, one_line
from twincar_edge.runtime.annotating.picture import MIN_LONG_SIDE, Image, Labels, enlarged, line_width
from twincar_edge.runtime.inference.answers import Prediction, certainty
from twincar_edge.runtime.inference.inputs import BoxesLike, ImageLike, as_boxes, as_image_bgr
from twincar_edge.runtime.locating.boxes import Box

MAX_LONG_SIDE = 4096  # pixels: larger images are shrunk, to limit memory and the size of the file


def annotate(image: ImageLike, predictions: Prediction | Sequence[Prediction], boxes: BoxesLike | None = None) -> Image:
    """Draw the answers of a `Classifier` on their image: names, probabilities and boxes.

    >>> classifier = tw.Classifier(tw.demo_model())
    >>> boxes = [[110, 82, 479, 243]]
    >>> picture = tw.annotate("street.jpg", classifier("street.jpg", boxes=boxes), boxes)
    >>> cv2.imwrite("named.jpg", picture)
    True

    Args:
        image: the image that was classified: a path, encoded bytes, an array or a PIL image, as for `Classifier`.
        predictions: one per box; without boxes the one of the whole image.
        boxes: the boxes that were classified; None for the whole image.

    Returns:
        A new picture, uint8 [H, W, 3] in BGR. An image whose longer side is below 640 pixels is enlarged by a whole
        factor, one above 4096 pixels is shrunk.

    Raises:
        InputError: the image or a box cannot be used, or there is not one prediction per box.
    """
    image_bgr = as_image_bgr(image)
    size_wh = (image_bgr.shape[1], image_bgr.shape[0])
    found = None if boxes is None else as_boxes(boxes, size_wh)
    given = [predictions] if isinstance(predictions, Prediction) else predictions
    if not isinstance(given, list | tuple) or not all(isinstance(one, Prediction) for one in given):
        kind = "a list of something else" if isinstance(given, list | tuple) else type(predictions).__name__
        raise InputError(Parameter("predictions"), f": expected a Prediction or a list of them, found {kind}")
    if len(given) != (1 if found is None else len(found)):
        wanted = "1, for the whole image" if found is None else f"{len(found)}, one per box"
        raise InputError(Parameter("predictions"), f": expected {wanted}, found {len(given)}")
    return draw_answers(image_bgr, given, found)


def draw_answers(
    image_bgr: Image, predictions: Sequence[Prediction], boxes: Sequence[Box] | None, kinds: Sequence[str | None] = ()
) -> Image:
    """Return a new picture as `annotate` does, of arguments that fit together.

    Args:
        image_bgr: uint8 [H, W, 3].
        predictions: one per box, or one.
        boxes: in pixels of the image; None for the whole image.
        kinds: the detector's class of each vehicle; empty if unknown.
    """
    rows, columns = image_bgr.shape[:2]
    shrinks = max(rows, columns) > MAX_LONG_SIDE
    image = fit_into(image_bgr, (MAX_LONG_SIDE, MAX_LONG_SIDE)) if shrinks else enlarged(image_bgr, MIN_LONG_SIDE)[0]
    scale = max(image.shape) / max(rows, columns)
    size = type_size(image)
    places = [_scaled(box, scale) for box in boxes or ()]
    colors = [PALETTE[number % len(PALETTE)] for number in range(len(predictions))]
    for box, color in zip(places, colors, strict=False):
        draw_box(image, box, color, line_width(size))
    labels = Labels(image, size)
    whole = (0, 0, image.shape[1], image.shape[0])
    vehicles = zip(
        predictions, places if boxes is not None else [whole], kinds or [None] * len(predictions), colors, strict=True
    )
    for prediction, box, kind, color in sorted(vehicles, key=lambda one: one[1][3], reverse=True):  # the nearest first
        labels.add_to_box(_label_of(prediction, kind), box, color)
    labels.draw()
    return image


def _label_of(prediction: Prediction, kind: str | None) -> list[str]:
    """Return the answer, with the kind of a vehicle that is not a car, and how certain it is."""
    name = one_line(prediction.name) if kind in (None, "car") else f"{one_line(prediction.name)} ({kind})"
    return [name, one_line(certainty(prediction))]


def _scaled(box: Box, scale: float) -> Box:
    left, top, right, bottom = (round(edge * scale) for edge in box)
    return left, top, max(right, left + 1), max(bottom, top + 1)
