"""`tw.explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from twincar_edge.api.data import PathLike, optional_path
from twincar_edge.bundled import default_checkpoint, default_model
from twincar_edge.errors import require
from twincar_edge.runtime.inference.inputs import ImageLike, as_image_bgr

if TYPE_CHECKING:
    from twincar_edge.runtime.explain import Explanation


def explain(
    image: ImageLike,
    checkpoint: PathLike | None = None,
    *,
    model: PathLike | None = None,
    target: int | str | None = None,
    class_mapping: PathLike | None = None,
) -> Explanation:
    """Show which parts of an image an answer is based on, with Grad-CAM++ (arXiv:1710.11063).

    >>> explanation = tw.explain("crop.jpg", "runs/cars/best.pt")
    >>> explanation.target == explanation.name, float(explanation.heatmap.max()) <= 1
    (True, True)

    Args:
        image: a path, encoded bytes, an array in BGR or a PIL image, as `Classifier` takes them.
        checkpoint: the .pt, .pth or .safetensors file that a model was exported from, or
            hf://OWNER/REPO/PATH/FILE[@REVISION]; None for that of the bundled model.
        model: the .onnx file that was exported from it: its thresholds decide how far the answer goes. None for the
            bundled model's own; with another checkpoint, the best class is the answer.
        target: the class to look for, by name or output index; None for the best class.
        class_mapping: class names of a bare state dict; None for class_mapping.json beside it.

    Raises:
        InputError: the image cannot be read, the target is no class, or the architecture is not convolutional.
        ModelError: the checkpoint cannot be used.
        MissingExtraError: the extra `explain`, or an ONNX Runtime for the exported model, is not installed.
    """
    from twincar_edge.runtime.explain import explain as explain_answer
    from twincar_edge.runtime.inference.classifier import Classifier
    from twincar_edge.training.hub import resolve_checkpoint

    require("torch", "explain")
    image_bgr = as_image_bgr(image)
    exported = default_model() if checkpoint is None and model is None else optional_path(model)
    return explain_answer(
        default_checkpoint() if checkpoint is None else Path(resolve_checkpoint(str(checkpoint))),
        image_bgr,
        class_mapping=optional_path(class_mapping),
        target=target,
        classifier=None if exported is None else Classifier(exported),
    )
