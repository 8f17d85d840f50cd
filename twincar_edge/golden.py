"""Golden inputs: a few synthetic images inside the model file, with the results expected on every machine.

They are one JSON document in the file's metadata, next to the manifest. The images look like camera crops and differ in
size from the model's input, so that the check covers the whole path: resize, provider, graph. Each has two expected
results: some pixels of the model's input, which reveal a wrong resize or color order, and the logits (and the
embedding, if the model has one), which reveal a wrong graph or provider. Logits alone are not enough: with INT8, the
effect of another interpolation is smaller than the accepted difference between two CPUs.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from twincar_edge.errors import ModelError, first_fault
from twincar_edge.images import ImageError, decode_image
from twincar_edge.onnx_metadata import read_metadata
from twincar_edge.records import Record

GOLDEN_KEY = "twincar_edge.golden"
SCHEMA_VERSION: Literal[1] = 1
MAX_IMAGES = 64
# Far above what an export writes: 200,000 pixels and, for a model of 1,000 classes, 350 KB.
MAX_PIXELS = 4_000_000  # of all images together
MAX_DOCUMENT_BYTES = 8 * 2**20
_EMBEDDING_TYPE = np.dtype("<f2")
SAMPLED_PIXELS = 251  # a prime, so that samples cover all columns at any width


class _Document(Record):
    """The JSON form: pictures as PNG, pixels as bytes and embeddings as float16, all in base64; logits as numbers."""

    schema_version: Literal[1] = SCHEMA_VERSION
    images_png: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_IMAGES)]
    pixels: str
    logits: Annotated[tuple[Annotated[tuple[float, ...], Field(min_length=1)], ...], Field(max_length=MAX_IMAGES)]
    embeddings: str | None = None


@dataclass(frozen=True)
class Golden:
    """Images, with the expected result of the resize and the expected answers of the model.

    Attributes:
        images_bgr: uint8 [H, W, 3] each, of any size.
        pixels: uint8 [N, SAMPLED_PIXELS, 3], the result of `sample_pixels` on the model's input.
        logits: float32 [N, classes].
        embeddings: float32 [N, D], scaled to length 1; None for a model without an embedding output.
    """

    images_bgr: tuple[NDArray[np.uint8], ...]
    pixels: NDArray[np.uint8]
    logits: NDArray[np.float32]
    embeddings: NDArray[np.float32] | None = None

    def to_json(self) -> str:
        """Return the document for the file's metadata."""
        rows = tuple(tuple(float(f"{value:.6g}") for value in row) for row in self.logits)
        pictures = tuple(_encode(image) for image in self.images_bgr)
        pixels = base64.b64encode(self.pixels.tobytes()).decode("ascii")
        embeddings = None
        if self.embeddings is not None:
            embeddings = base64.b64encode(self.embeddings.astype(_EMBEDDING_TYPE).tobytes()).decode("ascii")
        document = _Document(images_png=pictures, pixels=pixels, logits=rows, embeddings=embeddings)
        return document.model_dump_json(exclude_none=True)


def sample_pixels(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return sample pixels of each image that reveal its resize: uint8 [N, H, W, 3] to [N, SAMPLED_PIXELS, 3]."""
    flat = batch_nhwc.reshape(len(batch_nhwc), -1, 3)
    return flat[:, np.linspace(0, flat.shape[1] - 1, SAMPLED_PIXELS).astype(np.int64)]


def read_golden(path: Path) -> Golden | None:
    """Return the golden inputs of a model file, or None if it has none.

    Raises:
        ModelError: the file is not an ONNX model, or its golden inputs are invalid.
    """
    text = read_metadata(path).get(GOLDEN_KEY)
    return None if text is None else parse_golden(text, str(path))


def parse_golden(text: str, where: str) -> Golden:
    """Validate a document of golden inputs; `where` names its file in an error.

    Raises:
        ModelError: the document is invalid.
    """
    if len(text) > MAX_DOCUMENT_BYTES:
        raise ModelError(f"{where} has golden inputs larger than {MAX_DOCUMENT_BYTES >> 20} MiB: export it again")
    try:
        document = _Document.model_validate_json(text)
    except ValidationError as error:
        raise ModelError(f"{where} has golden inputs that are not valid, at {first_fault(error)[:300]}") from error
    try:
        images = _pictures(document.images_png)
        pixels = np.frombuffer(_bytes(document.pixels), np.uint8)
        packed = b"" if document.embeddings is None else _bytes(document.embeddings)
    except (binascii.Error, ImageError) as error:
        raise ModelError(f"{where} has golden inputs that cannot be read: {error}") from error
    shape = (len(images), SAMPLED_PIXELS, 3)
    if len({len(row) for row in document.logits}) != 1 or len(document.logits) != len(images):
        raise ModelError(f"{where} has golden inputs that do not fit their logits: export it again")
    if pixels.size != np.prod(shape):
        raise ModelError(f"{where} has golden inputs that do not fit their pixels: export it again")
    logits = np.array(document.logits, np.float64)
    if np.abs(logits).max(initial=0.0) > np.finfo(np.float32).max:
        raise ModelError(f"{where} has golden inputs with logits that are out of range: export it again")
    return Golden(
        images,
        pixels.reshape(shape),
        logits.astype(np.float32),
        None if document.embeddings is None else _embeddings(packed, len(images), where),
    )


def _pictures(images_png: Iterable[str]) -> tuple[NDArray[np.uint8], ...]:
    images: list[NDArray[np.uint8]] = []
    left = MAX_PIXELS
    for picture in images_png:
        images.append(decode_image(_bytes(picture), "a golden input", max_pixels=left))
        left -= images[-1].shape[0] * images[-1].shape[1]
    return tuple(images)


def _embeddings(packed: bytes, images: int, where: str) -> NDArray[np.float32]:
    if not packed or len(packed) % (images * _EMBEDDING_TYPE.itemsize):
        raise ModelError(f"{where} has golden inputs that do not fit their embeddings: export it again")
    embeddings = np.frombuffer(packed, _EMBEDDING_TYPE).astype(np.float32).reshape(images, -1)
    if not np.isfinite(embeddings).all():
        raise ModelError(f"{where} has golden embeddings that are not finite: export it again")
    return embeddings


def _encode(image_bgr: NDArray[np.uint8]) -> str:
    # The highest compression makes the file a quarter smaller, and decoding is not slower.
    done, data = cv2.imencode(".png", image_bgr, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done  # PNG can encode any uint8 image
    return base64.b64encode(data.tobytes()).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
