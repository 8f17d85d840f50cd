"""Runs the camera loop on a clip with ground truth, and records the answer of each crop.

The loop is unchanged, except that the evidence of a visit also records the answer of each single crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twincar_edge.runtime.evidence import Evidence, Look
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.locating.boxes import Box
from twincar_edge.runtime.sources import Frame
from twincar_edge.runtime.truth import Pass, Score, score_visits
from twincar_edge.runtime.visits import Visit, VisitMaker
from twincar_edge.runtime.watch import CameraConfig, Watch, WatchConfig


class CropByCrop(Evidence):
    """Evidence that also records the answer of each single crop.

    Attributes:
        alone: the best class of each crop, by the index of its frame.
    """

    def __init__(self) -> None:
        """Start without crops."""
        super().__init__()
        self.alone: dict[int, int] = {}

    def add(
        self,
        look: Look,
        probabilities: NDArray[np.float32],
        classifier: Classifier,
        familiarity: float | None = None,
    ) -> None:
        """Add a classified crop."""
        super().add(look, probabilities, classifier, familiarity)
        self.alone[look.frame] = int(probabilities.argmax())


class Recorder(VisitMaker):
    """Starts the visits of a camera, and keeps their evidence by the visit's id."""

    def __init__(self, source: str) -> None:
        """Start without visits."""
        super().__init__(source)
        self.evidence: dict[str, CropByCrop] = {}

    def begin(self, frame: Frame, box: Box) -> Visit:
        """Return a new visit of a vehicle that first appears in this frame."""
        visit = super().begin(frame, box)
        visit.evidence = self.evidence[visit.id] = CropByCrop()
        return visit


@dataclass(frozen=True)
class FoundVisit:
    """A pass that was found as exactly one visit, with the answers.

    Attributes:
        truth: the pass.
        probabilities: the visit's probabilities from all crops, float32 [classes].
        crops: the best class of each single crop, int64 [crops], in frame order.
        best: the best class of the crop that is shown for the visit.
    """

    truth: Pass
    probabilities: NDArray[np.float32]
    crops: NDArray[np.int64]
    best: int


@dataclass(frozen=True)
class WatchedClip:
    """The results of a clip: its frames, the score of its visits, and the passes found exactly once."""

    name: str
    frames: int
    score: Score
    found: tuple[FoundVisit, ...]


def watch_clip(clip: Path, passes: Sequence[Pass], classifier: Classifier) -> WatchedClip:
    """Run the loop on a clip with the defaults of `watch`, and record the answer of each crop.

    Args:
        clip: a video file.
        passes: the ground truth.
        classifier: the model.

    Raises:
        InputError: the clip cannot be read.
        ModelError: inference fails.
    """
    config = WatchConfig(cameras=(CameraConfig(name="clip", source=str(clip), locate="motion"),), keep=True)
    with Watch(config, classifier=classifier) as run:
        (camera,) = run.cameras
        camera.maker = recorder = Recorder(camera.source.name)
        summary = run.run()
    score = score_visits(passes, summary.results)
    once = [(result.truth, result.visits[0].id) for result in score.passes if len(result.visits) == 1]
    found = tuple(_found(truth, recorder.evidence[id]) for truth, id in once)
    return WatchedClip(clip.name, summary.frames, score, found)


def _found(truth: Pass, evidence: CropByCrop) -> FoundVisit:
    crops = np.array(list(evidence.alone.values()), np.int64)
    return FoundVisit(truth, evidence.probabilities, crops, evidence.alone[evidence.shown(evidence.answer()).frame])
