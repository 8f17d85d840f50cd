"""`tw.explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twincar_edge.api.data import PathLike, optional_path
from twincar_edge.runtime.inference.inputs import ImageLike

if TYPE_CHECKING:
    from twincar_edge.runtime.explanation import Explanation


def explain(
    image: ImageLike,
    checkpoint: PathLike | None = None,
    *,
    model: PathLike | None = None,
    target: int | str | None = None,
    against: int | str | None = None,
    method: str | None = None,
    class_mapping: PathLike | None = None,
) -> Explanation:
    """Show which parts of an image an answer is based on, with Grad-CAM++ (arXiv:1710.11063).

    >>> explanation = tw.explain("crop.jpg", model=tw.demo_model())
    >>> explanation.target == explanation.prediction.name, float(explanation.heatmap.max()) <= 1
    (True, True)

    Args:
        image: a path, encoded bytes, an array in BGR or a PIL image, as `Classifier` takes them.
        checkpoint: a .pt, .pth or .safetensors file, or hf://OWNER/REPO/PATH/FILE[@REVISION], to draw the map of with
            PyTorch; None draws that of the exported model, without it.
        model: the .onnx file that `export` wrote: its thresholds decide how far the answer goes. None for the bundled
            model; with a checkpoint, None takes the best class for the answer.
        target: the class to look for, by name or output index; None for the best class.
        against: a class to compare it with: the map then shows what speaks for one and what for the other. "auto" is
            the best of the other classes.
        method: "grad-cam++", "grad-cam" or "occlusion"; of a checkpoint also another of the library `grad-cam`. None is
            Grad-CAM++, and occlusion where two classes are compared.
        class_mapping: class names of a bare state dict; None for class_mapping.json beside it.

    Raises:
        InputError: the image cannot be read, a class or the method is not known, or a checkpoint's architecture is not
            convolutional.
        ModelError: the model cannot be used, or an exported file has no feature map to explain with.
        MissingExtraError: the extra `explain`, for a checkpoint, or ONNX Runtime is not installed.
    """
    from twincar_edge.runtime.explain import open_explainer

    explainer = open_explainer(
        None if checkpoint is None else str(checkpoint),
        model=optional_path(model),
        class_mapping=optional_path(class_mapping),
        method=method,
    )
    return explainer.explain(image, target=target, against=against)
