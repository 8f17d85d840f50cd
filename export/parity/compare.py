"""Compares models image by image, and checks the comparison against the parity limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twincar_edge.dataset_logits import Side, labels_for, run_sides
from twincar_edge.datasets import Dataset
from twincar_edge.errors import InputError
from twincar_edge.export.parity.comparison import SURE_MARGIN, ClassChange, ClassPair, Comparison, Flip
from twincar_edge.export.parity.names import FP32, PYTORCH, SideName, default_pairs, title
from twincar_edge.export.parity.report import Breach, ParityLimits, ParityReport
from twincar_edge.export.parity.statistics import cosine, kl_divergence, margins, mcnemar_p, paired_difference_interval
from twincar_edge.labels import ClassMapping
from twincar_edge.metrics import at_least, at_most, expected_calibration_error, softmax, top_k, topk_accuracy
from twincar_edge.progress import Progress

__all__ = ["Answers", "Side", "check_parity", "compare", "find_breaches", "report_parity"]

_DIGITS = 4  # significant digits of per-image values, to keep the JSON short


def check_parity(
    sides: Mapping[str, Side],
    dataset: Dataset,
    classes: ClassMapping,
    limits: ParityLimits,
    name: str,
    progress: Progress | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> ParityReport:
    """Compare models image by image, each with its own preprocessing.

    Args:
        sides: the models by name: "pytorch", "fp32", "fp16", "int8"; with a provider other than the CPU's, for example
            "int8@openvino". The precision decides which limits apply to a side.
        dataset: labeled images that were not used for training or calibration.
        classes: the names of the outputs.
        limits: the parity limits.
        name: the model's name in the report.
        progress: called with (images done, total images).
        pairs: (subject, against), in the order of the report; None compares each side with the one that it was made
            from (`default_pairs`); the first side is then the reference.

    Returns:
        The report. It contains limits that were not met; these raise no error here.

    Raises:
        InputError: fewer than two sides, an empty data set, a class that the models lack, logits that are not finite,
            or a wrong number of logits.
        ModelError: inference fails.
    """
    if len(sides) < 2:
        raise InputError(f"parity needs two or more models, found {len(sides)}")
    labels_for(dataset, classes)  # raises for unknown classes before minutes of computation
    embedding_sides = {name: side.embedding() for name, side in sides.items() if side.embed is not None}

    def compared(images: Dataset, progress: Progress | None) -> ParityReport:
        logits = run_sides(sides, images, progress)
        embeddings = run_sides(embedding_sides, images) if len(embedding_sides) > 1 else {}
        answers = [Answers(side, logits[side], sides[side].temperature, embeddings.get(side)) for side in sides]
        return report_parity(answers, images, classes, limits, name, pairs)

    compared(dataset.select(sample.name for sample in dataset.samples[:1]), None)  # raises for outputs of other shapes
    return compared(dataset, progress)


class Answers(NamedTuple):
    """The outputs of a side: logits, float32 [N, classes], to be divided by `temperature`, and embeddings.

    Embeddings are float32 [N, D], or None if the side has none.
    """

    name: str
    logits: NDArray[np.float32]
    temperature: float = 1.0
    embeddings: NDArray[np.float32] | None = None


def report_parity(
    answers: Sequence[Answers],
    dataset: Dataset,
    classes: ClassMapping,
    limits: ParityLimits,
    name: str,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> ParityReport:
    """Compare models by logits that were computed earlier; otherwise as `check_parity`.

    Args:
        answers: the outputs of each side for the images of `dataset`, in their order; the reference comes first.
        dataset: the labeled images.
        classes: as in `check_parity`.
        limits: as in `check_parity`.
        name: as in `check_parity`.
        pairs: as in `check_parity`.

    Raises:
        InputError: as in `check_parity`.
    """
    by_name = {side.name: side for side in answers}
    labels = labels_for(dataset, classes)
    images = [sample.name for sample in dataset.samples]
    comparisons = tuple(
        compare(by_name[subject], by_name[against], labels, classes, images)
        for subject, against in (default_pairs(list(by_name)) if pairs is None else pairs)
    )
    breaches = tuple(breach for comparison in comparisons for breach in find_breaches(comparison, limits))
    return ParityReport(name=name, data=dataset.record(), comparisons=comparisons, limits=limits, breaches=breaches)


def compare(
    subject: Answers, against: Answers, labels: NDArray[np.int64], classes: ClassMapping, images: Sequence[str]
) -> Comparison:
    """Compare the outputs of a model with those of its reference.

    Args:
        subject: the model's outputs for N images.
        against: the reference's outputs.
        labels: int [N], the images' labels.
        classes: the names of the outputs.
        images: the names of the N images.

    Raises:
        InputError: there are no images, shapes differ or do not match `classes`, or logits are not finite.
    """
    logits, reference = subject.logits, against.logits
    if logits.shape != reference.shape:
        raise InputError(
            f"cannot compare {subject.name} and {against.name}: "
            f"their logits have the shapes {list(logits.shape)} and {list(reference.shape)}"
        )
    if logits.shape[1] != len(classes):
        raise InputError(f"{subject.name} returns {logits.shape[1]} logits per image for {len(classes)} classes")
    accuracies = {
        "top1": topk_accuracy(logits, labels, 1),
        "top5": topk_accuracy(logits, labels, 5),
        "top1_reference": topk_accuracy(reference, labels, 1),
        "top5_reference": topk_accuracy(reference, labels, 5),
    }
    right, right_reference = logits.argmax(axis=1) == labels, reference.argmax(axis=1) == labels
    probabilities = softmax(logits, subject.temperature)
    reference_probabilities = softmax(reference, against.temperature)
    same = logits.argmax(axis=1) == reference.argmax(axis=1)
    reference_margins = margins(reference_probabilities)
    sure = reference_margins > SURE_MARGIN
    difference = np.abs(logits.astype(np.float64) - reference)
    cosines = cosine(logits, reference)
    embedding_cosines = _embedding_cosines(subject, against)
    divergences = kl_divergence(reference, logits, against.temperature, subject.temperature)
    flips = _flips(probabilities, reference_probabilities, difference, labels, classes, images)
    pairs = Counter((flip.reference, flip.answer) for flip in flips)
    ranks = {pair: rank for rank, pair in enumerate(sorted(pairs, key=lambda pair: (-pairs[pair], pair)))}
    flips.sort(key=lambda flip: (ranks[flip.reference, flip.answer], -flip.reference_margin, flip.image))
    return Comparison(
        subject=subject.name,
        against=against.name,
        top1_difference_interval=paired_difference_interval(right, right_reference),
        top5_difference_interval=paired_difference_interval(_in_top5(logits, labels), _in_top5(reference, labels)),
        mcnemar_p=mcnemar_p(right, right_reference),
        agreement=float(same.mean()),
        sure_images=int(sure.sum()),
        sure_agreement=float(same[sure].mean()) if sure.any() else None,
        max_abs_logit_difference=float(difference.max()),
        mean_abs_logit_difference=float(difference.mean()),
        max_abs_logit_reference=float(np.abs(reference).max()),
        mean_cosine=float(cosines.mean()),
        min_cosine=float(cosines.min()),
        mean_embedding_cosine=None if embedding_cosines is None else float(embedding_cosines.mean()),
        min_embedding_cosine=None if embedding_cosines is None else float(embedding_cosines.min()),
        mean_kl_nats=float(divergences.mean()),
        max_kl_nats=float(divergences.max()),
        ece=expected_calibration_error(probabilities, labels),
        ece_reference=expected_calibration_error(reference_probabilities, labels),
        class_pairs=tuple(ClassPair(reference=pair[0], answer=pair[1], images=pairs[pair]) for pair in ranks),
        class_changes=_class_changes(right, right_reference, labels, classes),
        flips=tuple(flips),
        reference_margins=_rounded(reference_margins),
        max_logit_differences=_rounded(difference.max(axis=1)),
        **accuracies,
    )


def _embedding_cosines(subject: Answers, against: Answers) -> NDArray[np.float64] | None:
    """Return the cosine similarity of both sides' embeddings, float64 [N], or None if a side has no embeddings."""
    if subject.embeddings is None or against.embeddings is None:
        return None
    if subject.embeddings.shape != against.embeddings.shape:
        raise InputError(
            f"cannot compare {subject.name} and {against.name}: their embeddings have the shapes "
            f"{list(subject.embeddings.shape)} and {list(against.embeddings.shape)}"
        )
    return cosine(subject.embeddings, against.embeddings)


def find_breaches(comparison: Comparison, limits: ParityLimits) -> list[Breach]:
    """Return all limits that a comparison does not meet."""
    allowed = allowed_logit_difference(comparison, limits)
    texts = _judge_answers(comparison, limits) if allowed is None else _judge_logits(comparison, allowed)
    found = comparison.mean_embedding_cosine
    if found is not None and not at_least(found, limits.embedding_cosine):
        texts.append(
            f"{title(comparison.subject)} embeddings have a mean cosine similarity of {found:.4f} with "
            f"{title(comparison.against)}'s (limit {limits.embedding_cosine:g})"
        )
    return [Breach(subject=comparison.subject, text=text) for text in texts]


def allowed_logit_difference(comparison: Comparison, limits: ParityLimits) -> float | None:
    """Return the largest allowed difference of a logit, or None if the answers are checked instead of the logits.

    Logits are checked if both sides compute in FP32, so that only rounding can differ.
    """
    subject, against = SideName.parse(comparison.subject), SideName.parse(comparison.against)
    if subject.precision != FP32 or against.precision not in (PYTORCH, FP32):
        return None
    limit = limits.fp32_logit_difference if subject.ep == against.ep else limits.provider_logit_difference
    return limit * comparison.max_abs_logit_reference


def _judge_logits(found: Comparison, allowed: float) -> list[str]:
    if found.max_abs_logit_difference <= allowed:
        return []
    return [
        f"{title(found.subject)} logits differ from {title(found.against)}'s by up to "
        f"{found.max_abs_logit_difference:.3g} (limit {allowed:.3g})"
    ]


def _judge_answers(found: Comparison, limits: ParityLimits) -> list[str]:
    """Check a file of lower precision than its reference."""
    subject, against = title(found.subject), title(found.against)
    texts = []
    drops = (
        ("top-1", found.top1_reference - found.top1, found.top1, limits.top1_drop),
        ("top-5", found.top5_reference - found.top5, found.top5, limits.top5_drop),
    )
    for figure, drop, value, limit in drops:
        if not at_most(drop, limit):
            texts.append(
                f"{subject} {figure} drops by {100 * drop:.2f} points to {value:.2%} (limit {100 * limit:g} points)"
            )
    if not at_least(found.agreement, limits.agreement):
        texts.append(f"{subject} agrees with {against} on {found.agreement:.2%} (limit {limits.agreement:.2%})")
    if found.sure_agreement is not None and not at_least(found.sure_agreement, limits.sure_agreement):
        texts.append(
            f"{subject} agrees on {found.sure_agreement:.2%} of the {found.sure_images} images where {against} is "
            f"confident (limit {limits.sure_agreement:.2%})"
        )
    return texts


def _flips(
    probabilities: NDArray[np.float32],
    reference: NDArray[np.float32],
    difference: NDArray[np.float64],
    labels: NDArray[np.int64],
    classes: ClassMapping,
    images: Sequence[str],
) -> list[Flip]:
    """Return the images with changed answers, in data set order; all arrays except `labels` are [N, classes]."""
    answers, expected = probabilities.argmax(axis=1), reference.argmax(axis=1)
    margin, reference_margin = margins(probabilities), margins(reference)
    return [
        Flip(
            image=images[i],
            label=classes[int(labels[i])],
            reference=classes[int(expected[i])],
            reference_probability=float(reference[i, expected[i]]),
            reference_margin=float(reference_margin[i]),
            answer=classes[int(answers[i])],
            probability=float(probabilities[i, answers[i]]),
            margin=float(margin[i]),
            max_logit_difference=float(difference[i].max()),
        )
        for i in np.flatnonzero(answers != expected).tolist()
    ]


def _class_changes(
    right: NDArray[np.bool_], right_reference: NDArray[np.bool_], labels: NDArray[np.int64], classes: ClassMapping
) -> tuple[ClassChange, ...]:
    images, now, before = (
        np.bincount(labels, weights, len(classes)).astype(np.int64).tolist()
        for weights in (None, right, right_reference)
    )
    changes = [
        ClassChange(name=classes[label], images=images[label], right_reference=before[label], right=now[label])
        for label in range(len(classes))
        if now[label] != before[label]
    ]
    return tuple(sorted(changes, key=lambda change: (change.right - change.right_reference, change.name)))


def _rounded(values: NDArray[np.floating[Any]]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values.tolist())


def _in_top5(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray((top_k(logits, 5) == labels[:, None]).any(axis=1), np.bool_)
