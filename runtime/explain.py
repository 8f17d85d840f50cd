"""Why a model gives an answer: which places of the picture speak for a class, and for one class against another.

An exported file explains itself in numpy, without PyTorch, if it has the output that `export --explainable` adds. A
checkpoint is explained by the library `grad-cam`, and only then are torch and the training room imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twincar_edge.bundled import default_model
from twincar_edge.errors import InputError, ModelError, Parameter, nearest, require
from twincar_edge.heatmaps import (
    GRAD_CAM,
    GRAD_CAM_PLUS_PLUS,
    OCCLUSION,
    contributions,
    grad_cam,
    grad_cam_plus_plus,
    occlusion,
    scaled,
    scaled_both_ways,
    to_image_geometry,
)
from twincar_edge.metrics import softmax, top_k
from twincar_edge.preprocess import prepare_batch
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.inference.answers import Guess, Hierarchy, Prediction
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.head import Head, read_head
from twincar_edge.runtime.inference.inputs import ImageLike, as_image_bgr
from twincar_edge.runtime.overlay import draw_overlay, draw_panel

RUNNER_UP = "auto"
_IN_NUMPY = {GRAD_CAM_PLUS_PLUS: grad_cam_plus_plus, GRAD_CAM: grad_cam}
_ALIKE = 3


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
    """

    image_bgr: NDArray[np.uint8]
    prediction: Prediction
    target: str
    against: str | None
    heatmap: NDArray[np.float32]
    looks_like: tuple[Guess, ...] = ()

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
            "looks_like": [{"name": one.name, "similarity": round(one.probability, 6)} for one in self.looks_like],
        }


def open_explainer(
    checkpoint: str | None = None,
    *,
    model: Path | None = None,
    class_mapping: Path | None = None,
    method: str | None = None,
) -> Explainer:
    """Open a model to explain its answers with.

    Args:
        checkpoint: a .pt, .pth or .safetensors file, or hf://OWNER/REPO/PATH/FILE[@REVISION], to draw the maps of with
            PyTorch. None draws those of the exported model, without it.
        model: an .onnx file that `export` wrote, whose thresholds decide how far the answer goes. None is the bundled
            model, or, with a checkpoint, none: the best class is then the answer.
        class_mapping: class names of a bare state dict that has none beside it.
        method: "grad-cam++", "grad-cam" or "occlusion"; of a checkpoint, also another one of the library's. None is
            Grad-CAM++, and occlusion where two classes are compared: it points at the telling part far more often.

    Raises:
        InputError: there is no such method, the two models differ in their classes, or the architecture of a checkpoint
            is not convolutional.
        ModelError: a file cannot be used, or an exported one lacks the output with its feature map.
        MissingExtraError: torch or grad-cam, or ONNX Runtime, is not installed.
    """
    if checkpoint is None:
        if method not in (None, OCCLUSION, *_IN_NUMPY):
            methods = ", ".join((*_IN_NUMPY, OCCLUSION))
            raise InputError(f"an exported model is explained by {methods}, not {method!r}")
        return Explainer(_Exported(Classifier(model or default_model(), ep="cpu")), method)
    require("torch", "explain")
    from twincar_edge.training.hub import resolve_checkpoint

    path = Path(resolve_checkpoint(checkpoint))
    classifier = None if model is None else Classifier(model, ep="cpu")
    return Explainer(_Checkpoint(path, class_mapping, classifier), method)


class Explainer:
    """Explains the answers of one model; `open_explainer` opens one."""

    def __init__(self, side: _Exported | _Checkpoint, method: str | None) -> None:
        """Take the model that answers, and how maps are drawn."""
        self._side = side
        self._method = method

    @property
    def sha256(self) -> str:
        """Return the digest of the file that the maps are drawn of."""
        return self._side.sha256

    def explain(
        self, image: ImageLike, *, target: int | str | None = None, against: int | str | None = None
    ) -> Explanation:
        """Explain the answer to one image.

        Args:
            image: as `Classifier` takes it.
            target: the class to look for, by output index or by name; None for the best class.
            against: a class to compare it with; "auto" for the best one of the others.

        Raises:
            InputError: the image is unusable, a class or the method is not known, or the architecture of a checkpoint
                is not convolutional.
            ModelError: the model fails.
        """
        image_bgr, side = as_image_bgr(image), self._side
        prediction = side.predict(image_bgr)
        # An enrolled class can be the answer; the network has no output for it.
        best = [side.classes.index(guess.name) for guess in prediction.top5 if guess.name in side.classes]
        label = best[0] if target is None else _label(target, side.classes)
        other = None if against is None else _other(against, label, best, side.classes)
        batch_nhwc = prepare_batch([image_bgr], side.preprocess)
        method = self._method or (GRAD_CAM_PLUS_PLUS if other is None else OCCLUSION)
        if method == OCCLUSION:
            drops = occlusion(batch_nhwc[0], partial(_scores, side, label, other))
            seen = scaled(np.maximum(drops, 0)) if other is None else scaled_both_ways(drops)
        else:
            seen = side.maps(method, batch_nhwc, label, other)
        return Explanation(
            image_bgr,
            prediction,
            side.classes[label],
            None if other is None else side.classes[other],
            to_image_geometry(seen[0], image_bgr.shape[:2], side.preprocess),
            side.looks_like(batch_nhwc),
        )


class _Exported:
    """An exported file: everything in numpy."""

    def __init__(self, classifier: Classifier) -> None:
        self._session = classifier.session
        self._classifier = classifier
        self.logits = classifier.session.run
        self.classes: tuple[str, ...] = classifier.manifest.classes
        self.preprocess = classifier.manifest.preprocess
        self.sha256 = classifier.session.sha256

    def predict(self, image_bgr: NDArray[np.uint8]) -> Prediction:
        return self._classifier.predict([image_bgr])[0]

    @cached_property
    def _head(self) -> Head:
        return read_head(self._session)

    def looks_like(self, batch_nhwc: NDArray[np.uint8]) -> tuple[Guess, ...]:
        if self._session.prototypes is None:
            return ()
        similarities = self._session.prototypes.similarities(self._session.embed(batch_nhwc))[0]
        best = top_k(similarities, _ALIKE).tolist()
        return tuple(Guess(self.classes[label], float(similarities[label])) for label in best)

    def maps(self, method: str, batch_nhwc: NDArray[np.uint8], label: int, other: int | None) -> NDArray[np.float32]:
        _, embeddings, features = self._session.features(batch_nhwc)
        weights = np.zeros((1, len(self.classes)), np.float32)
        weights[0, label] = 1
        if other is None:
            return scaled(_IN_NUMPY[method](features, self._head.gradients(weights, embeddings)))
        weights[0, other] = -1
        return scaled_both_ways(contributions(features, self._head.gradients(weights, embeddings)))


class _Checkpoint:
    """A checkpoint: torch and the library."""

    def __init__(self, checkpoint: Path, class_mapping: Path | None, classifier: Classifier | None) -> None:
        from twincar_edge.training.cam import heat_maps
        from twincar_edge.training.checkpoint import read_checkpoint
        from twincar_edge.training.model import load_model, torch_predict

        read = read_checkpoint(checkpoint, class_mapping)
        if classifier is not None and classifier.manifest.classes != read.classes.names:
            raise InputError(
                f"{classifier.session.model} has other classes than {checkpoint}: name its own exported file"
            )
        model = load_model(read)
        self._name = checkpoint
        self._classifier = classifier
        self._maps = partial(heat_maps, model)
        self._predict = torch_predict(model)
        self.classes: tuple[str, ...] = read.classes.names
        self.preprocess = read.preprocess
        self.sha256 = read.sha256

    def predict(self, image_bgr: NDArray[np.uint8]) -> Prediction:
        if self._classifier is not None:
            return self._classifier.predict([image_bgr])[0]
        logits = self.logits(prepare_batch([image_bgr], self.preprocess))
        return Hierarchy(self.classes).answer(softmax(logits)[0], reject_below=0)

    def logits(self, batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = self._predict(batch_nhwc)
        if not np.isfinite(found).all():
            raise ModelError(f"{self._name} answers with numbers that are not finite")
        return found

    def looks_like(self, batch_nhwc: NDArray[np.uint8]) -> tuple[Guess, ...]:
        return ()

    def maps(self, method: str, batch_nhwc: NDArray[np.uint8], label: int, other: int | None) -> NDArray[np.float32]:
        if other is None:
            return self._maps(batch_nhwc, [label], method=method)
        one = self._maps(batch_nhwc, [label], [other], method=method)
        return one - self._maps(batch_nhwc, [other], [label], method=method)


def _scores(
    side: _Exported | _Checkpoint, label: int, other: int | None, batch_nhwc: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return the logit of a class, or by how much it leads another's: float32 [N]."""
    logits = side.logits(batch_nhwc)
    return logits[:, label] if other is None else logits[:, label] - logits[:, other]


def check_model(event: Event, explainer: Explainer) -> None:
    """Check that an explanation is of the model that answered.

    Raises:
        InputError: the event names another file.
    """
    answered = event.classifier
    if explainer.sha256 != answered.sha256:
        raise InputError(
            f"visit {event.id} was answered by another file of {answered.name}, with SHA-256 {answered.sha256[:12]}…: "
            "name it with ",
            Parameter("model"),
        )


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
