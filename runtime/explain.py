"""Explains the answers of an exported file, or of a checkpoint by the library `grad-cam`.

Only a checkpoint needs torch and the training room, which are imported when one is opened.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twincar_edge.bundled import default_model
from twincar_edge.errors import InputError, ModelError, Parameter, require
from twincar_edge.metrics import softmax
from twincar_edge.preprocess import prepare_batch
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.explain_exported import ExportedModel
from twincar_edge.runtime.explanation import Explainer, Look
from twincar_edge.runtime.inference.answers import Guess, Hierarchy, Prediction
from twincar_edge.runtime.inference.classifier import Classifier


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
            Grad-CAM++; occlusion where two classes are compared, because it points at the telling part far more often,
            and for an exported file without a feature map.

    Raises:
        InputError: the two models differ in their classes.
        ModelError: a file cannot be used.
        MissingExtraError: torch or grad-cam, or ONNX Runtime, is not installed.
    """
    if checkpoint is None:
        return Explainer(ExportedModel(Classifier(model or default_model(), ep="cpu")), method)
    require("torch", "explain")
    from twincar_edge.training.hub import resolve_checkpoint

    path = Path(resolve_checkpoint(checkpoint))
    classifier = None if model is None else Classifier(model, ep="cpu")
    return Explainer(_Checkpoint(path, class_mapping, classifier), method)


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
        self.gives_features = True

    def look(self, image_bgr: NDArray[np.uint8]) -> Look:
        batch_nhwc = prepare_batch([image_bgr], self.preprocess)
        return Look(batch_nhwc, self._answer(image_bgr, batch_nhwc))

    def looks_like(self, look: Look) -> tuple[Guess, ...]:
        return ()

    def scores(self, batch_nhwc: NDArray[np.uint8], label: int, other: int | None) -> NDArray[np.float32]:
        logits = self._logits(batch_nhwc)
        return logits[:, label] if other is None else logits[:, label] - logits[:, other]

    def maps(self, method: str, look: Look, label: int, other: int | None) -> NDArray[np.float32]:
        if other is None:
            return self._maps(look.batch_nhwc, [label], method=method)
        one = self._maps(look.batch_nhwc, [label], [other], method=method)
        return one - self._maps(look.batch_nhwc, [other], [label], method=method)

    def _answer(self, image_bgr: NDArray[np.uint8], batch_nhwc: NDArray[np.uint8]) -> Prediction:
        if self._classifier is not None:
            return self._classifier.predict([image_bgr])[0]
        return Hierarchy(self.classes).answer(softmax(self._logits(batch_nhwc))[0], reject_below=0)

    def _logits(self, batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = self._predict(batch_nhwc)
        if not np.isfinite(found).all():
            raise ModelError(f"{self._name} answers with numbers that are not finite")
        return found


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
