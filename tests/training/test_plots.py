"""The plots of an evaluation and of a training show the measured values, for few and for many classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from twincar_edge.datasets import Dataset, ImageFile, Sample
from twincar_edge.errors import InputError
from twincar_edge.labels import ClassMapping
from twincar_edge.training import artifacts
from twincar_edge.training.confusion_plots import plot_confusion_matrix, plot_most_confused
from twincar_edge.training.evaluation import Evaluation, evaluate_logits
from twincar_edge.training.history import EpochMetrics, History
from twincar_edge.training.metrics import ClassificationMetrics, classification_metrics
from twincar_edge.training.plots import plot_loss_and_accuracy, plot_precision_recall, plot_topk
from twincar_edge.training.report import write_evaluation, write_training_plots

CURVES = (plot_loss_and_accuracy, plot_precision_recall, plot_topk)
NAMES = ("Audi A5 Coupe 2012", "Audi S5 Coupe 2012", "BMW M3 Coupe 2012")


def evaluation(labels: list[int], answers: list[int], names: tuple[str, ...] = NAMES) -> Evaluation:
    """Return the evaluation of a model with these answers."""
    samples = tuple(Sample(f"{i}.jpg", label, ImageFile(Path("none.jpg"))) for i, label in enumerate(labels))
    classes = ClassMapping(names)
    return evaluate_logits(
        np.eye(len(names), dtype=np.float32)[answers] * 4, Dataset("toys", classes, samples), classes
    )


def metrics(right: int) -> ClassificationMetrics:
    """Return the metrics of ten images with this number of right answers."""
    answers = [0] * 5 + [1] * 5
    logits = np.eye(6, dtype=np.float32)[[*answers[:right], *[2] * (10 - right)]]
    return classification_metrics(logits, np.array(answers))


def history(*right: int) -> History:
    """Return the history of a training with these numbers of right answers in ten, per epoch."""
    rows = (
        EpochMetrics(number, 2.0 / number, count / 12, metrics(count), 32, 1e-3, 100.0, 1.0)
        for number, count in enumerate(right, start=1)
    )
    return History(tuple(rows))


def picture(path: Path) -> np.ndarray:
    """Read a PNG and check that it is not empty."""
    assert path.read_bytes().startswith(b"\x89PNG")
    image_bgr = cv2.imread(str(path))
    assert image_bgr is not None and min(image_bgr.shape[:2]) >= 300
    assert image_bgr.std() > 2
    return image_bgr


def orange(image_bgr: np.ndarray) -> int:
    """Count the pixels in the colors of wrong answers, left of the color scales of a confusion matrix."""
    part = image_bgr[:, : int(0.8 * image_bgr.shape[1])].astype(int)
    return int((part[:, :, 2] > part[:, :, 0] + 60).sum())


@pytest.mark.parametrize("plot", CURVES)
@pytest.mark.parametrize("epochs", [1, 3, 50])
def test_curves_are_drawn_from_the_first_epoch_on(
    plot: Callable[[History, Path], None], epochs: int, tmp_path: Path
) -> None:
    plot(history(*(min(10, 2 + number) for number in range(epochs))), tmp_path / "curve.png")
    image_bgr = picture(tmp_path / "curve.png")
    assert image_bgr.shape[0] < image_bgr.shape[1] < 2000


@pytest.mark.parametrize("plot", CURVES)
def test_equal_histories_give_equal_curves_and_different_ones_differ(
    plot: Callable[[History, Path], None], tmp_path: Path
) -> None:
    for name, found in {"a": (2, 5, 7), "b": (2, 5, 7), "c": (2, 9, 7)}.items():
        plot(history(*found), tmp_path / f"{name}.png")
    drawn = [(tmp_path / f"{name}.png").read_bytes() for name in "abc"]
    assert drawn[0] == drawn[1] != drawn[2]


def test_an_epoch_without_right_answers_is_drawn(tmp_path: Path) -> None:
    for path in write_training_plots(history(0), tmp_path):
        picture(path)


def test_mistakes_are_visible_in_the_confusion_matrix(tmp_path: Path) -> None:
    labels = [0, 0, 1, 1, 2, 2]
    drawn = {}
    for name, answers in {"right": labels, "one": [0, 1, 1, 1, 2, 2], "two": [0, 1, 0, 1, 2, 2]}.items():
        plot_confusion_matrix(evaluation(labels, answers), tmp_path / f"{name}.png")
        drawn[name] = orange(picture(tmp_path / f"{name}.png"))
    assert drawn["right"] == 0
    assert 1.8 < drawn["two"] / drawn["one"] < 2.2


def test_the_confusion_matrix_has_only_classes_with_labels_or_answers(tmp_path: Path) -> None:
    many = tuple(f"Make{i} Car 2012" for i in range(150))
    plot_confusion_matrix(evaluation([3, 70], [3, 140], many), tmp_path / "few.png")
    assert max(picture(tmp_path / "few.png").shape) < 1300


def test_a_confusion_matrix_of_196_classes_has_legible_names(tmp_path: Path) -> None:
    names = tuple(f"Chevrolet{i // 8} Silverado {i} Hybrid Crew Cab 2012" for i in range(196))
    labels = [label for label in range(196) for _ in range(2)]
    answers = [label if number % 5 else (label + 7) % 196 for number, label in enumerate(labels)]
    plot_confusion_matrix(evaluation(labels, answers, names), tmp_path / "large.png")
    image_bgr = picture(tmp_path / "large.png")
    assert min(image_bgr.shape[:2]) > 196 * 16
    assert (tmp_path / "large.png").stat().st_size < 6e6
    assert orange(image_bgr) > 40 * 14 * 14  # each mistake is a visible cell


def test_bars_of_the_most_confused_pairs_are_proportional_to_their_counts(tmp_path: Path) -> None:
    labels = [0] * 8 + [1] * 4
    lengths = []
    for name, answers in {"a": [1] * 8 + [0] * 4, "b": [1] * 8 + [0] + [1] * 3}.items():
        plot_most_confused(evaluation(labels, answers), tmp_path / f"{name}.png")
        lengths.append(orange(picture(tmp_path / f"{name}.png")))
    assert lengths[0] / lengths[1] == pytest.approx(12 / 9, rel=0.1)


def test_the_plot_says_if_nothing_was_confused(tmp_path: Path) -> None:
    plot_most_confused(evaluation([0, 1, 2], [0, 1, 2]), tmp_path / "none.png")
    image_bgr = picture(tmp_path / "none.png")
    assert orange(image_bgr) == 0 and (image_bgr.min(axis=2) < 100).sum() > 500  # letters


def test_names_are_not_parsed_as_math(tmp_path: Path) -> None:
    odd = evaluation([0, 1, 2, 2], [1, 0, 2, 1], ("Aé $\\frac$ 2012", "B_c^{ $x$ 2012", "$\\"))
    assert len(write_evaluation(odd, tmp_path)) == 4


def test_all_listed_files_are_written(tmp_path: Path) -> None:
    written = write_evaluation(evaluation([0, 1, 2], [0, 2, 2]), tmp_path / "deep" / "run")
    written += write_training_plots(history(3, 6), tmp_path / "deep" / "run")
    assert [path.name for path in written] == [*artifacts.EVALUATION_FILES, *artifacts.TRAINING_PLOTS]
    assert {path.name for path in (tmp_path / "deep" / "run").iterdir()} == {path.name for path in written}


@pytest.mark.parametrize("plot", CURVES)
def test_a_failed_plot_leaves_no_file(plot: Callable[[History, Path], None], tmp_path: Path) -> None:
    (tmp_path / "curve.png").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        plot(history(3), tmp_path / "curve.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["curve.png"]


def test_names_in_characters_that_no_font_has_print_no_warnings(tmp_path: Path) -> None:
    written = write_evaluation(evaluation([0, 0, 1], [0, 1, 1], ("比亚迪 汉 2022", "吉利 星越 2021")), tmp_path)
    assert all(path.is_file() for path in written)
