"""Explains the answers of an exported file in numpy, without PyTorch.

One run gives logits, embedding and the last feature map together; `twincar_edge/heatmaps.py` makes the map of them.
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
from twincar_edge.runtime.explanation import Explainer, Explanation, Floats, Images, Look
from twincar_edge.runtime.inference.answers import Guess
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.inputs import ImageLike

_IN_NUMPY = {GRAD_CAM_PLUS_PLUS: grad_cam_plus_plus, GRAD_CAM: grad_cam}
_ALIKE = 3


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

    Grad-CAM++ and Grad-CAM run the model once, occlusion some 200 times, 4 images at a time. Other threads may use the
    classifier meanwhile.

    Args:
        classifier: open on an exported file.
        crop_bgr: as `Classifier` takes it.
        target: the class to look for, as `Explainer.explain` takes it.
        against: the class to compare it with, or "auto", as `Explainer.explain` takes it.
        method: as `open_explainer` takes it.
        stopped: asked before each run of occlusion; where it returns True, the explanation ends.

    Raises:
        InputError: the image is unusable, a class or the method is not known, or the map is all zeros.
        ModelError: the model fails, or has no feature map for the method.
        ExplanationStoppedError: `stopped` returned True.
    """
    explainer = Explainer(ExportedModel(classifier), method)
    return explainer.explain(crop_bgr, target=target, against=against, stopped=stopped)


class ExportedModel:
    """An exported file, open on a classifier: everything in numpy.

    Logits are the scores of trained classes. An enrolled class has no output: its score is the similarity by which it
    is recognized, and a comparison with it is one of similarities.
    """

    def __init__(self, classifier: Classifier) -> None:
        """Take the classifier; the file is not read again."""
        self._classifier = classifier
        self._session = classifier.session
        self.classes: tuple[str, ...] = classifier.session.classes
        self.preprocess: Preprocess = classifier.manifest.preprocess
        self.sha256: str = classifier.session.sha256
        self.gives_features: bool = classifier.session.head is not None
        self._trained = len(classifier.manifest.classes)

    def look(self, image_bgr: Images) -> Look:
        """Run the model once, for the answer and all that its explanation needs."""
        batch_nhwc = prepare_batch([image_bgr], self.preprocess)
        logits, embeddings, features = self._session.features(batch_nhwc)
        logits, familiarity = self._session.judge_outputs(logits, embeddings)
        prediction = self._classifier.answer(
            softmax(logits, self._classifier.manifest.temperature)[0],
            None if familiarity is None else float(familiarity[0]),
            size_px=min(image_bgr.shape[:2]),
        )
        return Look(batch_nhwc, prediction, embeddings, features)

    def looks_like(self, look: Look) -> tuple[Guess, ...]:
        """Return the nearest classes, enrolled ones included; none where the file has no prototypes."""
        if self._session.prototypes is None or look.embeddings is None:
            return ()
        similarities = self._similarities(look.embeddings)[0]
        best = top_k(similarities, _ALIKE).tolist()
        return tuple(Guess(self.classes[label], float(similarities[label])) for label in best)

    def scores(self, batch_nhwc: Images, label: int, other: int | None) -> Floats:
        """Return the score of a class, or by how much it leads another's: float32 [N]."""
        if self._by_similarity(label, other):
            scores = self._similarities(self._session.embed(batch_nhwc))
        else:
            scores = self._session.run(batch_nhwc)
        return scores[:, label] if other is None else scores[:, label] - scores[:, other]

    def maps(self, method: str, look: Look, label: int, other: int | None) -> Floats:
        """Return the map by Grad-CAM++ or Grad-CAM, float32 [1, h, w].

        With `other`, it is what each place adds to the difference of the two scores.

        Raises:
            InputError: the method is another one.
            ModelError: the file has no feature map.
        """
        if method not in _IN_NUMPY:
            methods = ", ".join((*_IN_NUMPY, OCCLUSION))
            raise InputError(f"an exported model is explained by {methods}, not {method!r}")
        if look.features is None:
            raise ModelError(
                f"{self._session.model} has no feature map for {method}: export it again, or use ",
                Parameter("method", OCCLUSION),
            )
        gradients = self._gradients(look, label, other)
        if other is None:
            return scaled(_IN_NUMPY[method](look.features, gradients))
        return scaled_both_ways(contributions(look.features, gradients))

    def _gradients(self, look: Look, label: int, other: int | None) -> Floats:
        """Return the gradient of the score, or of the difference of two, with respect to the pooled features."""
        head = self._session.head
        assert head is not None, "a file with a feature map has a head"
        if self._by_similarity(label, other):
            assert look.embeddings is not None, "a file with enrolled classes has an embedding"
            found = self._similarity_gradients(look.embeddings, label)
            if other is not None:
                found = found - self._similarity_gradients(look.embeddings, other)
            return head.gradients_from_embeddings(found, look.embeddings)
        weights = np.zeros((1, self._trained), np.float32)
        weights[0, label] = 1
        if other is not None:
            weights[0, other] = -1
        return head.gradients(weights, look.embeddings)

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
