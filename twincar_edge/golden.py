"""Golden inputs: a few drawn pictures inside the model file, and the logits that they must give on every machine.

They travel in the file's metadata beside the manifest, as one JSON document. The pictures are those that a camera would
give, of other sizes than the model's input, so that checking them runs the whole way: resize, provider, graph.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from twincar_edge.errors import ModelError, first_fault
from twincar_edge.images import ImageError, decode_image
from twincar_edge.onnx_metadata import read_metadata

GOLDEN_KEY = "twincar_edge.golden"
SCHEMA_VERSION: Literal[1] = 1
MAX_IMAGES = 64


class _Document(BaseModel):
    """The JSON form: pictures as PNG in base64, which loses nothing, and logits as numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = SCHEMA_VERSION
    images_png: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_IMAGES)]
    logits: Annotated[tuple[tuple[float, ...], ...], Field(min_length=1, max_length=MAX_IMAGES)]


@dataclass(frozen=True)
class Golden:
    """Pictures and what the model must say of them.

    Attributes:
        images_bgr: uint8 [H, W, 3] each, of any size.
        logits: float32 [N, classes].
    """

    images_bgr: tuple[NDArray[np.uint8], ...]
    logits: NDArray[np.float32]

    def to_json(self) -> str:
        """Return the document as it stands in the file's metadata."""
        pictures = tuple(
            base64.b64encode(cv2.imencode(".png", image)[1].tobytes()).decode("ascii") for image in self.images_bgr
        )
        rows = tuple(tuple(float(f"{value:.6g}") for value in row) for row in self.logits)
        return _Document(images_png=pictures, logits=rows).model_dump_json()


def read_golden(path: Path) -> Golden | None:
    """Return the golden inputs of a model file, or None where it carries none.

    Raises:
        ModelError: the file is no ONNX model, or its golden inputs are not valid.
    """
    text = read_metadata(path).get(GOLDEN_KEY)
    return None if text is None else parse_golden(text, str(path))


def parse_golden(text: str, where: str) -> Golden:
    """Validate a document of golden inputs; `where` names its file in an error.

    Raises:
        ModelError: it is not one.
    """
    try:
        document = _Document.model_validate_json(text)
    except ValidationError as error:
        raise ModelError(f"{where} has golden inputs that are not valid, at {first_fault(error)[:300]}") from error
    if len({len(row) for row in document.logits}) != 1 or len(document.logits) != len(document.images_png):
        raise ModelError(f"{where} has golden inputs that do not fit their logits: export it again")
    images = tuple(_decode(picture, where) for picture in document.images_png)
    return Golden(images, np.array(document.logits, np.float32))


def _decode(picture: str, where: str) -> NDArray[np.uint8]:
    try:
        return decode_image(base64.b64decode(picture, validate=True), "a golden input")
    except (binascii.Error, ValueError, ImageError) as error:
        raise ModelError(f"{where} has golden inputs that cannot be read: {error}") from error
