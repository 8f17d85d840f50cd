"""Prototypes: mean embeddings of each class, to tell cars of known classes from all others.

A softmax has to choose among its classes, so a car of another class can still get a high probability. The similarity of
its embedding to those of known cars is a second, independent signal. The model file's metadata holds the prototypes
next to the manifest, as 8-bit integers with a scale for each class. Using them takes only numpy. A class of many images
has two prototypes, since views such as front and rear have distant embeddings. Source: nearest class means and several
centroids per class, as in Mensink et al., "Distance-Based Image Classification", 2013.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from twincar_edge.errors import InputError, ModelError, first_fault
from twincar_edge.onnx_metadata import read_metadata
from twincar_edge.records import Record

PROTOTYPES_KEY = "twincar_edge.prototypes"
PLAIN: Literal[1] = 1  # schema versions, by the content of the base64 text
COMPRESSED: Literal[2] = 2
MAX_DIMENSIONS = 16_384
MAX_CLASSES = 100_000
MAX_VALUES = 2**26  # of all prototypes together: 268 MB as float32
MAX_PER_CLASS = 64  # prototypes
MIN_GROUP = 5  # images of a separate prototype
TOWARD_MEAN = 0.5  # how far a group's mean is moved toward that of its class, which has more images
_ONE_THREAD = 262_144  # multiplications that OpenBLAS leaves to one thread
_MAX_ITERATIONS = 100  # of k-means


class _Document(Record):
    """The JSON form: int8 values in base64, class by class, and the scale that multiplies each prototype's values.

    In schema version 2, the values are compressed with zlib, to 60% of their size, and `counts` may list the number of
    prototypes of each class; None if each class has one.
    """

    schema_version: Literal[1, 2] = COMPRESSED
    dimensions: int = Field(ge=1, le=MAX_DIMENSIONS)
    scales: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1, max_length=MAX_CLASSES)]
    values: str
    counts: Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_PER_CLASS)], ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if len(self.scales) * self.dimensions > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")  # a small text can decompress to that many
        return self

    @model_validator(mode="after")
    def _counts_add_up(self) -> Self:
        if self.counts is not None and self.schema_version == PLAIN:
            raise ValueError("counts belong to schema version 2")
        if self.counts is not None and sum(self.counts) != len(self.scales):
            raise ValueError("counts and scales do not match")
        return self


@dataclass(frozen=True, eq=False)
class Prototypes:
    """Mean embeddings of each class, one or more.

    Attributes:
        means: float32 [prototypes, dimensions], means of embeddings of length 1, in the order of the model's outputs.
        counts: the number of prototypes of each class; None if each class has one.
    """

    means: NDArray[np.float32]
    counts: tuple[int, ...] | None = None

    @property
    def classes(self) -> int:
        """Return how many classes have prototypes."""
        return len(self.means) if self.counts is None else len(self.counts)

    @property
    def dimensions(self) -> int:
        """Return the length of an embedding."""
        return int(self.means.shape[1])

    def similarities(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the similarity of embeddings to each class, float32 [N, classes], at most 1.

        A similarity is 1 minus half the squared distance between the embedding, scaled to length 1, and the nearest
        prototype of the class. It would be the cosine if prototypes had length 1 too; they are shorter, more so for
        classes with a larger variance.

        Args:
            embeddings: float32 [N, dimensions], as the model returns them.
        """
        found = self._to_prototypes(embeddings)
        if self.counts is None:
            return found
        starts = np.cumsum((0, *self.counts[:-1]))
        return np.asarray(np.maximum.reduceat(found, starts, axis=1), np.float32)

    def gradients(self, embeddings: NDArray[np.float32], label: int) -> NDArray[np.float32]:
        """Return the gradient of the similarity to one class with respect to embeddings, float32 [N, dimensions]."""
        counts = self.counts or (1,) * len(self.means)
        start = sum(counts[:label])
        of_class = slice(start, start + counts[label])
        nearest = self.means[of_class][self._to_prototypes(embeddings)[:, of_class].argmax(axis=1)]
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        directions = normalized(embeddings)
        along = (nearest * directions).sum(axis=1, keepdims=True) * directions
        return np.asarray((nearest - along) / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)

    def _to_prototypes(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        # One image and few prototypes at a time: BLAS shares larger products among threads, and on a busy box the wait
        # for the other thread costs as much as the inference.
        found = np.empty((len(embeddings), len(self.means)), np.float32)
        rows = max(1, _ONE_THREAD // self.dimensions)
        parts = [slice(start, start + rows) for start in range(0, len(self.means), rows)]
        directions = normalized(embeddings)
        for number in range(len(directions)):
            one = slice(number, number + 1)
            for part in parts:
                np.matmul(directions[one], self.means[part].T, out=found[one, part])
        found += self._offsets
        return found

    @cached_property
    def _offsets(self) -> NDArray[np.float32]:
        return np.asarray(0.5 * (1 - np.square(self.means).sum(axis=1)), np.float32)

    def nearest(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the prototype nearest to each embedding, float32 [N, dimensions]."""
        return np.asarray(self.means[self._to_prototypes(embeddings).argmax(axis=1)], np.float32)

    def familiarity(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return each embedding's similarity to its nearest class, float32 [N]."""
        return np.asarray(self._to_prototypes(embeddings).max(axis=1), np.float32)

    def to_json(self) -> str:
        """Return the document for the file's metadata."""
        scales = np.abs(self.means).max(axis=1) / 127
        values = np.round(self.means / np.where(scales > 0, scales, 1)[:, None]).astype(np.int8)
        text = base64.b64encode(zlib.compress(values.tobytes(), 9)).decode("ascii")
        document = _Document(
            dimensions=self.dimensions,
            scales=tuple(scales.tolist()),
            values=text,
            counts=self.counts,
        )
        return document.model_dump_json(exclude_none=True)


def normalized(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return embeddings, float32 [N, dimensions], scaled to length 1; an all-zero one stays zero."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def class_prototypes(embeddings: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> Prototypes:
    """Return the prototypes of labeled embeddings, rounded as the model file stores them.

    K-means splits the images of a class into two groups. It starts from the two sides of their main direction, so it is
    deterministic. Each group's mean, moved halfway to that of the class, is a prototype. If a group
    would have fewer than `MIN_GROUP` images, the mean of the class is the only prototype.

    Args:
        embeddings: float32 [N, dimensions], as the model returns them.
        labels: int64 [N], the class of each.
        classes: how many classes the model has.

    Raises:
        InputError: a class has no embedding.
    """
    found = np.bincount(labels, minlength=classes)
    if not found.all():
        raise InputError(f"cannot make prototypes: {int((found == 0).sum())} of the {classes} classes have no image")
    directions = normalized(embeddings).astype(np.float64)
    of_classes = [_of_class(directions[labels == label]) for label in range(classes)]
    counts = tuple(len(of_class) for of_class in of_classes)
    table = Prototypes(np.concatenate(of_classes).astype(np.float32), counts if max(counts) > 1 else None)
    return parse_prototypes(table.to_json(), "the new table")


def _of_class(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the prototypes, float64 [1 or 2, D], of a class's embeddings of length 1, float64 [N, D]."""
    mean: NDArray[np.float64] = np.asarray(directions.mean(axis=0, keepdims=True), np.float64)
    if len(directions) < 2 * MIN_GROUP:
        return mean
    centered = directions - mean
    # Positions along the main direction, up to a scale: an eigenvector of the N x N products.
    side = np.linalg.eigh(centered @ centered.T)[1][:, -1] > 0
    for _ in range(_MAX_ITERATIONS):
        if min(side.sum(), (~side).sum()) < MIN_GROUP:
            return mean
        groups = np.stack([directions[side].mean(axis=0), directions[~side].mean(axis=0)])
        nearer = np.square(directions - groups[0]).sum(axis=1) < np.square(directions - groups[1]).sum(axis=1)
        if (nearer == side).all():
            break
        side = nearer
    return np.asarray((1 - TOWARD_MEAN) * groups + TOWARD_MEAN * mean, np.float64)


def read_prototypes(path: Path) -> Prototypes | None:
    """Return the prototypes of a model file, or None if it has none.

    Raises:
        ModelError: the file is not an ONNX model, or its prototypes are invalid.
    """
    text = read_metadata(path).get(PROTOTYPES_KEY)
    return None if text is None else parse_prototypes(text, str(path))


def parse_prototypes(text: str, where: str) -> Prototypes:
    """Validate a document of prototypes; `where` names its file in an error.

    Raises:
        ModelError: the document is invalid.
    """
    try:
        document = _Document.model_validate_json(text)
        packed = base64.b64decode(document.values, validate=True)
        size = len(document.scales) * document.dimensions
        values = np.frombuffer(packed if document.schema_version == PLAIN else _unpacked(packed, size), np.int8)
    except ValidationError as error:
        raise ModelError(f"{where} has prototypes that are not valid, at {first_fault(error)[:300]}") from error
    except (binascii.Error, zlib.error) as error:
        raise ModelError(f"{where} has prototypes that cannot be read: {error}") from error
    shape = (len(document.scales), document.dimensions)
    if values.size != shape[0] * shape[1]:
        raise ModelError(
            f"{where} has prototypes of {values.size} values, not {shape[0]} x {shape[1]}: export it again"
        )
    return Prototypes(values.reshape(shape) * np.array(document.scales, np.float32)[:, None], document.counts)


def _unpacked(packed: bytes, size: int) -> bytes:
    """Decompress at most `size` + 1 bytes, since a small text can decompress to a large one."""
    return zlib.decompressobj().decompress(packed, size + 1)
