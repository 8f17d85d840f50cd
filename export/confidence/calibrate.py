"""Chooses the temperature of the probabilities and the threshold below which the answer is "unknown".

Runs the models once over images of unknown things; `choices` then chooses from the logits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from twincar_edge.dataset_logits import Side, labels_for, run_sides
from twincar_edge.datasets import Dataset
from twincar_edge.errors import InputError
from twincar_edge.export.confidence.choices import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    STEPS,
    Certainty,
    choose_threshold,
    fit_temperature,
    operating_point,
)
from twincar_edge.export.confidence.levels import masked_certainty, wrong_probability
from twincar_edge.export.confidence.report import (
    MASKED,
    NOISE,
    ConfidenceOptions,
    ConfidenceReport,
    PrecisionFigures,
    ReliabilityBin,
)
from twincar_edge.export.confidence.unknowns import Unknowns, open_unknowns
from twincar_edge.export.familiarity import Familiarity
from twincar_edge.export.open_set.choose import MIN_PROBABILITY
from twincar_edge.labels import ClassMapping
from twincar_edge.metrics import (
    at_most,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    softmax,
    topk_accuracy,
)
from twincar_edge.progress import Progress
from twincar_edge.runtime.inference.answers import Hierarchy, Level
from twincar_edge.runtime.inference.levels import certainty_by_level

FEW_IMAGES = 100  # with fewer images, a fitted temperature is unreliable
_MIN_MASKED_CLASSES = 3  # with two classes, masking one would leave the other with probability 1


def calibrate_confidence(
    sides: Mapping[str, Side],
    logits: Mapping[str, NDArray[np.float32]],
    dataset: Dataset,
    classes: ClassMapping,
    options: ConfidenceOptions,
    name: str,
    progress: Progress | None = None,
    unknowns: Unknowns | None = None,
    familiarity: Mapping[str, Familiarity] | None = None,
    embed: Mapping[str, Side] | None = None,
) -> ConfidenceReport:
    """Choose temperature and threshold, the same for all precisions of a checkpoint, and measure their effect.

    The temperature is fitted on the first precision only. The threshold is the lowest one that meets `false_accept` for
    all precisions, so that the limit holds for any deployed file.

    Args:
        sides: the models by precision, first the one that the others were made from. Their temperatures are ignored.
        logits: each model's logits for the data set, float32 [N, classes], from `run_sides`.
        dataset: labeled images that were not used for training or calibration.
        classes: the names of the outputs.
        options: temperature and threshold, or how to choose them.
        name: the model's name in the report.
        progress: called with (unknown images done, total unknown images).
        unknowns: the result of `open_unknowns` for these classes and folders; None opens them here.
        familiarity: prototypes and familiarity thresholds by precision. With these, an answer needs both its
            probability and its familiarity, and the chosen threshold is at least `MIN_PROBABILITY`.
        embed: the same models as functions to embeddings, by precision.

    Raises:
        InputError: the data set is empty or has classes that the model lacks, logits do not fit it or are not finite,
            or a folder of unknown images has no images.
        ModelError: inference fails.
    """
    if not sides or set(sides) != set(logits):
        raise InputError(f"expected logits for each model, found models {list(sides)} and logits {list(logits)}")
    labels = labels_for(dataset, classes)
    for found in logits.values():
        topk_accuracy(found, labels)  # raises for invalid logits, before images are drawn
    first = logits[next(iter(sides))]
    temperature = fit_temperature(first, labels) if options.temperature is None else options.temperature

    unknowns = unknowns or open_unknowns(classes, options.unknown)
    answers = _answers(sides, unknowns.sets, progress)
    embeddings = _answers(embed, unknowns.sets, None) if embed else {}
    hierarchy = Hierarchy(classes.names)
    certainties = {
        precision: _certainty(
            logits[precision],
            labels,
            temperature,
            hierarchy,
            {set_name: found[precision] for set_name, found in answers.items()},
            (familiarity or {}).get(precision),
            {set_name: found[precision] for set_name, found in embeddings.items() if precision in found},
            unknowns,
        )
        for precision in sides
    }
    hold: tuple[str, ...] = ()
    below_floor = None
    threshold = options.reject_below
    if threshold is None:
        leading = next(iter(certainties.values()))
        hold = _limited_sets(tuple(leading.unknown), options)
        threshold = max(choose_threshold(side.unknown, options.false_accept, hold) for side in certainties.values())
        if familiarity and threshold < MIN_PROBABILITY:
            below_floor, threshold = threshold, MIN_PROBABILITY
    report = _report(name, dataset, logits, labels, certainties, temperature, threshold, hold, options)
    update = {"below_floor": below_floor, "warnings": (*unknowns.remarks, *_warnings(report, options))}
    return report.model_copy(update=update)


def _limited_sets(sets: tuple[str, ...], options: ConfidenceOptions) -> tuple[str, ...]:
    """Return the sets that `false_accept` applies to: those of cars, and the others on request.

    The share of noise that gets a name depends more on the kind of noise than on the model. So noise counts only on
    request, or if there is no other set.
    """
    requested = {NOISE: options.hold_noise, MASKED: options.hold_masked}
    return tuple(name for name in sets if requested.get(name, True)) or (NOISE,)


def _report(
    name: str,
    dataset: Dataset,
    logits: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.int64],
    certainties: Mapping[str, Certainty],
    temperature: float,
    threshold: float,
    hold: tuple[str, ...],
    options: ConfidenceOptions,
) -> ConfidenceReport:
    """Return the report of the chosen values, without warnings."""
    leading_precision, leading = next(iter(certainties.items()))
    first = logits[leading_precision]
    thresholds = sorted({*(step / STEPS for step in range(STEPS + 1)), threshold})
    return ConfidenceReport(
        name=name,
        data=dataset.record(),
        temperature=temperature,
        temperature_fitted=options.temperature is None,
        threshold=threshold,
        false_accept=options.false_accept if options.reject_below is None else None,
        held=hold,
        unknown={set_name: len(best) for set_name, best in leading.unknown.items()},
        precisions={
            precision: _figures(logits[precision], labels, temperature, threshold, certainty)
            for precision, certainty in certainties.items()
        },
        points=tuple(operating_point(leading, at) for at in thresholds),
        reliability_before=_bins(softmax(first), labels),
        reliability_after=_bins(softmax(first, temperature), labels),
        warnings=(),
    )


def _answers(
    sides: Mapping[str, Side], sets: Mapping[str, Dataset], progress: Progress | None
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Run the models on each set; return their outputs, float32 [N, D], by set and precision."""
    total, done = sum(map(len, sets.values())), 0
    answers: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, dataset in sets.items():

        def report(within: int, _: int, before: int = done) -> None:
            if progress is not None:
                progress(before + within, total)

        answers[name] = run_sides(sides, dataset, report)
        done += len(dataset)
    return answers


def _certainty(
    known: NDArray[np.float32],
    labels: NDArray[np.int64],
    temperature: float,
    hierarchy: Hierarchy,
    unknown: Mapping[str, NDArray[np.float32]],
    familiarity: Familiarity | None,
    embeddings: Mapping[str, NDArray[np.float32]],
    unknowns: Unknowns,
) -> Certainty:
    """Return the certainties that thresholds are applied to, from logits and embeddings of known and unknown images."""
    reached = masked_reached = None
    unknown_reached: dict[str, dict[Level, NDArray[np.bool_]] | None] = dict.fromkeys(unknown)
    if familiarity is not None:
        reached = familiarity.reached(familiarity.similarities)
        others = familiarity.similarities.copy()
        others[np.arange(len(labels)), labels] = -np.inf
        masked_reached = familiarity.reached(others)
        for name, found in embeddings.items():
            unknown_reached[name] = familiarity.reached(familiarity.prototypes.similarities(found))
    wrong = {
        name: wrong_probability(
            certainty_by_level(
                softmax(found, temperature), hierarchy, familiar=unknown_reached[name], cars=unknowns.cars(name)
            )
        )
        for name, found in unknown.items()
    }
    masked = None
    if known.shape[1] >= _MIN_MASKED_CLASSES:
        masked = masked_certainty(known, labels, temperature, hierarchy, masked_reached)
        wrong[MASKED] = wrong_probability(masked)
    return Certainty(certainty_by_level(softmax(known, temperature), hierarchy, labels, reached), masked, wrong)


def _figures(
    logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float, threshold: float, certainty: Certainty
) -> PrecisionFigures:
    return PrecisionFigures(
        top1=topk_accuracy(logits, labels),
        ece_before=expected_calibration_error(softmax(logits), labels),
        ece_after=expected_calibration_error(softmax(logits, temperature), labels),
        nll_before=negative_log_likelihood(logits, labels),
        nll_after=negative_log_likelihood(logits, labels, temperature),
        at_threshold=operating_point(certainty, threshold),
    )


def _bins(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[ReliabilityBin, ...]:
    found = reliability(probabilities, labels)
    return tuple(
        ReliabilityBin(images=images, probability=min(probability, 1.0), right=right)
        for images, probability, right in zip(
            found.images.tolist(), found.probability.tolist(), found.right.tolist(), strict=True
        )
        if images
    )


def _warnings(report: ConfidenceReport, options: ConfidenceOptions) -> list[str]:
    """Return the limitations of the report, one line each."""
    lines = []
    if report.temperature_fitted and report.data.images < FEW_IMAGES:
        lines.append(f"the temperature was fitted on only {report.data.images} images: use {FEW_IMAGES} or more")
    if report.temperature_fitted and report.temperature in (LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE):
        why = "nearly all" if report.temperature == LOWEST_TEMPERATURE else "hardly any"
        lines.append(f"the temperature is at its limit of {report.temperature:g}: {why} held-out images are right")
    if report.held == (NOISE,):
        lines.append("no set but noise could raise the threshold: give images of unknown cars")
    if options.hold_masked and MASKED not in report.unknown:
        lines.append(f"{MASKED} images cannot limit the threshold: the model has only two classes")
    for precision, found in report.precisions.items():
        point = found.at_threshold
        for name in report.held:
            if not at_most(point.unknown_named[name], options.false_accept):
                lines.append(
                    f"no threshold limits wrong names for {name} to {options.false_accept:.1%}: {precision} gives "
                    f"{point.unknown_named[name]:.1%} of them a name at {report.threshold:g}"
                )
        named = point.levels["make"].coverage
        if named < 0.5:
            lines.append(
                f"at {report.threshold:g}, {precision} names only {named:.1%} of the held-out images: raise the false "
                "accept rate to name more"
            )
    return lines
