"""A summary of a model's held-out images, to check on the box whether enrolled classes change answers.

An answer changes only for an image that is nearer to an enrolled class than to every trained one, so the images
farthest from all trained classes change first. The file stores the embeddings of the farthest images, and of a sample
of the others, spaced evenly by distance, as 8-bit integers. Each image of the sample represents several.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from twincar_edge.enrolled import Enrolled
from twincar_edge.errors import ModelError, first_fault
from twincar_edge.onnx_metadata import read_metadata
from twincar_edge.prototypes import Prototypes, normalized, parse_prototypes
from twincar_edge.records import Record

HELD_OUT_KEY = "twincar_edge.held_out"
SCHEMA_VERSION: Literal[1] = 1
MAX_BYTES = 200_000  # of embeddings; base64 adds a third
_TURNS = 16  # away from prototypes; a class has two, and neighbors are near


class _Document(Record):
    """The JSON form: the number of images, and embeddings encoded like those of `Prototypes`, the farthest first."""

    schema_version: Literal[1] = SCHEMA_VERSION
    images: int = Field(ge=1)
    farthest: int = Field(ge=1)
    embeddings: str


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The summary.

    Attributes:
        images: the number of held-out images.
        farthest: the number of embeddings of the images farthest from all trained classes.
        embeddings: the farthest first, then the sample of the others, float32 [M, D], scaled to length 1.
    """

    images: int
    farthest: int
    embeddings: NDArray[np.float32]

    def changed(self, enrolled: Enrolled, trained: Prototypes) -> int:
        """Estimate from the sample how many of the images get an enrolled class as their answer."""
        taken = enrolled.leads(self.embeddings, trained.familiarity(self.embeddings)).max(axis=1) > 0
        sampled = len(taken) - self.farthest
        weight = (self.images - self.farthest) / sampled if sampled else 0.0
        return round(float(taken[: self.farthest].sum() + weight * taken[self.farthest :].sum()))

    def to_json(self) -> str:
        """Return the document for the file's metadata."""
        text = Prototypes(self.embeddings).to_json()
        return _Document(images=self.images, farthest=self.farthest, embeddings=text).model_dump_json()


def summarize(embeddings: NDArray[np.float32], trained: Prototypes) -> HeldOut:
    """Return the summary of held-out images.

    Args:
        embeddings: those of all images, float32 [N, D], as the model returns them.
        trained: the prototypes of the model.
    """
    size = min(len(embeddings), max(2, MAX_BYTES // embeddings.shape[1]))
    order = np.argsort(trained.familiarity(embeddings), kind="stable")
    farthest = size if size == len(order) else size // 2
    others = order[farthest:]
    sample = others[np.linspace(0, len(others) - 1, size - farthest).round().astype(np.int64)]
    return HeldOut(len(order), farthest, normalized(embeddings[[*order[:farthest], *sample]]))


def less_familiar(
    embeddings: NDArray[np.float32], trained: Prototypes, familiarity: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Move embeddings away from their nearest prototype until they have at most the given familiarity.

    For images that the model learned from, whose embeddings are nearer to their class than those of new images.
    Each embedding turns in the plane of itself and its nearest prototype; if another one is then too near, it turns
    again. Embeddings that are less familiar stay.

    Args:
        embeddings: float32 [N, D], as the model returns them.
        trained: the prototypes of the model.
        familiarity: float32 [N], for example of the same images in a model that did not learn from them.

    Returns:
        float32 [N, D], scaled to length 1.
    """
    found = normalized(embeddings)
    for _ in range(_TURNS):
        found = _turned(found, trained, familiarity)
    return found


def _turned(found: NDArray[np.float32], trained: Prototypes, familiarity: NDArray[np.float32]) -> NDArray[np.float32]:
    nearest = trained.nearest(found)
    lengths = np.linalg.norm(nearest, axis=1, keepdims=True)
    toward = normalized(nearest)
    along = (found * toward).sum(axis=1, keepdims=True)
    # Familiarity is (1 - length squared) / 2 + the product with the prototype.
    wanted = (familiarity[:, None] - 0.5 * (1 - np.square(lengths))) / np.maximum(lengths, np.finfo(np.float32).tiny)
    wanted = np.clip(np.minimum(wanted, along), -1, 1)
    across = normalized(found - along * toward)
    return np.asarray(wanted * toward + np.sqrt(1 - np.square(wanted)) * across, np.float32)


def read_held_out(path: Path) -> HeldOut | None:
    """Return the summary in a model file, or None if it has none.

    Raises:
        ModelError: the file is not an ONNX model, or the summary is invalid.
    """
    text = read_metadata(path).get(HELD_OUT_KEY)
    if text is None:
        return None
    try:
        document = _Document.model_validate_json(text)
    except ValidationError as error:
        fault = first_fault(error)[:300]
        raise ModelError(f"{path} has a summary of held-out pictures that is not valid, at {fault}") from error
    embeddings = parse_prototypes(document.embeddings, str(path)).means
    if not document.farthest <= len(embeddings) <= document.images:
        raise ModelError(f"{path} has a summary of more pictures than were held out: export it again")
    return HeldOut(document.images, document.farthest, embeddings)
