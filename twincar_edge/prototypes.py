"""Prototypes: the mean embedding of each class, by which a model tells cars that it was taught from all others.

A softmax has to choose among its classes, so a car of another class can still get a high probability. How near its
embedding lies to the embeddings of known cars is a second, independent opinion. The prototypes travel in the model
file's metadata beside the manifest, as 8-bit integers with a scale for each class, and numpy alone computes with them.
Source: the nearest class mean, as in Mensink et al., "Distance-Based Image Classification", 2013.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from twincar_edge.errors import InputError, ModelError, first_fault
from twincar_edge.onnx_metadata import read_metadata
from twincar_edge.records import Record

PROTOTYPES_KEY = "twincar_edge.prototypes"
SCHEMA_VERSION: Literal[1] = 1
MAX_DIMENSIONS = 16_384
MAX_CLASSES = 100_000


class _Document(Record):
    """The JSON form: int8 values in base64, class by class, and the scale that multiplies the values of each class."""

    schema_version: Literal[1] = SCHEMA_VERSION
    dimensions: int = Field(ge=1, le=MAX_DIMENSIONS)
    scales: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1, max_length=MAX_CLASSES)]
    values: str


@dataclass(frozen=True, eq=False)
class Prototypes:
    """The mean embedding of each class.

    Attributes:
        means: float32 [classes, dimensions], the means of embeddings of length 1, in the order of the model's outputs.
    """

    means: NDArray[np.float32]

    @property
    def dimensions(self) -> int:
        """Return how many numbers an embedding has."""
        return int(self.means.shape[1])

    def similarities(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how near embeddings lie to each class, float32 [N, classes], at most 1.

        A similarity is 1 less half the squared distance between the embedding, scaled to length 1, and the class mean.
        It would be their cosine if means had length 1 too; they are shorter, the more so the more a class varies.

        Args:
            embeddings: float32 [N, dimensions], as the model gives them.
        """
        return np.asarray(normalized(embeddings) @ self.means.T + self._offsets, np.float32)

    @cached_property
    def _offsets(self) -> NDArray[np.float32]:
        return np.asarray(0.5 * (1 - np.square(self.means).sum(axis=1)), np.float32)

    def familiarity(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return each embedding's similarity to its nearest class, float32 [N]."""
        return np.asarray(self.similarities(embeddings).max(axis=1), np.float32)

    def to_json(self) -> str:
        """Return the document as it stands in the file's metadata."""
        scales = np.abs(self.means).max(axis=1) / 127
        values = np.round(self.means / np.where(scales > 0, scales, 1)[:, None]).astype(np.int8)
        text = base64.b64encode(values.tobytes()).decode("ascii")
        return _Document(dimensions=self.dimensions, scales=tuple(scales.tolist()), values=text).model_dump_json()


def normalized(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return embeddings, float32 [N, dimensions], scaled to length 1; one of zeros stays as it is."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def class_means(embeddings: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> Prototypes:
    """Return the prototypes of labelled embeddings, rounded as the model file stores them.

    Args:
        embeddings: float32 [N, dimensions], as the model gives them.
        labels: int64 [N], the class of each.
        classes: how many classes the model has.

    Raises:
        InputError: a class has no embedding.
    """
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        raise InputError(f"no image of {int((counts == 0).sum())} of the {classes} classes to make a prototype of")
    sums = np.zeros((classes, embeddings.shape[1]), np.float64)
    np.add.at(sums, labels, normalized(embeddings))
    return parse_prototypes(Prototypes((sums / counts[:, None]).astype(np.float32)).to_json(), "the new table")


def read_prototypes(path: Path) -> Prototypes | None:
    """Return the prototypes of a model file, or None where it carries none.

    Raises:
        ModelError: the file is no ONNX model, or its prototypes are not valid.
    """
    text = read_metadata(path).get(PROTOTYPES_KEY)
    return None if text is None else parse_prototypes(text, str(path))


def parse_prototypes(text: str, where: str) -> Prototypes:
    """Validate a document of prototypes; `where` names its file in an error.

    Raises:
        ModelError: it is not one.
    """
    try:
        document = _Document.model_validate_json(text)
        values = np.frombuffer(base64.b64decode(document.values, validate=True), np.int8)
    except ValidationError as error:
        raise ModelError(f"{where} has prototypes that are not valid, at {first_fault(error)[:300]}") from error
    except binascii.Error as error:
        raise ModelError(f"{where} has prototypes that cannot be read: {error}") from error
    shape = (len(document.scales), document.dimensions)
    if values.size != shape[0] * shape[1]:
        raise ModelError(
            f"{where} has prototypes of {values.size} values, not {shape[0]} x {shape[1]}: export it again"
        )
    return Prototypes(values.reshape(shape) * np.array(document.scales, np.float32)[:, None])
