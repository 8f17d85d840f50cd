"""The validation model: answers held-out images in place of a model that was trained on all images.

It comes from a training by the same recipe that held images out, such as a fold of a cross-validation. Temperature and
thresholds that fit its answers are used for the model that was trained on everything, whose own answers to images that
it learned from would be too good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twincar_edge.dataset_logits import Side, labels_for, run_sides
from twincar_edge.datasets import Dataset
from twincar_edge.errors import InputError, ModelError, Parameter
from twincar_edge.manifest import FamiliarityRecord
from twincar_edge.metrics import topk_accuracy
from twincar_edge.progress import Progress
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.session import ModelSession, open_session
from twincar_edge.training.checkpoint import Checkpoint

# Keys of a recipe in which the two trainings may differ: how images were held out, and which teacher each fold has.
_DIFFERING = ("validation_share", "seed", "teacher_sha256")
_TOLERANCE = 0.005  # of top-1: on another CPU, a few answers to the same images may differ
_OTHER_ANSWERS = 2  # the fewest that may differ


@dataclass(frozen=True, eq=False)
class HeldOutAnswers:
    """The validation model's answers to the images that it held out.

    Attributes:
        model_sha256: the digest of its file.
        logits: float32 [N, classes].
        similarities: to the classes, float32 [N, classes]; None if the file has no prototypes.
    """

    model_sha256: str
    logits: NDArray[np.float32]
    similarities: NDArray[np.float32] | None


@dataclass(frozen=True)
class ValidationModel:
    """An exported file, open on the CPU provider."""

    session: ModelSession

    @classmethod
    def open(cls, path: Path, checkpoint: Checkpoint) -> ValidationModel:
        """Open the validation model of a checkpoint.

        Args:
            path: the exported file.
            checkpoint: the model that was trained on all images.

        Raises:
            ModelError: the file cannot be used as a model.
            InputError: it was itself trained on all images, has other classes or another preprocessing, or its training
                had another recipe.
        """
        session = open_session(path, ep="cpu")
        manifest = session.manifest
        own = manifest.training.checkpoint_sha256 == checkpoint.sha256
        if own or manifest.validation_model is not None:
            raise InputError(f"{path} was also trained on these images: use a file of a training that held them out")
        if session.enrolled is not None:
            raise InputError(
                f"{path} has enrolled classes, which its training did not have: use the file before enroll"
            )
        if manifest.classes != checkpoint.classes.names:
            raise InputError(f"{path} has other classes than the checkpoint: train both on the same classes")
        if manifest.preprocess != checkpoint.preprocess:
            raise InputError(f"{path} has other preprocessing than the checkpoint: train both with the same recipe")
        others = _differences(manifest.training.recipe, checkpoint.recipe)
        if others:
            raise InputError(
                f"{path} was trained with another recipe than the checkpoint, with another {' and '.join(others[:3])}: "
                "train both with the same recipe"
            )
        return cls(session)

    def answer(self, images: Dataset, progress: Progress | None = None) -> HeldOutAnswers:
        """Answer the images that the model held out.

        Raises:
            InputError: the images are not those that the file was checked on when it was exported.
            ModelError: inference fails.
        """
        session, recorded = self.session, self.session.manifest.parity
        if recorded is None:
            raise ModelError(f"{session.model} does not record the images that it was checked on: export it again")
        if len(images) != recorded.images:
            raise InputError(
                f"{session.model} was checked on {recorded.images} held-out images, but {images.name} has "
                f"{len(images)}: give the images of its export with ",
                Parameter("data"),
            )
        side = Side(session.run, session.manifest.preprocess, embed=session.embed)
        sides = {"logits": side}
        if session.prototypes is not None:
            sides["embeddings"] = side.embedding()
        found = run_sides(sides, images, progress)
        top1 = topk_accuracy(found["logits"], labels_for(images, session.manifest.class_mapping))
        if abs(top1 - recorded.top1) > max(_TOLERANCE, _OTHER_ANSWERS / len(images)):
            raise InputError(
                f"{session.model} had a top-1 of {recorded.top1:.2%} on the held-out images of its export, but has "
                f"{top1:.2%} on {images.name}: give the images of its export with ",
                Parameter("data"),
            )
        similarities = None
        if session.prototypes is not None:
            similarities = session.prototypes.similarities(found["embeddings"])
        return HeldOutAnswers(session.sha256, found["logits"], similarities)

    def classifier(self, temperature: float, reject_below: float, familiarity: FamiliarityRecord | None) -> Classifier:
        """Return the model with the given temperature and thresholds."""
        changed = {"temperature": temperature, "reject_below": reject_below, "familiarity": familiarity}
        return Classifier(replace(self.session, manifest=self.session.manifest.model_copy(update=changed)))


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return the names of the keys in which two recipes differ, those of tables included."""
    names = []
    for key in sorted({*first, *second} - {*_DIFFERING}):
        one, other = first.get(key), second.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            names += [f"{key}.{name}" for name in _differences(one, other)]
        elif one != other:
            names.append(key)
    return names
