"""Writes the evaluation results and training curves of a model as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from twincar_edge.datasets import Dataset
from twincar_edge.files import write_text
from twincar_edge.training import artifacts
from twincar_edge.training.confusion_plots import plot_confusion_matrix, plot_most_confused
from twincar_edge.training.evaluation import Evaluation
from twincar_edge.training.history import History
from twincar_edge.training.plots import plot_loss_and_accuracy, plot_precision_recall, plot_topk

if TYPE_CHECKING:
    from twincar_edge.training.model import CarClassifier


def write_evaluation(evaluation: Evaluation, folder: Path) -> tuple[Path, ...]:
    """Write the metrics, the table of classes and the two confusion plots: `artifacts.EVALUATION_FILES`.

    Returns:
        The paths of the files.

    Raises:
        InputError: a file cannot be written.
    """
    write_text(folder / artifacts.METRICS, evaluation.to_json())
    write_text(folder / artifacts.CLASSIFICATION_REPORT, evaluation.to_csv())
    plot_confusion_matrix(evaluation, folder / artifacts.CONFUSION_MATRIX)
    plot_most_confused(evaluation, folder / artifacts.MOST_CONFUSED)
    return tuple(folder / name for name in artifacts.EVALUATION_FILES)


def write_training_plots(history: History, folder: Path) -> tuple[Path, ...]:
    """Plot the curves of a training run of at least one epoch: `TRAINING_PLOTS`, without validation the first.

    Returns:
        The paths of the files.

    Raises:
        InputError: a file cannot be written.
    """
    plot_loss_and_accuracy(history, folder / artifacts.LOSS_AND_ACCURACY)
    if not history.validated:
        return (folder / artifacts.LOSS_AND_ACCURACY,)
    plot_precision_recall(history, folder / artifacts.PRECISION_RECALL)
    plot_topk(history, folder / artifacts.TOPK)
    return tuple(folder / name for name in artifacts.TRAINING_PLOTS)


def write_gradcam_grid(model: CarClassifier, dataset: Dataset, evaluation: Evaluation, folder: Path) -> Path | None:
    """Draw right and wrong answers with their Grad-CAM++ heat maps: `artifacts.GRADCAM_GRID`.

    Args:
        model: the evaluated model.
        dataset: the images that it was evaluated on.
        evaluation: its answers to these images.
        folder: the folder to write to.

    Returns:
        The path of the file, or None if the architecture has no convolutional stage, which is logged.

    Raises:
        InputError: an image is unusable, or the file cannot be written.
        MissingExtraError: grad-cam is not installed.
    """
    from twincar_edge.training.cam_grid import (
        write_cam_grid,
    )  # imports torch, which evaluating ONNX files does not need

    return write_cam_grid(model, dataset, evaluation, folder / artifacts.GRADCAM_GRID)
