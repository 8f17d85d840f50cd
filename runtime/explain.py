"""Where the model looked: Grad-CAM++ on the PyTorch side of a model, laid over the picture.

The one module of this room that imports torch and the training room, inside its function: a camera box without them
never comes here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import InputError, ModelError, nearest, require
from twincar_edge.images import read_image
from twincar_edge.labels import ClassMapping
from twincar_edge.metrics import softmax
from twincar_edge.preprocess import prepare_batch
from twincar_edge.runtime.inference.answers import Guess, Hierarchy, Prediction
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.overlay import draw_overlay


@dataclass(frozen=True, eq=False)
class Explanation:
    """An answer and what it rests on.

    >>> explanation = tw.explain("crop.jpg", "runs/cars/best.pt", target="Red Coupe 2011")
    >>> explanation.target
    'Red Coupe 2011'
    >>> cv2.imwrite("why.png", explanation.overlay_bgr)
    True

    Attributes:
        prediction: the answer, as deep as the exported model's thresholds allow: what a box tells. Where no exported
            model was given, it is the checkpoint's best class.
        name: the best class.
        probability: of that class, between 0 and 1.
        top5: the best classes, best first.
        target: the class whose evidence the heat map shows; the best class, unless another was asked for.
        heatmap: float32 [H, W] of the original image, between 0 and 1: how much each place speaks for `target`.
        overlay_bgr: uint8 [H', W', 3], the picture under its heat map, with a caption; enlarged where it was small.
    """

    prediction: Prediction
    name: str
    probability: float
    top5: tuple[Guess, ...]
    target: str
    heatmap: NDArray[np.float32]
    overlay_bgr: NDArray[np.uint8]


def explain(
    checkpoint: Path,
    image: Path | NDArray[np.uint8],
    *,
    class_mapping: Path | None = None,
    target: int | str | None = None,
    classifier: Classifier | None = None,
) -> Explanation:
    """Explain one answer with Grad-CAM++ (Chattopadhyay et al., 2018, arXiv:1710.11063).

    Args:
        checkpoint: the PyTorch checkpoint that a model was exported from.
        image: a file, or `image_bgr` uint8 [H, W, 3].
        class_mapping: class names, for a bare state dict that has none beside it.
        target: the class to look for, by output index or by name; None takes the model's answer.
        classifier: the exported model: what it answers is what is told. None takes the checkpoint's best class.

    Raises:
        InputError: the image is unusable, the target is no class, the exported model has other classes, or the
            architecture is not convolutional.
        ModelError: the checkpoint is unusable.
        MissingExtraError: torch or grad-cam is not installed.
    """
    if checkpoint.suffix.lower() == ".onnx":
        raise ModelError(f"{checkpoint} is the exported model: explain needs the .pt checkpoint that it came from")
    require("torch", "explain")
    from twincar_edge.training.cam import grad_cam_plus_plus, to_image_geometry
    from twincar_edge.training.checkpoint import read_checkpoint
    from twincar_edge.training.model import load_model, torch_predict

    image_bgr = read_image(image) if isinstance(image, Path) else image
    read = read_checkpoint(checkpoint, class_mapping)
    if classifier is not None and classifier.manifest.classes != read.classes.names:
        raise InputError(f"{classifier.session.model} has other classes than {checkpoint}: name its own exported file")
    label = None if target is None else _target_label(target, read.classes)
    model = load_model(read)
    batch_nhwc = prepare_batch([image_bgr], read.preprocess)
    logits = torch_predict(model)(batch_nhwc)
    if not np.isfinite(logits).all():
        raise ModelError(f"{checkpoint} answers with numbers that are not finite")
    if classifier is None:
        found = Hierarchy(read.classes.names).answer(softmax(logits)[0], reject_below=0)
    else:
        (found,) = classifier.predict([image_bgr])
    best = found.top5[0]
    label = read.classes.names.index(best.name) if label is None else label

    (seen,) = grad_cam_plus_plus(model, batch_nhwc, [label])
    heatmap = to_image_geometry(seen, image_bgr.shape[:2], read.preprocess)
    name = read.classes[label]
    return Explanation(
        prediction=found,
        name=best.name,
        probability=best.probability,
        top5=found.top5,
        target=name,
        heatmap=heatmap,
        overlay_bgr=draw_overlay(image_bgr, heatmap, found, None if name == best.name else name),
    )


def _target_label(target: int | str, classes: ClassMapping) -> int:
    if isinstance(target, str) and target in classes.names:
        return classes.names.index(target)
    if isinstance(target, int) and 0 <= target < len(classes):
        return target
    if isinstance(target, int):
        raise InputError(
            f"the target {target} lies outside the model's {len(classes)} classes, 0 to {len(classes) - 1}"
        )
    raise InputError(f"the model knows no class {target!r}: {nearest(target, classes.names)}")
