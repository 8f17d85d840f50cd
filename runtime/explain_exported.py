"""Explains the answers of an exported file in numpy, without PyTorch.

One run of the model returns logits, embedding and the last feature map; `twincar_edge/heatmaps.py` computes the heat
map from them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from twincar_edge.errors import InputError, ModelError, Parameter
from twincar_edge.heatmaps import (
    GRAD_CAM,
    GRAD_CAM_PLUS_PLUS,
    OCCLUSION,
    contributions,
    grad_cam,
    grad_cam_plus_plus,
    scaled,
    scaled_both_ways,
)
from twincar_edge.metrics import softmax, top_k
from twincar_edge.preprocess import Preprocess, prepare_batch
from twincar_edge.runtime.explanation import Explainer, Explanation, Floats, Images, ModelRun
from twincar_edge.runtime.inference.answers import Guess
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.inputs import ImageLike

_IN_NUMPY = {GRAD_CAM_PLUS_PLUS: grad_cam_plus_plus, GRAD_CAM: grad_cam}
_NEAREST_CLASSES = 3


def explain_crop(
    classifier: Classifier,
    crop_bgr: ImageLike,
    *,
    target: int | str | None = None,
    against: int | str | None = None,
    method: str | None = None,
    stopped: Callable[[], bool] | None = None,
) -> Explanation:
    """Explain the answer of an open classifier to one image, without PyTorch and without reading a file.

    Grad-CAM++ and Grad-CAM run the model once, occlusion about 200 times, 4 images at a time. Other threads may use the
    classifier at the same time.

    Args:
        classifier: open on an exported file.
        crop_bgr: the image; see `Classifier`.
        target: the class to explain; see `Explainer.explain`.
        against: the class to compare it with, or "auto"; see `Explainer.explain`.
        method: see `open_explainer`.
        stopped: called before each run of occlusion; True cancels the explanation.

    Raises:
        InputError: the image is unusable, a class or the method is unknown, or the map is all zeros.
        ModelError: the model fails, or has no feature map for the method.
        ExplanationStoppedError: `stopped` returned True.
    """
    explainer = Explainer(ExportedModel(classifier), method)
    return explainer.explain(crop_bgr, target=target, against=against, stopped=stopped)


class ExportedModel:
    """An exported file, open in a classifier; everything is computed in numpy.

    The score of a trained class is its logit. An enrolled class has no output: its score is its similarity, and
    comparisons with it compare similarities.
    """

    def __init__(self, classifier: Classifier) -> None:
        """Use an open classifier; the file is not read again."""
        self._classifier = classifier
        self._session = classifier.session
        self.classes: tuple[str, ...] = classifier.session.classes
        self.preprocess: Preprocess = classifier.manifest.preprocess
        self.sha256: str = classifier.session.sha256
        self.gives_features: bool = classifier.session.head is not None
        self._trained = len(classifier.manifest.classes)

    def run(self, image_bgr: Images) -> ModelRun:
        """Run the model once, for the answer and for everything that its explanation needs."""
        batch_nhwc = prepare_batch([image_bgr], self.preprocess)
        logits, embeddings, features = self._session.features(batch_nhwc)
        logits, familiarity = self._session.judge_outputs(logits, embeddings)
        prediction = self._classifier.answer(
            softmax(logits, self._classifier.manifest.temperature)[0],
            None if familiarity is None else float(familiarity[0]),
            size_px=min(image_bgr.shape[:2]),
        )
        return ModelRun(batch_nhwc, prediction, embeddings, features)

    def looks_like(self, run: ModelRun) -> tuple[Guess, ...]:
        """Return the nearest classes, including enrolled ones; empty if the file has no prototypes."""
        if self._session.prototypes is None or run.embeddings is None:
            return ()
        similarities = self._similarities(run.embeddings)[0]
        best = top_k(similarities, _NEAREST_CLASSES).tolist()
        return tuple(Guess(self.classes[label], float(similarities[label])) for label in best)

    def scores(self, batch_nhwc: Images, label: int, other: int | None) -> Floats:
        """Return the score of a class, minus that of `other` if given: float32 [N]."""
        if self._by_similarity(label, other):
            scores = self._similarities(self._session.embed(batch_nhwc))
        else:
            scores = self._session.run(batch_nhwc)
        return scores[:, label] if other is None else scores[:, label] - scores[:, other]

    def maps(self, method: str, run: ModelRun, label: int, other: int | None) -> Floats:
        """Return the map of Grad-CAM++ or Grad-CAM, float32 [1, h, w].

        With `other`, each value is the contribution of that location to the difference of the two scores.

        Raises:
            InputError: the method is not available for exported files.
            ModelError: the file has no feature map.
        """
        if method not in _IN_NUMPY:
            methods = ", ".join((*_IN_NUMPY, OCCLUSION))
            raise InputError(f"method {method!r} is not available for exported models: use one of {methods}")
        if run.features is None:
            raise ModelError(
                f"{self._session.model} has no feature map, which {method} needs: export it again, or use ",
                Parameter("method", OCCLUSION),
            )
        gradients = self._gradients(run, label, other)
        if other is None:
            return scaled(_IN_NUMPY[method](run.features, gradients))
        return scaled_both_ways(contributions(run.features, gradients))

    def _gradients(self, run: ModelRun, label: int, other: int | None) -> Floats:
        """Return the gradient of a score, or of the difference of two scores, with respect to the pooled features."""
        head = self._session.head
        assert head is not None, "a file with a feature map has a head"
        if self._by_similarity(label, other):
            assert run.embeddings is not None, "a file with enrolled classes has an embedding"
            gradients = self._similarity_gradients(run.embeddings, label)
            if other is not None:
                gradients = gradients - self._similarity_gradients(run.embeddings, other)
            return head.gradients_from_embeddings(gradients, run.embeddings)
        weights = np.zeros((1, self._trained), np.float32)
        weights[0, label] = 1
        if other is not None:
            weights[0, other] = -1
        return head.gradients(weights, run.embeddings)

    def _by_similarity(self, label: int, other: int | None) -> bool:
        return label >= self._trained or (other is not None and other >= self._trained)

    def _similarities(self, embeddings: Floats) -> Floats:
        trained, enrolled = self._session.prototypes, self._session.enrolled
        assert trained is not None, "a file with enrolled classes has prototypes"
        similarities = trained.similarities(embeddings)
        if enrolled is None:
            return similarities
        return np.concatenate([similarities, enrolled.similarities(embeddings)], axis=1)

    def _similarity_gradients(self, embeddings: Floats, label: int) -> Floats:
        trained, enrolled = self._session.prototypes, self._session.enrolled
        assert trained is not None, "a file with enrolled classes has prototypes"
        if label < self._trained:
            return trained.gradients(embeddings, label)
        assert enrolled is not None, "only enrolled classes follow the trained ones"
        return enrolled.means.gradients(embeddings, label - self._trained)
