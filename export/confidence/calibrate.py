"""How sure a model may be: a temperature for its probabilities, and a threshold under which the answer is "unknown".

One pass over pictures that show no known car, then the choices of `confidence_choices` on what the models answered.
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
    ROUNDING,
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
from twincar_edge.labels import ClassMapping
from twincar_edge.metrics import (
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    softmax,
    topk_accuracy,
)
from twincar_edge.progress import Progress
from twincar_edge.runtime.inference.answers import Hierarchy, Level
from twincar_edge.runtime.inference.levels import certainty_by_level

LEAST_THRESHOLD = 0.5  # above it no two names contradict each other; familiarity rejects unknown cars by itself
FEW_IMAGES = 100  # one temperature needs little, yet this little is luck
_FEWEST_MASKED = 3  # of two classes without one, the class that is left would always be certain


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
    """Find temperature and threshold, one pair for all precisions of a checkpoint, and say what they give.

    The temperature is fitted on the first precision alone. The threshold is the lowest that holds for all of them, so
    that what is promised of unknown pictures is true of whichever file is deployed.

    Args:
        sides: the models by precision, the one that the others were made from first. Their temperatures play no part.
        logits: what each of them answers to the data set, float32 [N, classes], as `run_sides` gives it.
        dataset: labelled images that none of them was trained or calibrated on.
        classes: the names of the outputs.
        options: what is given and what is to be found.
        name: what the report calls the model.
        progress: called with (unknown pictures done, unknown pictures in all).
        unknowns: what `open_unknowns` gave for these classes and this folder; None opens them here.
        familiarity: what models judge familiarity by, by precision. With it an answer needs both, its probability and
            its familiarity, and the threshold is not chosen below `LEAST_THRESHOLD`.
        embed: these models as functions to embeddings, by precision.

    Raises:
        InputError: the data set is empty or has classes that the model does not know, logits do not fit it or are not
            finite, or the folder of unknown pictures holds none.
        ModelError: a model fails.
    """
    if not sides or set(sides) != set(logits):
        raise InputError(f"expected the logits of each model, found models {list(sides)} and logits {list(logits)}")
    labels = labels_for(dataset, classes)
    for found in logits.values():
        topk_accuracy(found, labels)  # for what it raises, before pictures are drawn
    first = logits[next(iter(sides))]
    temperature = fit_temperature(first, labels) if options.temperature is None else options.temperature

    unknowns = unknowns or open_unknowns(classes, options.unknown)
    answers = _answers(sides, unknowns.sets, progress)
    strange = _answers(embed, unknowns.sets, None) if embed else {}
    hierarchy = Hierarchy(classes.names)
    certainties = {
        precision: _certainty(
            logits[precision],
            labels,
            temperature,
            hierarchy,
            {set_name: found[precision] for set_name, found in answers.items()},
            (familiarity or {}).get(precision),
            {set_name: found[precision] for set_name, found in strange.items() if precision in found},
            unknowns,
        )
        for precision in sides
    }
    hold: tuple[str, ...] = ()
    threshold = options.reject_below
    if threshold is None:
        leading = next(iter(certainties.values()))
        hold = _to_hold(tuple(leading.unknown), options)
        threshold = max(choose_threshold(side.unknown, options.false_accept, hold) for side in certainties.values())
        if familiarity:
            threshold = max(threshold, LEAST_THRESHOLD)
    report = _report(name, dataset, logits, labels, certainties, temperature, threshold, hold, options)
    return report.model_copy(update={"warnings": (*unknowns.remarks, *_warnings(report, options))})


def _to_hold(sets: tuple[str, ...], options: ConfidenceOptions) -> tuple[str, ...]:
    """Return the sets that the threshold is chosen by: those of cars, and the others where they are asked for.

    What share of noise is named hangs on what noise one draws more than on the model, so it only counts where it is
    wanted, or where there is nothing else.
    """
    wanted = {NOISE: options.hold_noise, MASKED: options.hold_masked}
    return tuple(name for name in sets if wanted.get(name, True)) or (NOISE,)


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
    """Put the figures of what was chosen together, as yet without warnings."""
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
    """Run the models over each set: logits, float32 [N, classes], by set and precision."""
    total, done = sum(map(len, sets.values())), 0
    answers: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, dataset in sets.items():

        def tell(within: int, _: int, before: int = done) -> None:
            if progress is not None:
                progress(before + within, total)

        answers[name] = run_sides(sides, dataset, tell)
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
    """Turn a model's logits (and embeddings) of known and unknown pictures into what a threshold is judged by."""
    reached = masked_reached = None
    strangers: dict[str, dict[Level, NDArray[np.bool_]] | None] = dict.fromkeys(unknown)
    if familiarity is not None:
        reached = familiarity.reached(familiarity.similarities)
        others = familiarity.similarities.copy()
        others[np.arange(len(labels)), labels] = -np.inf
        masked_reached = familiarity.reached(others)
        for name, found in embeddings.items():
            strangers[name] = familiarity.reached(familiarity.prototypes.similarities(found))
    wrong = {
        name: wrong_probability(
            certainty_by_level(
                softmax(found, temperature), hierarchy, familiar=strangers[name], cars=unknowns.cars(name)
            )
        )
        for name, found in unknown.items()
    }
    masked = None
    if known.shape[1] >= _FEWEST_MASKED:
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
    """Say in a line each what a person should know before trusting these figures."""
    lines = []
    if report.temperature_fitted and report.data.images < FEW_IMAGES:
        lines.append(f"the temperature rests on {report.data.images} images: {FEW_IMAGES} or more would say more")
    if report.temperature_fitted and report.temperature in (LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE):
        why = "nearly every" if report.temperature == LOWEST_TEMPERATURE else "hardly any"
        lines.append(f"the temperature is at its bound {report.temperature:g}: {why} held-out image is answered right")
    if report.held == (NOISE,):
        lines.append("the threshold was chosen by noise alone: give pictures of unknown cars to choose it by")
    if options.hold_masked and MASKED not in report.unknown:
        lines.append(f"{MASKED} cannot be held: without its own class, an image of a model of two has one answer left")
    for precision, found in report.precisions.items():
        point = found.at_threshold
        for name in report.held:
            if point.unknown_named[name] > options.false_accept + ROUNDING:
                lines.append(
                    f"no threshold holds {name} to {options.false_accept:.1%}: {precision} is certain of a name for "
                    f"{point.unknown_named[name]:.1%} of them"
                )
        named = point.levels["make"].coverage
        if named < 0.5:
            lines.append(
                f"at {report.threshold:g} {precision} names only {named:.1%} of the held-out images: a higher "
                "false accept rate names more"
            )
    return lines
