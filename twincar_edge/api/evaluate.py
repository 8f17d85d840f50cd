"""`tw.evaluate`, and opening a model for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from twincar_edge.api.data import PathLike, labeled_images, optional_path
from twincar_edge.arguments import checked_arguments, require_at_least
from twincar_edge.errors import InputError, ModelError, Parameter, require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from twincar_edge.dataset_logits import Predict
    from twincar_edge.datasets import Dataset, OpenOptions
    from twincar_edge.export.open_set.measure import Subject
    from twincar_edge.labels import ClassMapping
    from twincar_edge.preprocess import Preprocess
    from twincar_edge.runtime.inference.session import ModelSession
    from twincar_edge.training.evaluation import Evaluation
    from twincar_edge.training.model import CarClassifier


@checked_arguments
def evaluate(
    model: PathLike,
    data: PathLike | None = None,
    *,
    split: PathLike | None = None,
    images: PathLike | None = None,
    data_class_mapping: PathLike | None = None,
    crop: bool = True,
    class_mapping: PathLike | None = None,
    ep: str = "auto",
    threads: int | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure the accuracy of a checkpoint or an ONNX file on labeled images.

    >>> evaluation = tw.evaluate("runs/cars/best.pt", split="runs/cars")
    >>> evaluation.images
    16

    Args:
        model: a .pt, .pth, .safetensors or .onnx file, or hf://OWNER/REPO/PATH/FILE[@REVISION].
        data: labeled images, in a layout that `train` accepts.
        split: a run folder, for only its held-out images (the run records where they are), or a CSV that lists the
            images to use.
        images: the image folder of a CSV; None for `images/` next to the CSV, or the CSV's own folder.
        data_class_mapping: class_mapping.json of the labels; None for the class names in the data.
        crop: crop to the annotated box, if the data has one.
        class_mapping: class names of a bare state dict; None for class_mapping.json next to it.
        ep: the execution provider of an ONNX file; a checkpoint is measured on the CPU.
        threads: CPU threads; None for all.
        batch_size: images per batch.
        progress: called with the images done and the total.

    Raises:
        InputError: there are no images, an image is unusable, or the model lacks a class of the data.
        ModelError: the model cannot be used.
        MissingExtraError: the extra `train`, or ONNX Runtime, is not installed.
    """
    require_at_least(1, threads=threads, batch_size=batch_size)
    require("sklearn", "train")
    from twincar_edge.training.hub import resolve_checkpoint

    opened = open_model(resolve_checkpoint(str(model)), optional_path(class_mapping), ep, threads)
    dataset = open_images(labeled_images(data, images, data_class_mapping, crop), optional_path(split))
    return evaluate_opened(opened, dataset, batch_size, progress)


@dataclass(frozen=True)
class OpenedModel:
    """A checkpoint or an ONNX file, open for inference.

    Attributes:
        predict: returns the logits, divided by the model's temperature.
        classes: the class names in output order.
        preprocess: the model's preprocessing.
        name: the file's name.
        learned_from: returns how many of a data set's images the model is known to have learned from.
        model: the checkpoint's network; None for an ONNX file.
        session: the ONNX session; None for a checkpoint, which has no thresholds.
    """

    predict: Predict
    classes: ClassMapping
    preprocess: Preprocess
    name: str
    learned_from: Callable[[Dataset], int]
    model: CarClassifier | None = None
    session: ModelSession | None = None

    def subject(self) -> Subject:
        """Return the model with its decision thresholds; a checkpoint has none and always gives the full class name."""
        from twincar_edge.export.open_set.measure import Subject

        if self.session is None:
            return Subject(
                self.name, lambda batch_nhwc: (self.predict(batch_nhwc), None), self.classes, self.preprocess
            )
        return Subject.of_session(self.session)


def open_model(model: Path, class_mapping: Path | None, ep: str, threads: int | None) -> OpenedModel:
    """Open a checkpoint or an ONNX file, by its suffix.

    Raises:
        InputError: the provider cannot be used, or an ONNX file is given a class mapping.
        ModelError: the file is not a model.
        MissingExtraError: torch or ONNX Runtime is not installed.
    """
    opener = _OPENERS.get(model.suffix.lower())
    if opener is None:
        raise ModelError(f"cannot evaluate {model}: expected a file ending in one of {', '.join(_OPENERS)}")
    return opener(model, class_mapping, ep, threads)


def evaluate_opened(
    opened: OpenedModel, dataset: Dataset, batch_size: int, progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """Measure an open model on labeled images, and find out how many of them it has learned from."""
    from twincar_edge.training.evaluation import evaluate as measure

    evaluation = measure(opened.predict, dataset, opened.classes, opened.preprocess, batch_size, progress)
    return replace(evaluation, learned_from=opened.learned_from(dataset))


def open_images(data: OpenOptions | None, split: Path | None) -> Dataset:
    """Open the images to evaluate on.

    Raises:
        InputError: neither argument names images, or they cannot be used.
    """
    if split is None:
        if data is None:
            raise InputError(
                "no images to evaluate on: give ", Parameter("data"), ", or a run with ", Parameter("split")
            )
        return data.open()
    from twincar_edge.training.run_folder import named_images

    return named_images(split, data)


def _open_checkpoint(model: Path, class_mapping: Path | None, ep: str, threads: int | None) -> OpenedModel:
    torch = require("torch", "train")
    from twincar_edge.export.data import learned_from
    from twincar_edge.training.checkpoint import read_checkpoint
    from twincar_edge.training.model import load_model, torch_predict

    if ep not in ("auto", "cpu"):
        raise InputError(
            f"{model} is a checkpoint, which is measured on the CPU: export it, or leave out ", Parameter("ep", ep)
        )
    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = read_checkpoint(model, class_mapping)
    loaded = load_model(checkpoint)
    learned = partial(learned_from, model, checkpoint.recipe, checkpoint.data)
    return OpenedModel(torch_predict(loaded), checkpoint.classes, checkpoint.preprocess, model.name, learned, loaded)


def _open_onnx(model: Path, class_mapping: Path | None, ep: str, threads: int | None) -> OpenedModel:
    from twincar_edge.export.data import learned_from
    from twincar_edge.labels import ClassMapping
    from twincar_edge.runtime.inference.session import open_session

    if class_mapping is not None:
        raise InputError(f"{model} contains its class names: use ", Parameter("class_mapping", None))
    session = open_session(model, ep=ep, threads=threads)
    manifest = session.manifest

    def predict(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        return session.judge(batch_nhwc)[0] / manifest.temperature  # calibrated as on the camera box

    learned = partial(learned_from, model, manifest.training.recipe, manifest.training.data)
    classes = ClassMapping(session.classes)
    return OpenedModel(predict, classes, manifest.preprocess, model.name, learned, session=session)


_OPENERS: dict[str, Callable[[Path, Path | None, str, int | None], OpenedModel]] = {
    ".pt": _open_checkpoint,
    ".pth": _open_checkpoint,
    ".safetensors": _open_checkpoint,
    ".onnx": _open_onnx,
}
