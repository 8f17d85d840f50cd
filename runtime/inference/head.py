"""The head of a model: its linear layers after pooling, and the gradient of a logit through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import ModelError
from twincar_edge.manifest import HeadLayer, Manifest
from twincar_edge.model_file import ModelFile
from twincar_edge.onnx_tensors import read_tensors


@dataclass(frozen=True, eq=False)
class Head:
    """The weights of one or two linear layers, float32 [outputs, inputs] each; two layers have a ReLU between them."""

    layers: tuple[NDArray[np.float32], ...]

    def gradients(
        self, weights: NDArray[np.float32], embeddings: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the gradient of a weighted sum of logits with respect to the pooled features: float32 [N, C].

        Args:
            weights: the weight of each logit, float32 [N, classes]: 1 at a class, or 1 and -1 for a difference.
            embeddings: the inputs of the last layer, float32 [N, D]; needed only with two layers, for the ReLU's mask.
        """
        return self.gradients_from_embeddings(weights @ self.layers[-1], embeddings)

    def gradients_from_embeddings(
        self, gradients: NDArray[np.float32], embeddings: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Return the gradient with respect to the pooled features, float32 [N, C].

        Args:
            gradients: the gradients with respect to the embeddings, float32 [N, D].
            embeddings: as for `gradients`.
        """
        if len(self.layers) == 1:
            return np.asarray(gradients, np.float32)
        assert embeddings is not None, "a manifest with two layers names an embedding"
        return np.asarray((gradients * (embeddings > 0)) @ self.layers[0], np.float32)


def read_head(file: ModelFile, manifest: Manifest, session: Any) -> Head | None:
    """Read the head of a model from its file, which is open in `session`; None if it outputs no feature map.

    Raises:
        ModelError: the head's weights do not fit the model.
    """
    record = manifest.head
    if record is None:
        return None
    names = {name for layer in record.layers for name in (layer.weights, layer.scales, layer.zero_points) if name}
    model = str(file.path)
    tensors = read_tensors(file.data, names, model)
    layers = tuple(_weights(layer, tensors, model) for layer in record.layers)
    channels = session.get_outputs()[-1].shape[1]
    sizes = [channels, *(layer.shape[0] for layer in layers)]
    fits = all(layer.shape[1] == size for layer, size in zip(layers, sizes, strict=False))
    if not fits or sizes[-1] != len(manifest.classes):
        found = ", ".join(str(list(layer.shape)) for layer in layers)
        raise ModelError(f"{model} has a head of {found} after {channels} features: export it again")
    return Head(layers)


def _weights(layer: HeadLayer, tensors: dict[str, NDArray[np.generic]], model: str) -> NDArray[np.float32]:
    weights = np.asarray(tensors[layer.weights], np.float32)
    if weights.ndim != 2:
        raise ModelError(f"{model} has head weights {list(weights.shape)}: export it again")
    weights = weights if layer.by_output else weights.T
    for name, apply in ((layer.zero_points, np.subtract), (layer.scales, np.multiply)):
        if name is not None:
            values = np.asarray(tensors[name], np.float32).reshape(-1)
            if values.size not in (1, len(weights)):
                raise ModelError(f"{model} has {values.size} values in {name}, not {len(weights)}: export it again")
            weights = apply(weights, values[:, None])
    if not np.isfinite(weights).all():
        raise ModelError(f"{model} has head weights that are not finite: export it again")
    return np.asarray(weights, np.float32)
