"""Chooses the thresholds of an export's files so that given unknown images stay within limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from twincar_edge.export.familiarity import Familiarity
from twincar_edge.export.open_set.choose import UnknownScores, choose
from twincar_edge.export.open_set.limits import Limits
from twincar_edge.export.open_set.measure import LARGEST_SIZE, Subject
from twincar_edge.export.open_set.pictures import UnknownPictures
from twincar_edge.export.open_set.scores import Scores
from twincar_edge.manifest import UnknownLimits
from twincar_edge.metrics import softmax
from twincar_edge.runtime.inference.answers import KNOWN_LEVELS, Hierarchy


@dataclass(frozen=True)
class Held:
    """The chosen thresholds.

    Attributes:
        reject_below: the lowest probability of a name, the same for all files.
        familiarity: prototypes with the chosen familiarity thresholds, by precision.
        records: the records for the manifests, by precision.
    """

    reject_below: float
    familiarity: dict[str, Familiarity]
    records: dict[str, UnknownLimits]


def hold_unknown(
    subjects: Mapping[str, Subject],
    logits: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.int64],
    familiarity: Mapping[str, Familiarity],
    unknown: Sequence[UnknownPictures],
    limits: Limits,
    reject_below: float | None,
) -> Held:
    """Choose thresholds for each file. The probability threshold is chosen for the first file and used for all.

    Args:
        subjects: the files by precision, with their temperature.
        logits: the held-out images' logits by precision, float32 [N, classes].
        labels: the held-out images' labels, int64 [N].
        familiarity: prototypes and familiarity thresholds by precision; may be empty.
        unknown: the given images.
        limits: the largest shares of wrong names.
        reject_below: the probability threshold; None chooses it.

    Raises:
        InputError: an image is unusable, or no thresholds are within the limits.
        ModelError: inference fails.
    """
    cars = [car for one in unknown for car in one.cars]
    held = dict(familiarity)
    records = {}
    for precision, subject in subjects.items():
        known = familiarity.get(precision)
        scores = [subject.scores(one.dataset) for one in unknown]
        all_scores = scores[0]
        for more in scores[1:]:
            all_scores = all_scores.concatenate(more)
        known_scores = Scores(
            softmax(logits[precision], subject.temperature),
            None if known is None else known.similarities.max(axis=1),
            np.full(len(labels), LARGEST_SIZE),  # not used here: crop sizes are measured with the finished file
        )
        unknown_scores = UnknownScores(all_scores, cars)
        choice = choose(known_scores, labels, unknown_scores, Hierarchy(subject.classes.names), limits, reject_below)
        reject_below = choice.reject_below
        records[precision] = UnknownLimits(
            max_wrong_names=limits.names,
            max_wrong_claims=limits.claims,
            images=len(cars),
            cars=len({str(car) for car in cars if car is not None}),
            wrong_names=choice.wrong_names,
            wrong_claims=choice.wrong_claims,
        )
        if known is not None and choice.thresholds is not None:
            thresholded = replace(known, record=known.record.model_copy(update={"thresholds": choice.thresholds}))
            reached = thresholded.reached(known.similarities)
            keep = {level: float(reached[level].mean()) for level in KNOWN_LEVELS}
            held[precision] = replace(thresholded, record=thresholded.record.model_copy(update={"keep": keep}))
    assert reject_below is not None, "an export has at least one file"
    return Held(reject_below, held, records)
