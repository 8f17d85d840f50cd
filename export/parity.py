"""Parity: do the files that export wrote answer as the model that was trained does, image by image?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from twincar_edge.datasets import Dataset
from twincar_edge.errors import InputError
from twincar_edge.export.report import SURE_MARGIN, Breach, Comparison, Flip, ParityLimits, ParityReport
from twincar_edge.inference import Predict, dataset_logits, labels_for
from twincar_edge.labels import ClassMapping
from twincar_edge.metrics import softmax, topk_accuracy
from twincar_edge.preprocess import Preprocess

_ROUNDING = 1e-9  # 3 images of 600 are half a point, which binary fractions do not hold exactly


def check_parity(
    predicts: Mapping[str, Predict],
    dataset: Dataset,
    classes: ClassMapping,
    preprocess: Preprocess,
    limits: ParityLimits,
    name: str,
    progress: Callable[[int, int], None] | None = None,
) -> ParityReport:
    """Compare models image by image, in one pass through the one preprocessing.

    Args:
        predicts: the models, each made from the one before it: "pytorch", "fp32" and, where there is one, "int8".
        dataset: labelled images that none of them was trained or calibrated on.
        classes: the names of the outputs.
        preprocess: the models' own.
        limits: what may be lost.
        name: what the report calls the model.
        progress: called with (images done, images in all).

    Returns:
        The report. Limits that were missed are in it; they raise nothing here.

    Raises:
        InputError: the data set is empty, has classes that the model does not know, or logits are not finite.
        ModelError: a model fails.
    """
    labels = labels_for(dataset, classes)

    def side_by_side(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.concatenate([predict(batch_nhwc) for predict in predicts.values()], axis=1)

    logits = np.split(dataset_logits(side_by_side, dataset, preprocess, progress=progress), len(predicts), axis=1)
    images = [sample.name for sample in dataset.samples]
    sides = list(zip(predicts, logits, strict=True))
    comparisons = tuple(compare(after, before, labels, classes, images) for before, after in pairwise(sides))
    breaches = tuple(breach for comparison in comparisons for breach in find_breaches(comparison, limits))
    return ParityReport(name=name, data=dataset.record(), comparisons=comparisons, limits=limits, breaches=breaches)


Side = tuple[str, NDArray[np.float32]]


def compare(
    subject: Side, against: Side, labels: NDArray[np.int64], classes: ClassMapping, images: Sequence[str]
) -> Comparison:
    """Compare one model's logits with those of the model that it was made from.

    Args:
        subject: its name and its logits, float32 [N, classes].
        against: the reference's name and logits.
        labels: int [N], what the images are.
        classes: the names of the outputs.
        images: the names of the N images.

    Raises:
        InputError: there are no images, the shapes differ, or logits are not finite.
    """
    logits, reference = subject[1], against[1]
    if logits.shape != reference.shape:
        raise InputError(f"{subject[0]} gives logits {list(logits.shape)}, {against[0]} {list(reference.shape)}")
    accuracies = {
        "top1": topk_accuracy(logits, labels, 1),
        "top5": topk_accuracy(logits, labels, 5),
        "top1_reference": topk_accuracy(reference, labels, 1),
        "top5_reference": topk_accuracy(reference, labels, 5),
    }
    answers, expected = logits.argmax(axis=1), reference.argmax(axis=1)
    probabilities, reference_probabilities = softmax(logits), softmax(reference)
    same = answers == expected
    sure = _margins(reference_probabilities) > SURE_MARGIN
    difference = np.abs(logits.astype(np.float64) - reference)
    flips = tuple(
        Flip(
            image=images[i],
            label=classes[int(labels[i])],
            reference=classes[int(expected[i])],
            reference_probability=float(reference_probabilities[i, expected[i]]),
            answer=classes[int(answers[i])],
            probability=float(probabilities[i, answers[i]]),
        )
        for i in np.flatnonzero(~same).tolist()
    )
    return Comparison(
        subject=subject[0],
        against=against[0],
        agreement=float(same.mean()),
        sure_images=int(sure.sum()),
        sure_agreement=float(same[sure].mean()) if sure.any() else None,
        max_abs_logit_difference=float(difference.max()),
        mean_abs_logit_difference=float(difference.mean()),
        max_abs_logit_reference=float(np.abs(reference).max()),
        flips=flips,
        **accuracies,
    )


def find_breaches(comparison: Comparison, limits: ParityLimits) -> list[Breach]:
    """Return every limit that a comparison misses."""
    texts = _JUDGES[comparison.subject](comparison, limits)
    return [Breach(subject=comparison.subject, text=text) for text in texts]


def _judge_fp32(found: Comparison, limits: ParityLimits) -> list[str]:
    allowed = limits.fp32_logit_difference * found.max_abs_logit_reference
    if found.max_abs_logit_difference <= allowed:
        return []
    return [f"FP32 logits differ from PyTorch's by up to {found.max_abs_logit_difference:.3g} (limit {allowed:.3g})"]


def _judge_int8(found: Comparison, limits: ParityLimits) -> list[str]:
    texts = []
    drops = (
        ("top-1", found.top1_reference - found.top1, found.top1, limits.int8_top1_drop),
        ("top-5", found.top5_reference - found.top5, found.top5, limits.int8_top5_drop),
    )
    for figure, drop, value, limit in drops:
        if drop > limit + _ROUNDING:
            texts.append(f"INT8 {figure} falls by {drop:.2%} to {value:.2%} (limit {limit:.2%})")
    if found.agreement < limits.int8_agreement - _ROUNDING:
        texts.append(f"INT8 agrees with FP32 on {found.agreement:.2%} (limit {limits.int8_agreement:.2%})")
    if found.sure_agreement is not None and found.sure_agreement < limits.int8_sure_agreement - _ROUNDING:
        texts.append(
            f"INT8 agrees on {found.sure_agreement:.2%} of the {found.sure_images} images where FP32 is sure "
            f"(limit {limits.int8_sure_agreement:.2%})"
        )
    return texts


_JUDGES: dict[str, Callable[[Comparison, ParityLimits], list[str]]] = {"fp32": _judge_fp32, "int8": _judge_int8}


def _margins(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the difference between the two best probabilities of each row; one class alone is always sure."""
    if probabilities.shape[1] == 1:
        return probabilities[:, 0]
    best = np.sort(probabilities, axis=1)[:, -2:]
    return np.asarray(best[:, 1] - best[:, 0], np.float32)
