"""Explains an answer: which parts of the picture are evidence for a class, or for one class against another.

An `Explainer` uses an `ExplainableModel`: one run for the answer, maps of its last feature map, and more runs for
occlusion. `explain_exported.py` implements that protocol for exported files, `explain.py` for checkpoints.
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


class UnexplainedError(InputError):
    """One image has no such explanation; other images may have one."""


class ExplanationStoppedError(TwincarError):
    """The caller canceled an explanation."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """An answer and the evidence for it.

    >>> explanation = tw.explain("crop.jpg", model=tw.demo_model(), against="Castor Vela Sedan 2022")
    >>> explanation.prediction.name, explanation.against
    ('Castor Vela Sedan 2019', 'Castor Vela Sedan 2022')
    >>> cv2.imwrite("why.png", explanation.panel_bgr)
    True

    Attributes:
        image_bgr: the picture, uint8 [H, W, 3].
        prediction: the answer, as specific as the exported model's thresholds allow, as a box gives it. Without an
            exported model, it is the checkpoint's best class.
        target: the class whose evidence the heat map shows; by default the best class.
        against: the class that `target` is compared with; None without a comparison.
        heatmap: float32 [H, W], between 0 and 1: the evidence for `target` at each location. With `against`, between -1
            and 1: values below 0 are evidence for that class.
        looks_like: the classes with the nearest mean embeddings, nearest first, with the similarity as `probability`;
            empty if the model has no class means.
        method: the method of the map, such as "grad-cam++" or "occlusion".
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
        """Return the picture under its heat map, uint8 [H', W', 3]; small pictures are enlarged."""
        return draw_overlay(self.image_bgr, self.heatmap)

    @cached_property
    def panel_bgr(self) -> NDArray[np.uint8]:
        """Return the picture, the overlay, the answer and the best classes in one, uint8 [H', W', 3]."""
        return draw_panel(
            self.image_bgr, self.heatmap, self.prediction, self.target, self.against, looks_like=self.looks_like
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the answer and the classes, without pixels, in the format of `explain --json`."""
        return {
            **self.prediction.to_dict(),
            "target": self.target,
            "against": self.against,
            "method": self.method,
            "looks_like": [{"name": one.name, "similarity": round(one.probability, 6)} for one in self.looks_like],
        }


@dataclass(frozen=True, eq=False)
class ModelRun:
    """The result of running a model on one image.

    Attributes:
        batch_nhwc: the model's input, uint8 [1, H, W, 3].
        prediction: the answer.
        embeddings: float32 [1, D]; None if the model has no embedding output.
        features: the last feature map, float32 [1, C, h, w]; None if the model has no such output.
    """

    batch_nhwc: Images
    prediction: Prediction
    embeddings: Floats | None = None
    features: Floats | None = None


class ExplainableModel(Protocol):
    """A model whose answers an `Explainer` can explain."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of all classes."""

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing of its input."""

    @property
    def sha256(self) -> str:
        """The digest of its file."""

    @property
    def gives_features(self) -> bool:
        """Whether it has a feature map, which `maps` needs; without one, only occlusion works."""

    def run(self, image_bgr: Images) -> ModelRun:
        """Run the model on one image."""

    def looks_like(self, run: ModelRun) -> tuple[Guess, ...]:
        """Return the classes with the nearest mean embeddings, with their similarity."""

    def scores(self, batch_nhwc: Images, label: int, other: int | None) -> Floats:
        """Return the score of a class, minus that of `other` if given: float32 [N]."""

    def maps(self, method: str, run: ModelRun, label: int, other: int | None) -> Floats:
        """Return the map of a method other than occlusion, float32 [1, h, w]: 0 to 1, or -1 to 1 with `other`."""


class Explainer:
    """Explains the answers of one model; `open_explainer` creates one."""

    def __init__(self, model: ExplainableModel, method: str | None) -> None:
        """Store the model and the method; None chooses one for each explanation."""
        self._model = model
        self._method = method

    @property
    def sha256(self) -> str:
        """Return the digest of the model file."""
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
            image: see `Classifier`.
            target: the class to explain, by output index or name; None for the best class. An enrolled class is
                explained by the similarity to its mean embedding.
            against: a class to compare it with; "auto" for the best other class.
            stopped: called before each run of occlusion; True cancels the explanation.

        Raises:
            InputError: the image is unusable, a class or the method is unknown, or the architecture of a checkpoint is
                not convolutional.
            UnexplainedError: the map is all zeros, or `against` is the explained class.
            ModelError: the model fails, or has no feature map for the method.
            ExplanationStoppedError: `stopped` returned True.
        """
        image_bgr, model = as_image_bgr(image), self._model
        run = model.run(image_bgr)
        best = [model.classes.index(guess.name) for guess in run.prediction.top5]
        label = best[0] if target is None else _label(target, model.classes)
        other = None if against is None else _other(against, label, best, model.classes)
        method = self._method or (GRAD_CAM_PLUS_PLUS if other is None and model.gives_features else OCCLUSION)
        heat = self._heat(method, run, label, other, stopped)
        if self._method is None and method != OCCLUSION and not heat.any():
            method = OCCLUSION  # the map of Grad-CAM++ is all zeros if no feature has a positive gradient
            heat = self._heat(method, run, label, other, stopped)
        if not heat.any():
            raise UnexplainedError(
                f"{method} finds no evidence for {model.classes[label]!r} in the picture: use ",
                Parameter("target") if method == OCCLUSION else Parameter("method", OCCLUSION),
            )
        return Explanation(
            image_bgr,
            run.prediction,
            model.classes[label],
            None if other is None else model.classes[other],
            to_image_geometry(heat[0], image_bgr.shape[:2], model.preprocess),
            model.looks_like(run),
            method,
        )

    def _heat(
        self, method: str, run: ModelRun, label: int, other: int | None, stopped: Callable[[], bool] | None
    ) -> Floats:
        if method == OCCLUSION:
            return self._occlusion(run, label, other, stopped)
        return self._model.maps(method, run, label, other)

    def _occlusion(self, run: ModelRun, label: int, other: int | None, stopped: Callable[[], bool] | None) -> Floats:
        def scores(batch_nhwc: Images) -> Floats:
            if stopped is not None and stopped():
                raise ExplanationStoppedError("the explanation was canceled: request it again")
            return self._model.scores(batch_nhwc, label, other)[:, None]

        drops = occlusion(run.batch_nhwc[0], scores)
        return scaled(np.maximum(drops, 0)) if other is None else scaled_both_ways(drops)


def _other(against: int | str, label: int, best: list[int], classes: tuple[str, ...]) -> int:
    """Return the class to compare with; `best` are the best classes, best first."""
    if against == RUNNER_UP:
        if len(classes) < 2:
            raise InputError("the model has only one class: leave out ", Parameter("against"))
        return next(other for other in best if other != label)
    found = _label(against, classes)
    if found == label:
        raise UnexplainedError(Parameter("against"), f" is the target class {classes[label]!r}: name another class")
    return found


def _label(wanted: int | str, classes: tuple[str, ...]) -> int:
    if isinstance(wanted, str) and wanted in classes:
        return classes.index(wanted)
    if isinstance(wanted, int) and 0 <= wanted < len(classes):
        return wanted
    if isinstance(wanted, int):
        raise InputError(
            f"class index {wanted} is out of range: the model has {len(classes)} classes, 0 to {len(classes) - 1}"
        )
    raise InputError(f"the model has no class {wanted!r}: {nearest(wanted, classes)}")
