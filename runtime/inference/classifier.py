"""Classifies images, with the preprocessing, temperature and thresholds of the model's manifest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from twincar_edge.arguments import checked_arguments
from twincar_edge.bundled import default_model
from twincar_edge.errors import InputError, ModelError
from twincar_edge.labels import VehicleName
from twincar_edge.metrics import softmax
from twincar_edge.preprocess import prepare_batch
from twincar_edge.runtime.inference.answers import Hierarchy, Level, Prediction
from twincar_edge.runtime.inference.golden_check import require_golden
from twincar_edge.runtime.inference.inputs import BoxesLike, ImageLike, as_boxes, as_image_bgr
from twincar_edge.runtime.inference.providers import AUTO
from twincar_edge.runtime.inference.session import ModelSession, open_session

BATCH = 16  # images per inference; as many are decoded at a time
# Compression to a JPEG of quality 95 changes the log-odds and familiarity of nine in ten crops by less than this.
ODDS_MARGIN = 0.75
FAMILIARITY_MARGIN = 0.02
_Image = TypeVar("_Image", bound=ImageLike)


class Judgement(NamedTuple):
    """A model's output for N images: calibrated probabilities, float32 [N, classes], and familiarity, float32 [N].

    The familiarity is None if the model file has no prototypes.
    """

    probabilities: NDArray[np.float32]
    familiarity: NDArray[np.float32] | None

    def rows(self) -> Iterator[tuple[NDArray[np.float32], float | None]]:
        """Yield each image's probabilities, float32 [classes], and familiarity."""
        familiarity = [None] * len(self.probabilities) if self.familiarity is None else self.familiarity.tolist()
        yield from zip(self.probabilities, familiarity, strict=True)


class Classifier:
    """Names the car in each image.

    >>> classifier = tw.Classifier(tw.demo_model())
    >>> prediction = classifier("crop.jpg")
    >>> prediction.name, prediction.level
    ('Castor Vela Sedan 2019', 'year')
    >>> [prediction.make for prediction in classifier(["crop.jpg", "other.jpg"])]
    ['Castor', 'Pollux']
    >>> [prediction.name for prediction in classifier("street.jpg", boxes=[[110, 82, 479, 243]])]
    ['Castor Vela Sedan 2019']

    A classifier is thread-safe. It can be pickled: another process opens its file again.

    Attributes:
        session: the open model.
        manifest: the metadata of the model file: classes, preprocessing, thresholds.
        hierarchy: the classes by model and make, including enrolled ones.
    """

    @checked_arguments
    def __init__(
        self,
        model: str | Path | ModelSession | None = None,
        *,
        ep: str | None = None,
        threads: int | None = None,
        verify: bool = True,
    ) -> None:
        """Open a model.

        Args:
            model: an .onnx file that `twincar_edge.export` wrote; None for the bundled model of 196 cars. An open
                session is used as it is.
            ep: the execution provider, such as "cpu", "cuda" or "openvino"; None for the best usable one.
            threads: CPU threads of one inference; None for all usable cores.
            verify: run the file's golden inputs first, as `watch` does, and refuse a model whose answers on this
                machine differ from those at export. This costs one inference of a few images: 20 ms for the bundled
                model on two cores. A file without golden inputs passes.

        Raises:
            InputError: the file or provider does not exist, or the provider cannot be used.
            ModelError: the file is not a model of this project, is damaged, or fails the check.
            MissingExtraError: ONNX Runtime is not installed.
        """
        if isinstance(model, ModelSession):
            if ep is not None or threads is not None:
                raise InputError("ep and threads cannot change an open session: pass them to open_session")
            self.session = model
        else:
            # Spinning threads would take CPU time from the caller's detector and decoder.
            path = default_model() if model is None else Path(model)
            self.session = open_session(path, ep=ep or AUTO, threads=threads, spinning=False)
            if verify:
                require_golden(self.session)
        self.manifest = self.session.manifest
        self.hierarchy = Hierarchy(self.session.classes)

    def __reduce__(self) -> tuple[Callable[..., Classifier], tuple[Path, str, str, int]]:
        """Pickle the file's path and digest, its provider and threads, since a session of ONNX Runtime cannot be."""
        session = self.session
        return _reopened, (session.model.absolute(), session.sha256, session.ep, session.threads)

    @overload
    def __call__(self, images: ImageLike, *, boxes: None = None) -> Prediction: ...
    @overload
    def __call__(self, images: list[ImageLike] | tuple[ImageLike, ...], *, boxes: None = None) -> list[Prediction]: ...
    @overload
    def __call__(self, images: list[_Image], *, boxes: None = None) -> list[Prediction]: ...
    @overload
    def __call__(self, images: ImageLike, *, boxes: BoxesLike) -> list[Prediction]: ...

    def __call__(
        self, images: ImageLike | list[_Image] | tuple[_Image, ...], *, boxes: BoxesLike | None = None
    ) -> Prediction | list[Prediction]:
        """Name the car in an image, in each of several images, or in each box of an image.

        Args:
            images: one image, or a list or tuple of them. An image is a path (str or Path); an array uint8 [H, W, 3] in
                BGR as OpenCV reads it, [H, W, 4] in BGRA, or [H, W] gray; a PIL image; or the bytes of an encoded
                image. EXIF orientation is applied, alpha dropped. Images are read 16 at a time, so that a long list of
                paths needs no more memory than a short one.
            boxes: vehicles in the one image, from any detector: [N, 4] numbers (left, top, right, bottom in pixels), a
                `supervision.Detections`, or an ultralytics `Results`. Boxes are clipped to the image and cut out
                without a margin, exactly as the camera loop cuts out what its detector found.

        Returns:
            A `Prediction` for one image; a list of them, in order, for several images or for boxes.

        Raises:
            InputError: an image cannot be read or has another shape or type; a box is not finite, is empty, or is
                outside the image.
            ModelError: the model fails.
        """
        answers = [answer for batch in _batches(images, boxes) for answer in self.predict(batch)]
        return answers if isinstance(images, list | tuple) or boxes is not None else answers[0]

    @overload
    def embed(
        self, images: ImageLike | list[ImageLike] | tuple[ImageLike, ...], *, boxes: BoxesLike | None = None
    ) -> NDArray[np.float32]: ...
    @overload
    def embed(self, images: list[_Image]) -> NDArray[np.float32]: ...

    def embed(
        self, images: ImageLike | list[_Image] | tuple[_Image, ...], *, boxes: BoxesLike | None = None
    ) -> NDArray[np.float32]:
        """Return the embeddings of images: the features before the network's last layer, to compare or group cars.

        They come out of the network as they are; divide each row by its length for cosine similarities.

        >>> classifier = tw.Classifier()
        >>> classifier.embed(["crop.jpg", "other.jpg"]).shape
        (2, 1280)

        Args:
            images: one image, or a list or tuple of them, as for calling the classifier.
            boxes: vehicles in the one image, as for calling the classifier.

        Returns:
            float32 [N, D], one row per image or box, in order; N is 1 for one image.

        Raises:
            InputError: an image or box cannot be used.
            ModelError: the model file has no embedding output, or the model fails.
        """
        width, height = self.manifest.preprocess.size_wh
        batches = (prepare_batch(batch, self.manifest.preprocess) for batch in _batches(images, boxes))
        found = [self.session.embed(batch) for batch in batches]
        return np.concatenate(found) if found else self.session.embed(np.zeros((1, height, width, 3), np.uint8))[:0]

    def logits(self, images_bgr: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return the graph's logits, float32 [N, trained classes], for N images, uint8 [H, W, 3] each, of any size."""
        return self.session.run(prepare_batch(images_bgr, self.manifest.preprocess))

    def probabilities(self, images_bgr: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return calibrated probabilities, float32 [N, classes]."""
        return self.judge(images_bgr).probabilities

    def judge(self, images_bgr: Sequence[NDArray[np.uint8]]) -> Judgement:
        """Return the probabilities and familiarity of N images, in one batch."""
        return self.judge_prepared(prepare_batch(images_bgr, self.manifest.preprocess))[0]

    def judge_prepared(
        self, batch_nhwc: NDArray[np.uint8], *, embed: bool = False
    ) -> tuple[Judgement, NDArray[np.float32] | None]:
        """Return the same as `judge` for a batch from `prepare_batch`, and with `embed` the embeddings of the same run.

        The embeddings are float32 [N, D]; None without `embed`, or if the file has no such output.
        """
        embeddings = None
        if embed:
            logits, embeddings = self.session.outputs(batch_nhwc)
            logits, familiarity = self.session.judge_outputs(logits, embeddings)
        else:
            logits, familiarity = self.session.judge(batch_nhwc)
        return Judgement(softmax(logits, self.manifest.temperature), familiarity), embeddings

    def predict(self, images_bgr: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Return one `Prediction` for each of N images, uint8 [H, W, 3], in one batch."""
        rows = self.judge(images_bgr).rows()
        return [self.answer(*row, size_px=min(image.shape[:2])) for row, image in zip(rows, images_bgr, strict=True)]

    def answer(
        self,
        probabilities: NDArray[np.float32],
        familiarity: float | None = None,
        *,
        size_px: int | None = None,
        allowed: Callable[[Level, VehicleName], bool] | None = None,
        margin: float = 0.0,
    ) -> Prediction:
        """Turn one row of probabilities, float32 [classes], into a `Prediction` by the model's own thresholds.

        Args:
            probabilities: the probability of each class.
            familiarity: the picture's familiarity; if it is None, probability alone decides.
            size_px: the picture's shorter side. A picture that is too small for a full name does not get one.
            allowed: returns whether a name of a level may be the answer; None allows all names.
            margin: raises the thresholds by this multiple of the change that compression may cause; a negative margin
                lowers them.
        """
        record = self.manifest.familiarity
        full = self.names_in_full(size_px)

        def is_allowed(level: Level, vehicle: VehicleName) -> bool:
            return (full or level != "year") and (allowed is None or allowed(level, vehicle))

        return self.hierarchy.answer(
            probabilities,
            _shifted(self.manifest.reject_below, margin * ODDS_MARGIN),
            None if familiarity is None else familiarity - margin * FAMILIARITY_MARGIN,
            None if record is None else record.thresholds,
            is_allowed,
        )

    def names_in_full(self, size_px: int | None) -> bool:
        """Return whether a picture with this shorter side is large enough for a full name; None counts as large."""
        sizes = self.manifest.crop_sizes
        return sizes is None or size_px is None or size_px >= sizes.minimum_px


def _reopened(model: Path, sha256: str, ep: str, threads: int) -> Classifier:
    session = open_session(model, ep=ep, threads=threads)
    if session.sha256 != sha256:
        raise ModelError(f"{model} has changed since the classifier was created: create it again")
    return Classifier(session)


def _shifted(probability: float, log_odds: float) -> float:
    odds = math.exp(log_odds)
    return probability * odds / (1 - probability + probability * odds)


def _batches(
    images: ImageLike | list[_Image] | tuple[_Image, ...], boxes: BoxesLike | None
) -> Iterator[list[NDArray[np.uint8]]]:
    """Read images, or the boxes of one image, in batches."""
    if not isinstance(images, list | tuple):
        image_bgr = as_image_bgr(images)
        height, width = image_bgr.shape[:2]
        corners = [(0, 0, width, height)] if boxes is None else as_boxes(boxes, (width, height))
        for start in range(0, len(corners), BATCH):
            yield [image_bgr[top:bottom, left:right] for left, top, right, bottom in corners[start : start + BATCH]]
        return
    if boxes is not None:
        raise InputError("boxes belong to one image: call the classifier once for each image")
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        yield [as_image_bgr(image, f"images[{start + index}]") for index, image in enumerate(batch)]
