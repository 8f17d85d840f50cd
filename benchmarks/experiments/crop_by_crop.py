"""Runs the camera loop on a clip with ground truth, and records the answer of each crop.

The loop is unchanged, except that the evidence of a visit also records the answer of each single crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twincar_edge.metrics import softmax
from twincar_edge.runtime.evidence import CUT_WEIGHT, Evidence, VehicleCrop
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.locating.boxes import Box
from twincar_edge.runtime.sources import Frame
from twincar_edge.runtime.truth import Pass, Score, score_visits
from twincar_edge.runtime.visits import Visit, VisitMaker
from twincar_edge.runtime.watch import CameraConfig, Watch, WatchConfig


@dataclass(frozen=True)
class CropAlone:
    """A crop of a visit, and the model's answer to it alone.

    Attributes:
        probabilities: float32 [classes].
        weight: what it counts in the visit's answer.
        area_px: of its box.
        cut: the frame's border cuts it.
    """

    probabilities: NDArray[np.float32]
    weight: float
    area_px: int
    cut: bool

    @property
    def label(self) -> int:
        """Return the class of its best answer."""
        return int(self.probabilities.argmax())


class CropByCrop(Evidence):
    """Evidence that also records the answer of each single crop.

    Attributes:
        alone: each crop, by the index of its frame.
    """

    def __init__(self) -> None:
        """Start without crops."""
        super().__init__()
        self.alone: dict[int, CropAlone] = {}

    def add(
        self,
        crop: VehicleCrop,
        probabilities: NDArray[np.float32],
        classifier: Classifier,
        familiarity: float | None = None,
    ) -> None:
        """Add a classified crop."""
        super().add(crop, probabilities, classifier, familiarity)
        rows, columns = crop.picture_bgr.shape[:2]
        self.alone[crop.frame] = CropAlone(probabilities, crop.weight, rows * columns, crop.cut)


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
        crops: in frame order.
        best: the best class of the crop that is shown for the visit.
    """

    truth: Pass
    probabilities: NDArray[np.float32]
    crops: tuple[CropAlone, ...]
    best: int

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return the class of each crop's own best answer, int64 [crops]."""
        return np.array([crop.label for crop in self.crops], np.int64)

    def with_cut_weight(self, factor: float) -> NDArray[np.float32]:
        """Return the answer of all crops, float32 [classes], with another weight of those that the border cuts.

        Args:
            factor: instead of `CUT_WEIGHT`; at 0, crops that are cut count where there are no others.
        """
        logs = np.log(np.maximum(np.stack([crop.probabilities for crop in self.crops]).astype(np.float64), 1e-12))
        own = np.array([crop.weight / (CUT_WEIGHT if crop.cut else 1.0) for crop in self.crops])
        weights = own * [factor if crop.cut else 1.0 for crop in self.crops]
        return softmax(np.asarray(np.average(logs, axis=0, weights=weights if weights.any() else own), np.float32))


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
    shown = evidence.alone[evidence.shown(evidence.answer()).frame]
    return FoundVisit(truth, evidence.probabilities, tuple(evidence.alone.values()), shown.label)
