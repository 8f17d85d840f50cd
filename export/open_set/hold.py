"""Thresholds for the files of one export, chosen by the pictures of unknown things that were given with it."""

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
    """What was chosen.

    Attributes:
        reject_below: the least probability of a name, one for all files.
        familiarity: by precision, with the thresholds that were chosen.
        records: by precision, for the manifest.
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
    """Choose thresholds for each file. The first file chooses the probability, and all of them have it.

    Args:
        subjects: the files by precision, with their temperature.
        logits: of the held-out images, by precision, float32 [N, classes].
        labels: of these images, int64 [N].
        familiarity: what files judge familiarity by, by precision; may be empty.
        unknown: the given pictures.
        limits: the shares that are allowed.
        reject_below: the probability, where it is given.

    Raises:
        InputError: a picture is unusable, or no thresholds keep to the limits.
        ModelError: a model fails.
    """
    cars = [car for one in unknown for car in one.cars]
    held = dict(familiarity)
    records = {}
    for precision, subject in subjects.items():
        known = familiarity.get(precision)
        scores = [subject.scores(one.dataset) for one in unknown]
        together = scores[0]
        for more in scores[1:]:
            together = together.joined(more)
        of_known = Scores(
            softmax(logits[precision], subject.temperature),
            None if known is None else known.similarities.max(axis=1),
            np.full(len(labels), LARGEST_SIZE),  # of no account: sizes are measured with the finished file
        )
        choice = choose(
            of_known, labels, UnknownScores(together, cars), Hierarchy(subject.classes.names), limits, reject_below
        )
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
    assert reject_below is not None, "an export has a file"
    return Held(reject_below, held, records)
