"""Small models, frames and crops for tests of visits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.support.clips import road
from tests.support.tiny_model import tiny_model
from twincar_edge.runtime.evidence import AGREEING_CROPS, Evidence, crop_vehicle
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.locating.boxes import Box
from twincar_edge.runtime.sources import Frame

MIDDLE: Box = (100, 50, 200, 110)


def classifier(path: Path, **options: object) -> Classifier:
    return Classifier(open_session(tiny_model(path, **options), ep="cpu", threads=1))  # type: ignore[arg-type]


def frame(index: int = 0) -> Frame:
    return Frame(index, index / 25, road(), "gate.mp4")


def probabilities(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def agreeing(model: Classifier, row: tuple[float, ...]) -> Evidence:
    """Return evidence of as many crops as a name needs, all with this answer."""
    return evidence_of(model, *[row] * AGREEING_CROPS)


def evidence_of(model: Classifier, *rows: tuple[float, ...], box: Box = MIDDLE) -> Evidence:
    """Return evidence of crops with these answers."""
    evidence = Evidence()
    for index, row in enumerate(rows):
        evidence.add(crop_vehicle(frame(index), box, 1.0), probabilities(*row), model)
    return evidence
