"""`tw.explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twincar_edge.api.data import PathLike, optional_path
from twincar_edge.arguments import checked_arguments, refuse_unused
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.inputs import ImageLike

if TYPE_CHECKING:
    from twincar_edge.runtime.explanation import Explanation


@checked_arguments
def explain(
    image: ImageLike,
    checkpoint: PathLike | None = None,
    *,
    model: PathLike | Classifier | None = None,
    target: int | str | None = None,
    against: int | str | None = None,
    method: str | None = None,
    class_mapping: PathLike | None = None,
) -> Explanation:
    """Show which parts of an image support an answer, by default with Grad-CAM++ (arXiv:1710.11063).

    >>> explanation = tw.explain("crop.jpg", model=tw.demo_model())
    >>> explanation.target == explanation.prediction.name, float(explanation.heatmap.max()) <= 1
    (True, True)

    Args:
        image: a path, encoded bytes, a BGR array or a PIL image.
        checkpoint: a .pt, .pth or .safetensors file, or hf://OWNER/REPO/PATH/FILE[@REVISION], to explain with
            PyTorch; None explains the exported model, without PyTorch.
        model: an exported .onnx file, or an open `Classifier`, whose thresholds decide how specific the answer is. None
            for the bundled model; with a checkpoint, None answers with the top class.
        target: the class to explain, by name or output index; None for the top class.
        against: a class to compare with: the map then shows the evidence for either class. "auto" is the best
            other class.
        method: "grad-cam++", "grad-cam" or "occlusion"; for a checkpoint also any other method of the package
            `grad-cam`. None is Grad-CAM++, or occlusion if two classes are compared.
        class_mapping: class names of a bare state dict; None for class_mapping.json next to it.

    Raises:
        InputError: the image cannot be read, a class or the method is not known, or a checkpoint's architecture is not
            convolutional.
        ModelError: the model cannot be used, or an exported file has no feature map to explain with.
        MissingExtraError: the extra `explain`, for a checkpoint, or ONNX Runtime is not installed.
    """
    refuse_unused("without a checkpoint", class_mapping=class_mapping is not None and checkpoint is None)
    from twincar_edge.runtime.explain import open_explainer

    explainer = open_explainer(
        None if checkpoint is None else str(checkpoint),
        model=model if isinstance(model, Classifier) else optional_path(model),
        class_mapping=optional_path(class_mapping),
        method=method,
    )
    return explainer.explain(image, target=target, against=against)
