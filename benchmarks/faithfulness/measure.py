"""Measures the faithfulness of an exported file's explanations on a set of images.

Two baselines do not depend on the model's knowledge: a random map, as coarse as the last feature map, and the map of
the model with random weights in its last layer (Adebayo et al., 2018, arXiv:1810.03292).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.benchmarks.faithfulness.report import FaithfulnessReport, MapFigures
from twincar_edge.benchmarks.faithfulness.scores import Curves, Floats, Images, Pointing, curves, pointing
from twincar_edge.datasets import Dataset
from twincar_edge.errors import InputError
from twincar_edge.heatmaps import (
    GRAD_CAM,
    GRAD_CAM_PLUS_PLUS,
    OCCLUSION,
    contributions,
    grad_cam,
    grad_cam_plus_plus,
    occlusion,
    to_image_geometry,
)
from twincar_edge.metrics import softmax
from twincar_edge.preprocess import prepare_batch
from twincar_edge.progress import Progress
from twincar_edge.runtime.inference.head import Head
from twincar_edge.runtime.inference.session import ModelSession

RANDOM = "random"
SEED = 77
_RANDOM_CELLS = 7  # per side, as in the last feature map of the default model


@dataclass(frozen=True, eq=False)
class Picture:
    """An image of a car with its annotations.

    Attributes:
        image_bgr: the image, uint8 [H, W, 3].
        name: its class; None if unknown.
        twin: the class to contrast it with; None for the second best class.
        part: the pixels that should determine the answer, bool [H, W], such as the part that differs from its twin.
    """

    image_bgr: Images
    name: str | None = None
    twin: str | None = None
    part: NDArray[np.bool_] | None = None


class DatasetPictures:
    """Evenly spaced images of a labeled data set, read lazily; the choice is deterministic."""

    def __init__(self, dataset: Dataset, most: int) -> None:
        """Choose at most `most` images."""
        count = min(most, len(dataset))
        self._dataset = dataset
        self._chosen = [dataset.samples[place * len(dataset) // count] for place in range(count)]

    def __len__(self) -> int:
        """Return the number of chosen images."""
        return len(self._chosen)

    def __iter__(self) -> Iterator[Picture]:
        """Read and yield the images."""
        for sample in self._chosen:
            yield Picture(sample.read(), self._dataset.classes[sample.label])


def measure_faithfulness(
    session: ModelSession,
    pictures: Sequence[Picture] | DatasetPictures,
    reference: ModelSession | None = None,
    progress: Progress | None = None,
) -> FaithfulnessReport:
    """Explain the best class of each image with all methods, and score the maps by the class's probability.

    The pointing game uses images with a part, except those with a wrong answer, whose right evidence is not known.

    Args:
        session: an exported file.
        pictures: images of cars.
        reference: another file of the same classes, such as the FP32 one, to compare the Grad-CAM++ maps with.
        progress: called with (images done, total images).

    Raises:
        InputError: there are no images, one is unusable, or the reference has other classes or another input.
        ModelError: inference fails.
    """
    if not len(pictures):
        raise InputError("no images to explain")
    if reference is not None and _input(reference) != _input(session):
        raise InputError(f"cannot compare {session.model} with {reference.model}: its classes or its input differ")
    classes, preprocess = session.manifest.class_mapping, session.manifest.preprocess
    maker = _Maps(session, np.random.default_rng(SEED))
    found: dict[str, list[tuple[Curves, Pointing | None]]] = {}
    parts: list[float] = []
    correlations: list[float] = []
    labeled = right = 0
    for done, picture in enumerate(pictures, 1):
        batch_nhwc = prepare_batch([picture.image_bgr], preprocess)
        best, maps = maker.of(batch_nhwc, picture.twin)
        named_right = picture.name is not None and classes.find(picture.name) == best
        labeled += picture.name is not None
        right += named_right
        part = picture.part if named_right or picture.name is None else None
        part = None if part is None or not part.any() else part
        if part is not None:
            parts.append(float(part.mean()))
        probabilities = partial(_probabilities, session, best)
        for method, heat in maps.items():
            scores = curves(batch_nhwc[0], _of_input(heat, batch_nhwc), probabilities)
            in_image = to_image_geometry(heat, picture.image_bgr.shape[:2], preprocess)
            found.setdefault(method, []).append((scores, None if part is None else pointing(in_image, part)))
        if reference is not None and reference.head is not None and GRAD_CAM_PLUS_PLUS in maps:
            theirs = _grad_cam_plus_plus(reference, batch_nhwc, best)
            correlations.append(_correlation(maps[GRAD_CAM_PLUS_PLUS], theirs))
        if progress is not None:
            progress(done, len(pictures))
    rows = tuple(MapFigures.of(method, scores, found[RANDOM]) for method, scores in found.items())
    return FaithfulnessReport(
        model=session.model.name,
        model_sha256=session.sha256,
        images=len(pictures),
        labeled=labeled,
        named_right=right,
        with_part=len(parts),
        part=float(np.mean(parts)) if parts else None,
        rows=rows,
        reference=None if reference is None else reference.model.name,
        reference_correlation=float(np.mean(correlations)) if correlations else None,
        reference_correlation_lowest=min(correlations) if correlations else None,
    )


class _Maps:
    """Computes the maps of a model's best class with all methods."""

    def __init__(self, session: ModelSession, rng: np.random.Generator) -> None:
        self._session = session
        self._rng = rng
        self._random_head = None if session.head is None else _random_head(session.head, rng)
        channels = 0 if session.head is None else session.head.layers[0].shape[1]
        self._random_weights = rng.normal(size=channels).astype(np.float32)

    def of(self, batch_nhwc: Images, twin: str | None) -> tuple[int, dict[str, Floats]]:
        """Return the best class of an input, uint8 [1, H, W, 3], and the maps by name, float32 of any size.

        Contrasts are with the twin if that is another class, otherwise with the second best class.
        """
        session, classes = self._session, self._session.manifest.classes
        logits, embeddings, features = session.features(batch_nhwc)
        best, second = np.argsort(-logits[0], kind="stable")[:2].tolist()
        other = second if twin in (None, classes[best]) else classes.index(twin)
        maps: dict[str, Floats] = {}
        if features is not None and session.head is not None and self._random_head is not None:
            one = _one_hot(len(classes), best)
            gradients = session.head.gradients(one, embeddings)
            contrast = session.head.gradients(one - _one_hot(len(classes), other), embeddings)
            untrained = self._random_head.gradients(one, embeddings)
            maps[GRAD_CAM_PLUS_PLUS] = grad_cam_plus_plus(features, gradients)[0]
            maps[GRAD_CAM] = grad_cam(features, gradients)[0]
            maps[f"{GRAD_CAM}, contrast"] = contributions(features, contrast)[0]
            maps[f"{GRAD_CAM_PLUS_PLUS}, random last layer"] = grad_cam_plus_plus(features, untrained)[0]
        names = (OCCLUSION, f"{OCCLUSION}, contrast", f"{OCCLUSION}, random last layer")
        maps |= dict(zip(names, occlusion(batch_nhwc[0], partial(self._scores, best, other)), strict=False))
        maps[RANDOM] = self._rng.random((_RANDOM_CELLS, _RANDOM_CELLS)).astype(np.float32)
        return best, maps

    def _scores(self, best: int, other: int, batch_nhwc: Images) -> Floats:
        """Return a class's logit, its lead over another and, with features, their random projection: [N, 2 or 3]."""
        logits, _, features = self._session.features(batch_nhwc)
        columns = [logits[:, best], logits[:, best] - logits[:, other]]
        if features is not None:
            columns.append(features.mean(axis=(2, 3)) @ self._random_weights)
        return np.stack(columns, axis=1).astype(np.float32)


def _input(session: ModelSession) -> tuple[object, ...]:
    return session.manifest.classes, session.manifest.preprocess


def _one_hot(classes: int, label: int) -> Floats:
    found = np.zeros((1, classes), np.float32)
    found[0, label] = 1
    return found


def _random_head(head: Head, rng: np.random.Generator) -> Head:
    """Return a head with a random last layer: normally distributed, with the mean and std of its weights."""
    last = head.layers[-1]
    return Head((*head.layers[:-1], rng.normal(last.mean(), last.std(), last.shape).astype(np.float32)))


def _grad_cam_plus_plus(session: ModelSession, batch_nhwc: Images, label: int) -> Floats:
    _, embeddings, features = session.features(batch_nhwc)
    assert features is not None and session.head is not None, "a file with a head has features"
    gradients = session.head.gradients(_one_hot(len(session.manifest.classes), label), embeddings)
    found: Floats = grad_cam_plus_plus(features, gradients)[0]
    return found


def _probabilities(session: ModelSession, label: int, batch_nhwc: Images) -> NDArray[np.float64]:
    probabilities = softmax(session.run(batch_nhwc), session.manifest.temperature)
    return np.asarray(probabilities[:, label], np.float64)


def _of_input(heat: Floats, batch_nhwc: Images) -> Floats:
    height, width = batch_nhwc.shape[1:3]
    return np.asarray(cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _correlation(one: Floats, other: Floats) -> float:
    """Return Pearson's correlation, or 0 if a map is constant."""
    if one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
