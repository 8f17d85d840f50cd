"""How well a model answers on labelled images. Runs any model; needs no torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from sklearn.metrics import f1_score, recall_score

from twincar_edge.datasets import Dataset
from twincar_edge.inference import Predict, dataset_logits, labels_for
from twincar_edge.labels import ClassMapping
from twincar_edge.metrics import topk_accuracy
from twincar_edge.preprocess import Preprocess

LISTED_CLASSES = 10


@dataclass(frozen=True)
class ClassRecall:
    """Of the images of one class, the share (0 to 1) that was named right."""

    name: str
    images: int
    recall: float


@dataclass(frozen=True)
class Evaluation:
    """What a model reached on a data set. All figures are shares between 0 and 1.

    `top1` and `top5` count images. `macro_recall` (balanced accuracy) and `macro_f1` average over the classes that the
    data set has images of, each class the same. `per_class` holds those classes in output order.
    """

    dataset: str
    images: int
    classes: int
    top1: float
    top5: float
    macro_recall: float
    macro_f1: float
    per_class: tuple[ClassRecall, ...]

    def to_json(self) -> str:
        """Return the figures as a JSON document."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """Return the figures as a Markdown table, and below it the classes that were hardest."""
        lines = [
            f"Evaluation on {self.dataset}: {self.images} images of {len(self.per_class)} classes",
            "",
            "| figure | value |",
            "| --- | ---: |",
            f"| top-1 | {self.top1:.2%} |",
            f"| top-5 | {self.top5:.2%} |",
            f"| macro recall | {self.macro_recall:.2%} |",
            f"| macro F1 | {self.macro_f1:.2%} |",
        ]
        hardest = self.hardest()
        if hardest:
            lines += ["", "| hardest classes | images | recall |", "| --- | ---: | ---: |"]
            lines += [f"| {_cell(entry.name)} | {entry.images} | {entry.recall:.1%} |" for entry in hardest]
        return "\n".join(lines) + "\n"

    def hardest(self, count: int = LISTED_CLASSES) -> tuple[ClassRecall, ...]:
        """Return the classes of lowest recall, the lowest first, those that are always right left out."""
        ordered = sorted(self.per_class, key=lambda entry: (entry.recall, -entry.images, entry.name))
        return tuple(entry for entry in ordered if entry.recall < 1)[:count]


def evaluate(
    predict: Predict,
    dataset: Dataset,
    classes: ClassMapping,
    preprocess: Preprocess,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a model on every image of a data set.

    Args:
        predict: the model: `torch_predict(model)`, a session's `run`, or any function alike.
        dataset: images that are usable.
        classes: names of the model's outputs; the data set's classes are matched by name.
        preprocess: the model's own.
        batch_size: images in a batch.
        progress: called with (images done, images in all) after each batch.

    Raises:
        InputError: the data set is empty, an image is unusable, or the model does not know one of its classes.
        ModelError: the model does not return a logit for each class.
    """
    labels = labels_for(dataset, classes)
    logits = dataset_logits(predict, dataset, preprocess, batch_size, progress)
    top1, top5 = topk_accuracy(logits, labels, 1), topk_accuracy(logits, labels, 5)
    guesses = logits.argmax(axis=1)
    present = np.unique(labels)
    recalls = recall_score(labels, guesses, labels=present, average=None, zero_division=0)
    return Evaluation(
        dataset=dataset.name,
        images=len(dataset),
        classes=len(classes),
        top1=top1,
        top5=top5,
        macro_recall=float(np.mean(recalls)),
        macro_f1=float(f1_score(labels, guesses, labels=present, average="macro", zero_division=0)),
        per_class=tuple(
            ClassRecall(classes[int(label)], int((labels == label).sum()), float(recall))
            for label, recall in zip(present, recalls, strict=True)
        ),
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")  # a bar in a name would end the cell
