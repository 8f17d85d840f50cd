"""Evaluates a model, given as a function, on labeled images. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from twincar_edge.arguments import checked_arguments, require_at_least
from twincar_edge.csv_lines import csv_line
from twincar_edge.dataset_logits import Predict, dataset_logits, labels_for
from twincar_edge.datasets import Dataset
from twincar_edge.errors import ModelError
from twincar_edge.labels import ClassMapping
from twincar_edge.metrics import softmax
from twincar_edge.preprocess import Preprocess
from twincar_edge.progress import Progress
from twincar_edge.training.metrics import ClassificationMetrics, classification_metrics

LISTED_CLASSES = 10
LISTED_PAIRS = 20


@dataclass(frozen=True)
class ClassReport:
    """Precision, recall and F1 of one class, from 0 to 1.

    `precision` is the share of right answers among all answers with this class, `recall` the share among its `images`
    images, `f1` their harmonic mean.
    """

    name: str
    images: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ConfusedPair:
    """How often the model answered `answer` for images of the class `truth`.

    `count` is the number of such images, `share` (0 to 1) is their share of all images of `truth`.
    """

    truth: str
    answer: str
    count: int
    share: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The metrics and answers of a model on a data set.

    >>> evaluation = tw.evaluate("models/cars.fp32.onnx", split="runs/cars")
    >>> evaluation.images, 0 <= evaluation.metrics.top1 <= 1
    (16, True)
    >>> Path("evaluation.md").write_text(evaluation.to_markdown()) > 0
    True

    Attributes:
        dataset: the data set's name.
        classes: the names of the model's outputs.
        metrics: the metrics over all images.
        per_class: the metrics of each class that has images, in output order.
        labels: int64 [N], the true output for each image, in the order of the data set's samples.
        answers: int64 [N], the output with the highest logit.
        confidences: float32 [N], the probability of that output.
        learned_from: how many of the images the model is known to have learned from; 0 if none are known.
    """

    dataset: str
    classes: ClassMapping
    metrics: ClassificationMetrics
    per_class: tuple[ClassReport, ...]
    labels: NDArray[np.int64]
    answers: NDArray[np.int64]
    confidences: NDArray[np.float32]
    learned_from: int = 0

    @property
    def warning(self) -> str | None:
        """Return in one line that the model has learned from the images; None if that is not known."""
        if not self.learned_from:
            return None
        which = "these images" if self.learned_from == self.images else f"{self.learned_from} of these images"
        return f"the model has learned from {which}: expect lower accuracy on others"

    @property
    def images(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def confusion(self) -> NDArray[np.int64]:
        """Return the confusion matrix: true classes as rows, answers as columns, int64 [classes, classes]."""
        from sklearn.metrics import confusion_matrix

        counts = confusion_matrix(self.labels, self.answers, labels=np.arange(len(self.classes)))
        return np.asarray(counts, np.int64)

    @checked_arguments
    def hardest(self, count: int = LISTED_CLASSES) -> tuple[ClassReport, ...]:
        """Return at most `count` classes with a recall below 1, the lowest first.

        Raises:
            InputError: `count` is not a number, or is negative.
        """
        require_at_least(0, count=count)
        ordered = sorted(self.per_class, key=lambda entry: (entry.recall, -entry.images, entry.name))
        return tuple(entry for entry in ordered if entry.recall < 1)[:count]

    @checked_arguments
    def most_confused(self, count: int = LISTED_PAIRS) -> tuple[ConfusedPair, ...]:
        """Return at most `count` wrong answers, the most frequent first; ties go to the larger share.

        Raises:
            InputError: `count` is not a number, or is negative.
        """
        require_at_least(0, count=count)
        wrong = self.labels != self.answers
        pairs, counts = np.unique(np.stack([self.labels[wrong], self.answers[wrong]]), axis=1, return_counts=True)
        images = np.bincount(self.labels, minlength=len(self.classes))
        found = [
            ConfusedPair(self.classes[truth], self.classes[answer], times, times / int(images[truth]))
            for (truth, answer), times in zip(pairs.T.tolist(), counts.tolist(), strict=True)
        ]
        return tuple(sorted(found, key=lambda pair: (-pair.count, -pair.share, pair.truth, pair.answer))[:count])

    def to_json(self) -> str:
        """Return the metrics as a JSON document."""
        document = {
            "dataset": self.dataset,
            "images": self.images,
            "learned_from": self.learned_from,
            "classes": len(self.classes),
            **asdict(self.metrics),
            "per_class": [asdict(entry) for entry in self.per_class],
            "most_confused": [asdict(pair) for pair in self.most_confused()],
        }
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """Return CSV rows for each class and the two averages, with the columns of scikit-learn's report."""
        metrics = self.metrics
        rows = [(entry.name, entry.precision, entry.recall, entry.f1, entry.images) for entry in self.per_class]
        macro = (metrics.macro_precision, metrics.macro_recall, metrics.macro_f1)
        weighted = (metrics.weighted_precision, metrics.weighted_recall, metrics.weighted_f1)
        rows += [("macro avg", *macro, self.images), ("weighted avg", *weighted, self.images)]
        lines: list[tuple[object, ...]] = [("class", "precision", "recall", "f1-score", "support")]
        lines += [(name, *(f"{share:.6f}" for share in shares), images) for name, *shares, images in rows]
        return "".join(map(csv_line, lines))

    def to_markdown(self) -> str:
        """Return the metrics as Markdown tables: overall, the hardest classes, and the most confused pairs."""
        lines = [
            f"Evaluation on {self.dataset}: {self.images} images of {len(self.per_class)} classes",
            *([] if self.warning is None else ["", f"Warning: {self.warning}."]),
            "",
            "| metric | value |",
            "| --- | ---: |",
            *(f"| {name} | {value} |" for name, value in _figures(self.metrics)),
        ]
        hardest, confused = self.hardest(), self.most_confused(LISTED_CLASSES)
        if hardest:
            lines += [
                "",
                "| hardest classes | images | precision | recall | F1 |",
                "| --- | ---: | ---: | ---: | ---: |",
            ]
            lines += [
                f"| {_cell(hard.name)} | {hard.images} | {hard.precision:.1%} | {hard.recall:.1%} | {hard.f1:.1%} |"
                for hard in hardest
            ]
        if confused:
            lines += ["", "| most confused class | answer | images | share of class |", "| --- | --- | ---: | ---: |"]
            lines += [
                f"| {_cell(pair.truth)} | {_cell(pair.answer)} | {pair.count} | {pair.share:.1%} |" for pair in confused
            ]
        return "\n".join(lines) + "\n"


def evaluate(
    predict: Predict,
    dataset: Dataset,
    classes: ClassMapping,
    preprocess: Preprocess,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a model on all images of a data set.

    Args:
        predict: the model: `torch_predict(model)`, a session's `run`, or any function of that type.
        dataset: usable images.
        classes: names of the model's outputs; the data set's classes are matched by name.
        preprocess: the model's preprocessing.
        batch_size: images per batch.
        progress: called with (images done, total images) after each batch.

    Raises:
        InputError: the data set is empty, an image is unusable, or the model lacks one of the classes.
        ModelError: the model does not return a logit for each class.
    """
    labels_for(dataset, classes)  # raises for an unknown class before the long computation
    return evaluate_logits(dataset_logits(predict, dataset, preprocess, batch_size, progress), dataset, classes)


def evaluate_logits(logits: NDArray[np.float32], dataset: Dataset, classes: ClassMapping) -> Evaluation:
    """Evaluate logits that were computed earlier.

    Args:
        logits: float32 [N, classes], in the order of the data set's samples.
        dataset: the labeled images.
        classes: names of the model's outputs; the data set's classes are matched by name.

    Raises:
        InputError: the data set is empty, the model lacks one of its classes, or logits are not finite.
        ModelError: there is not one logit for each image and class.
    """
    from sklearn.metrics import precision_recall_fscore_support

    labels = labels_for(dataset, classes)
    if logits.shape != (len(dataset), len(classes)):
        raise ModelError(
            f"the model returned logits of shape {list(logits.shape)}, expected {[len(dataset), len(classes)]}: "
            "use the class names that belong to the model"
        )
    metrics = classification_metrics(logits, labels)
    answers = logits.argmax(axis=1).astype(np.int64)
    present = np.unique(labels)
    columns = precision_recall_fscore_support(labels, answers, labels=present, average=None, zero_division=0)
    return Evaluation(
        dataset=dataset.name,
        classes=classes,
        metrics=metrics,
        per_class=tuple(
            ClassReport(classes[label], images, precision, recall, f1)
            for label, precision, recall, f1, images in zip(
                present.tolist(), *(column.tolist() for column in columns), strict=True
            )
        ),
        labels=labels,
        answers=answers,
        confidences=softmax(logits).max(axis=1),
    )


def _figures(metrics: ClassificationMetrics) -> list[tuple[str, str]]:
    return [
        ("top-1", f"{metrics.top1:.2%}"),
        ("top-3", f"{metrics.top3:.2%}"),
        ("top-5", f"{metrics.top5:.2%}"),
        ("macro precision", f"{metrics.macro_precision:.2%}"),
        ("macro recall (balanced accuracy)", f"{metrics.macro_recall:.2%}"),
        ("macro F1", f"{metrics.macro_f1:.2%}"),
        ("weighted precision", f"{metrics.weighted_precision:.2%}"),
        ("weighted recall", f"{metrics.weighted_recall:.2%}"),
        ("weighted F1", f"{metrics.weighted_f1:.2%}"),
        ("Cohen's kappa", f"{metrics.kappa:.4f}"),
        ("Matthews correlation (MCC)", f"{metrics.mcc:.4f}"),
        ("calibration error (ECE)", f"{metrics.ece:.2%}"),
        ("loss (cross-entropy, nats)", f"{metrics.loss:.4f}"),
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")  # a pipe in a name would end the cell
