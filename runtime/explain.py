"""Explains the answers of an exported file, or of a checkpoint with the library `grad-cam`.

Only checkpoints need torch and the training package, which are imported when one is opened.
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
from twincar_edge.runtime.explanation import Explainer, ModelRun
from twincar_edge.runtime.inference.answers import Guess, Hierarchy, Prediction
from twincar_edge.runtime.inference.classifier import Classifier


def open_explainer(
    checkpoint: str | None = None,
    *,
    model: Path | Classifier | None = None,
    class_mapping: Path | None = None,
    method: str | None = None,
) -> Explainer:
    """Open a model and return an explainer of its answers.

    Args:
        checkpoint: a .pt, .pth or .safetensors file, or hf://OWNER/REPO/PATH/FILE[@REVISION], whose heat maps PyTorch
            computes. None explains the exported model, without PyTorch.
        model: an .onnx file that `export` wrote, or one that is open; its thresholds decide how specific the answer is.
            None is the bundled model or, with a checkpoint, no model: the answer is then the best class.
        class_mapping: class names for a bare state dict without a class file.
        method: "grad-cam++", "grad-cam" or "occlusion"; for a checkpoint, also the other methods of `grad-cam`. The
            default is Grad-CAM++, or occlusion to compare two classes, because it points at the part that differs far
            more often, and for an exported file without a feature map.

    Raises:
        InputError: the two models have different classes.
        ModelError: a file cannot be used.
        MissingExtraError: torch or grad-cam, or ONNX Runtime, is not installed.
    """
    if checkpoint is None:
        return Explainer(ExportedModel(_open(model or default_model())), method)
    require("torch", "explain")
    from twincar_edge.training.hub import resolve_checkpoint

    path = Path(resolve_checkpoint(checkpoint))
    classifier = None if model is None else _open(model)
    return Explainer(_CheckpointModel(path, class_mapping, classifier), method)


def _open(model: Path | Classifier) -> Classifier:
    return model if isinstance(model, Classifier) else Classifier(model, ep="cpu")


class _CheckpointModel:
    """A checkpoint, run by PyTorch and explained by `grad-cam`."""

    def __init__(self, checkpoint: Path, class_mapping: Path | None, classifier: Classifier | None) -> None:
        from twincar_edge.training.cam import heat_maps
        from twincar_edge.training.checkpoint import read_checkpoint
        from twincar_edge.training.model import load_model, torch_predict

        read = read_checkpoint(checkpoint, class_mapping)
        if classifier is not None and classifier.manifest.classes != read.classes.names:
            raise InputError(
                f"{classifier.session.model} and {checkpoint} have different classes: name the file that was exported "
                "from this checkpoint"
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

    def run(self, image_bgr: NDArray[np.uint8]) -> ModelRun:
        batch_nhwc = prepare_batch([image_bgr], self.preprocess)
        return ModelRun(batch_nhwc, self._answer(image_bgr, batch_nhwc))

    def looks_like(self, run: ModelRun) -> tuple[Guess, ...]:
        return ()

    def scores(self, batch_nhwc: NDArray[np.uint8], label: int, other: int | None) -> NDArray[np.float32]:
        logits = self._logits(batch_nhwc)
        return logits[:, label] if other is None else logits[:, label] - logits[:, other]

    def maps(self, method: str, run: ModelRun, label: int, other: int | None) -> NDArray[np.float32]:
        if other is None:
            return self._maps(run.batch_nhwc, [label], method=method)
        one = self._maps(run.batch_nhwc, [label], [other], method=method)
        return one - self._maps(run.batch_nhwc, [other], [label], method=method)

    def _answer(self, image_bgr: NDArray[np.uint8], batch_nhwc: NDArray[np.uint8]) -> Prediction:
        if self._classifier is not None:
            return self._classifier.predict([image_bgr])[0]
        return Hierarchy(self.classes).answer(softmax(self._logits(batch_nhwc))[0], reject_below=0)

    def _logits(self, batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = self._predict(batch_nhwc)
        if not np.isfinite(logits).all():
            raise ModelError(f"the logits of {self._name} are not finite: train or download it again")
        return logits


def check_model(event: Event, explainer: Explainer) -> None:
    """Check that the explainer uses the model file that classified a visit.

    Raises:
        InputError: another file classified it.
    """
    classifier = event.classifier
    if explainer.sha256 != classifier.sha256:
        raise InputError(
            f"visit {event.id} was classified by another file of {classifier.name}, with SHA-256 "
            f"{classifier.sha256[:12]}…: name that file with ",
            Parameter("model"),
        )
