"""Enrolled classes: classes added to an exported model file from a few images each, without training.

They are not outputs of the graph. A class is the mean embedding of its images, stored in the file's metadata next to
the manifest. Numpy code adds it to the model's answer. The graph, its logits and their validation (parity, golden
inputs, calibration) stay valid.

An enrolled class leads by its similarity less the larger of two numbers: the similarity to the nearest trained class,
and its own threshold. It competes with all trained classes together, at odds of exp(lead / (LEAD_SCALE * variance)).
So an answer changes only for an image that is nearer to an enrolled class than to any trained one, and near enough.
The odds are a rule, not a calibrated probability: a few images are too few to calibrate on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from twincar_edge.errors import InputError, ModelError, first_fault
from twincar_edge.labels import ClassMapping
from twincar_edge.manifest import Familiarity, Manifest, Precision, Text
from twincar_edge.metrics import log_sum_exp
from twincar_edge.onnx_metadata import read_metadata
from twincar_edge.prototypes import Prototypes, normalized, parse_prototypes
from twincar_edge.records import Record

ENROLLED_KEY = "twincar_edge.enrolled"
SCHEMA_VERSION: Literal[1] = 1
MAX_ENROLLED = 1000
LEAD_SCALE = 0.03  # of a class's variance: at a variance of 0.35, a lead of 0.02 gives odds of 7 to 1
# The largest squared distance of a picture from the class's mean, as a share of the class's variance. The class's own
# pictures are at 1 on average, so this recognizes about six in ten of them. A larger value would name too many cars of
# other classes wrongly: docs/measurements-archive.md lists the results of other values.
REACH = 1.0
PRIOR_IMAGES = 6  # weight of the trained classes' mean variance, in images


class EnrolledClass(Record):
    """An enrolled class and its origin.

    `images` is the number of images in its mean, `source_sha256` the digest of the model file that it was enrolled
    into, `variance` the estimated mean squared distance of its pictures from their true mean, and `threshold` the
    lowest similarity of a picture that counts as this class.
    """

    name: Text
    enrolled_at: datetime
    images: int = Field(ge=1)
    source_sha256: Text
    variance: float = Field(gt=0, le=4)
    threshold: Familiarity


class _Document(Record):
    """The JSON form: the classes, and their means as a document of `Prototypes` with its digest."""

    schema_version: Literal[1] = SCHEMA_VERSION
    checkpoint_sha256: Text
    precision: Precision
    classes: Annotated[tuple[EnrolledClass, ...], Field(min_length=1, max_length=MAX_ENROLLED)]
    means: str
    means_sha256: str


@dataclass(frozen=True, eq=False)
class Enrolled:
    """The enrolled classes of a model file.

    Attributes:
        classes: in the order in which they follow the trained ones.
        means: their mean embeddings, float32 [classes, D].
    """

    classes: tuple[EnrolledClass, ...]
    means: Prototypes

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        return tuple(one.name for one in self.classes)

    def similarities(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the similarity of embeddings, float32 [N, D], to each class, float32 [N, classes].

        The expected squared distance of a mean of n images from the true mean is the variance over n. Similarities are
        corrected for that, so that a class of few images is not at a disadvantage.
        """
        correction = np.array([one.variance / (2 * one.images) for one in self.classes], np.float32)
        return np.asarray(self.means.similarities(embeddings) + correction, np.float32)

    def leads(self, embeddings: NDArray[np.float32], nearest: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the lead of each class, float32 [N, classes]; above 0, the class counts as recognized.

        Args:
            embeddings: float32 [N, D], as the model returns them.
            nearest: the similarity of each to the nearest trained class, float32 [N].
        """
        thresholds = np.array([one.threshold for one in self.classes], np.float32)
        lead = self.similarities(embeddings) - np.maximum(nearest[:, None], thresholds)
        return np.asarray(lead, np.float32)

    def extend(
        self,
        logits: NDArray[np.float32],
        familiarity: NDArray[np.float32],
        leads: NDArray[np.float32],
        temperature: float,
        threshold: float,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Extend a model's answer by these classes: logits, float32 [N, all classes], and familiarity, float32 [N].

        The logits of the trained classes stay as they are. A picture that counts as an enrolled class is as familiar
        as the model's threshold plus the class's lead, so that this class's own threshold decides.

        Args:
            logits: of the graph, float32 [N, trained classes].
            familiarity: with the trained classes, float32 [N].
            leads: as `leads` returns them.
            temperature: divides the logits before softmax.
            threshold: the lowest familiarity for a full class name.
        """
        scaled = logits.astype(np.float64) / temperature
        scales = np.array([LEAD_SCALE * one.variance for one in self.classes])
        added = temperature * (log_sum_exp(scaled) + leads / scales)
        lead = leads.max(axis=1)
        raised = np.where(lead > 0, np.minimum(1.0, np.maximum(familiarity, threshold + lead)), familiarity)
        return np.concatenate([logits, added], axis=1).astype(np.float32), raised.astype(np.float32)

    def to_json(self, manifest: Manifest) -> str:
        """Return the document for the metadata of the file with this manifest."""
        means = self.means.to_json()
        return _Document(
            checkpoint_sha256=manifest.training.checkpoint_sha256,
            precision=manifest.precision,
            classes=self.classes,
            means=means,
            means_sha256=hashlib.sha256(means.encode()).hexdigest(),
        ).model_dump_json()


def learn_class(
    name: str,
    embeddings: NDArray[np.float32],
    trained: Prototypes,
    *,
    enrolled_at: datetime,
    source_sha256: str,
    reach: float = REACH,
) -> Enrolled:
    """Make a class from a few images.

    The variance of a few images is a poor estimate, so it is averaged with that of the trained classes, which has the
    weight of `PRIOR_IMAGES` images.

    Args:
        name: the class name.
        embeddings: those of its images, float32 [N, D], as the model returns them.
        trained: the model's prototypes.
        enrolled_at: the time of enrollment.
        source_sha256: the digest of the model file that it is enrolled into.
        reach: see `REACH`.
    """
    unit = normalized(embeddings)
    mean = unit.mean(axis=0, keepdims=True)
    # Embeddings have length 1, so a class's variance is 1 less the squared length of its mean.
    prior = float(1 - np.square(trained.means).sum(axis=1).mean())
    spread = float(np.square(unit - mean).sum())
    variance = max((PRIOR_IMAGES * prior + spread) / (PRIOR_IMAGES + len(unit) - 1), 1e-3)
    about = EnrolledClass(
        name=name,
        enrolled_at=enrolled_at,
        images=len(unit),
        source_sha256=source_sha256,
        variance=variance,
        threshold=max(-2.0, 1 - reach * variance / 2),
    )
    return Enrolled((about,), Prototypes(np.asarray(mean, np.float32)))


def join(parts: list[Enrolled]) -> Enrolled | None:
    """Merge several tables into one, with means rounded as a file stores them; None if the list is empty."""
    if not parts:
        return None
    means = Prototypes(np.concatenate([part.means.means for part in parts]))
    return Enrolled(
        tuple(one for part in parts for one in part.classes), parse_prototypes(means.to_json(), "the new table")
    )


def read_enrolled(path: Path, manifest: Manifest, trained: Prototypes | None) -> Enrolled | None:
    """Return the enrolled classes of a model file, or None where it has none.

    Args:
        path: the model file.
        manifest: the file's manifest.
        trained: the file's prototypes.

    Raises:
        ModelError: the file is not an ONNX model, or its enrolled classes are invalid or belong to another model.
    """
    text = read_metadata(path).get(ENROLLED_KEY)
    return None if text is None else parse_enrolled(text, manifest, trained, str(path))


def parse_enrolled(text: str, manifest: Manifest, trained: Prototypes | None, where: str) -> Enrolled:
    """Validate a document of enrolled classes; `where` names its file in an error.

    Raises:
        ModelError: the document is invalid, or belongs to another model than the manifest.
    """
    try:
        document = _Document.model_validate_json(text)
    except ValidationError as error:
        raise ModelError(f"{where} has enrolled classes that are not valid, at {first_fault(error)[:300]}") from error
    if hashlib.sha256(document.means.encode("utf-8", "surrogatepass")).hexdigest() != document.means_sha256:
        raise ModelError(f"{where} has enrolled classes whose means are damaged: enroll them again")
    if (document.checkpoint_sha256, document.precision) != (manifest.training.checkpoint_sha256, manifest.precision):
        raise ModelError(f"{where} has classes that were enrolled into another model: enroll them into this one")
    means = parse_prototypes(document.means, where)
    if len(means.means) != len(document.classes):
        raise ModelError(
            f"{where} has {len(document.classes)} enrolled classes and {len(means.means)} means: enroll them again"
        )
    if trained is None or means.dimensions != trained.dimensions:
        raise ModelError(f"{where} has enrolled classes that do not fit its prototypes: enroll them again")
    found = Enrolled(document.classes, means)
    try:
        ClassMapping((*manifest.classes, *found.names))
    except InputError as error:
        raise ModelError(f"{where} has enrolled classes that are not valid: {error}") from error
    return found
