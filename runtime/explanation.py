"""Why a model gives an answer: which places of the picture speak for a class, and for one class against another.

An `Explainer` asks a model for one run, for maps of its last feature map, and, for occlusion, for more runs.
`explain_exported.py` is such a model of an exported file, `explain.py` of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError, Parameter, TwincarError, nearest
from twincar_edge.heatmaps import (
    GRAD_CAM_PLUS_PLUS,
    OCCLUSION,
    occlusion,
    scaled,
    scaled_both_ways,
    to_image_geometry,
)
from twincar_edge.preprocess import Preprocess
from twincar_edge.runtime.inference.answers import Guess, Prediction
from twincar_edge.runtime.inference.inputs import ImageLike, as_image_bgr
from twincar_edge.runtime.overlay import draw_overlay, draw_panel

RUNNER_UP = "auto"

Floats = NDArray[np.float32]
Images = NDArray[np.uint8]


class ExplanationStoppedError(TwincarError):
    """The caller stopped an explanation before it was done."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """An answer and what it rests on.

    >>> explanation = tw.explain("crop.jpg", model=tw.demo_model(), against="Castor Vela Sedan 2022")
    >>> explanation.prediction.name, explanation.against
    ('Castor Vela Sedan 2019', 'Castor Vela Sedan 2022')
    >>> cv2.imwrite("why.png", explanation.panel_bgr)
    True

    Attributes:
        image_bgr: the picture, uint8 [H, W, 3].
        prediction: the answer, as deep as the exported model's thresholds allow: what a box tells. Where no exported
            model was given, it is the checkpoint's best class.
        target: the class whose evidence the heat map shows; the best class, unless another was asked for.
        against: the class that `target` is compared with; None where it is not compared.
        heatmap: float32 [H, W], between 0 and 1: how much each place speaks for `target`. With `against`, between -1
            and 1: places below 0 speak for that class.
        looks_like: the classes whose mean embedding is nearest, with their similarity in place of a probability, best
            first; empty where the model has no class means.
        method: how the map was made, such as "grad-cam++" or "occlusion".
    """

    image_bgr: NDArray[np.uint8]
    prediction: Prediction
    target: str
    against: str | None
    heatmap: NDArray[np.float32]
    looks_like: tuple[Guess, ...] = ()
    method: str = GRAD_CAM_PLUS_PLUS

    @cached_property
    def overlay_bgr(self) -> NDArray[np.uint8]:
        """Return the picture under its heat map, uint8 [H', W', 3]; enlarged where it was small."""
        return draw_overlay(self.image_bgr, self.heatmap)

    @cached_property
    def panel_bgr(self) -> NDArray[np.uint8]:
        """Return the picture, the overlay, the answer and the best classes in one, uint8 [H', W', 3]."""
        return draw_panel(
            self.image_bgr, self.heatmap, self.prediction, self.target, self.against, looks_like=self.looks_like
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the answer and the classes as `explain --json` writes them, without pixels."""
        return {
            **self.prediction.to_dict(),
            "target": self.target,
            "against": self.against,
            "method": self.method,
            "looks_like": [{"name": one.name, "similarity": round(one.probability, 6)} for one in self.looks_like],
        }


@dataclass(frozen=True, eq=False)
class Look:
    """What one run of a model on one image gives.

    Attributes:
        batch_nhwc: the model's input, uint8 [1, H, W, 3].
        prediction: the answer.
        embeddings: float32 [1, D]; None where the model gives none.
        features: the last feature map, float32 [1, C, h, w]; None where the model gives none.
    """

    batch_nhwc: Images
    prediction: Prediction
    embeddings: Floats | None = None
    features: Floats | None = None


class ExplainableModel(Protocol):
    """A model whose answers an `Explainer` explains."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of all classes that it answers with."""

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes its input."""

    @property
    def sha256(self) -> str:
        """The digest of its file."""

    @property
    def gives_features(self) -> bool:
        """Whether `maps` can draw more than occlusion does."""

    def look(self, image_bgr: Images) -> Look:
        """Run the model on one image."""

    def looks_like(self, look: Look) -> tuple[Guess, ...]:
        """Return the classes whose mean embedding is nearest, with their similarity."""

    def scores(self, batch_nhwc: Images, label: int, other: int | None) -> Floats:
        """Return the score of a class, or by how much it leads another's: float32 [N]."""

    def maps(self, method: str, look: Look, label: int, other: int | None) -> Floats:
        """Return the map of a method other than occlusion, float32 [1, h, w]: 0 to 1, with `other` -1 to 1."""


class Explainer:
    """Explains the answers of one model; `open_explainer` opens one."""

    def __init__(self, model: ExplainableModel, method: str | None) -> None:
        """Take the model that answers, and how maps are drawn."""
        self._model = model
        self._method = method

    @property
    def sha256(self) -> str:
        """Return the digest of the file that the maps are drawn of."""
        return self._model.sha256

    def explain(
        self,
        image: ImageLike,
        *,
        target: int | str | None = None,
        against: int | str | None = None,
        stopped: Callable[[], bool] | None = None,
    ) -> Explanation:
        """Explain the answer to one image.

        Args:
            image: as `Classifier` takes it.
            target: the class to look for, by output index or by name; None for the best class. An enrolled class is
                explained by the similarity to its mean embedding.
            against: a class to compare it with; "auto" for the best one of the others.
            stopped: asked before each run of occlusion; where it returns True, the explanation ends.

        Raises:
            InputError: the image is unusable, a class or the method is not known, the map is all zeros, or the
                architecture of a checkpoint is not convolutional.
            ModelError: the model fails, or has no feature map for the method.
            ExplanationStoppedError: `stopped` returned True.
        """
        image_bgr, model = as_image_bgr(image), self._model
        look = model.look(image_bgr)
        best = [model.classes.index(guess.name) for guess in look.prediction.top5]
        label = best[0] if target is None else _label(target, model.classes)
        other = None if against is None else _other(against, label, best, model.classes)
        method = self._method or (GRAD_CAM_PLUS_PLUS if other is None and model.gives_features else OCCLUSION)
        seen = self._seen(method, look, label, other, stopped)
        if self._method is None and method != OCCLUSION and not seen.any():
            method = OCCLUSION  # Grad-CAM++ sees nothing where no feature has a positive gradient
            seen = self._seen(method, look, label, other, stopped)
        if not seen.any():
            raise InputError(
                f"no place of the picture speaks for {model.classes[label]!r} more than another, by {method}: use ",
                Parameter("target") if method == OCCLUSION else Parameter("method", OCCLUSION),
            )
        return Explanation(
            image_bgr,
            look.prediction,
            model.classes[label],
            None if other is None else model.classes[other],
            to_image_geometry(seen[0], image_bgr.shape[:2], model.preprocess),
            model.looks_like(look),
            method,
        )

    def _seen(
        self, method: str, look: Look, label: int, other: int | None, stopped: Callable[[], bool] | None
    ) -> Floats:
        if method == OCCLUSION:
            return self._occlusion(look, label, other, stopped)
        return self._model.maps(method, look, label, other)

    def _occlusion(self, look: Look, label: int, other: int | None, stopped: Callable[[], bool] | None) -> Floats:
        def scores(batch_nhwc: Images) -> Floats:
            if stopped is not None and stopped():
                raise ExplanationStoppedError("the explanation was stopped before it was done: ask again")
            return self._model.scores(batch_nhwc, label, other)[:, None]

        drops = occlusion(look.batch_nhwc[0], scores)
        return scaled(np.maximum(drops, 0)) if other is None else scaled_both_ways(drops)


def _other(against: int | str, label: int, best: list[int], classes: tuple[str, ...]) -> int:
    """Return the class to compare with; `best` are the best classes, best first."""
    if against == RUNNER_UP:
        if len(classes) < 2:
            raise InputError("the model has one class: there is no other to compare it with")
        return next(place for place in best if place != label)
    found = _label(against, classes)
    if found == label:
        raise InputError(Parameter("against"), f" is the target itself, {classes[label]!r}: name another class")
    return found


def _label(wanted: int | str, classes: tuple[str, ...]) -> int:
    if isinstance(wanted, str) and wanted in classes:
        return classes.index(wanted)
    if isinstance(wanted, int) and 0 <= wanted < len(classes):
        return wanted
    if isinstance(wanted, int):
        raise InputError(
            f"the target {wanted} lies outside the model's {len(classes)} classes, 0 to {len(classes) - 1}"
        )
    raise InputError(f"the model knows no class {wanted!r}: {nearest(wanted, classes)}")
