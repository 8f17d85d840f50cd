"""The camera loop on one clip whose truth is known, with what each crop of a visit said alone.

The loop runs as it is, except that the evidence of a visit also records what each crop says alone.
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
    """Evidence that also records what each crop says alone.

    Attributes:
        alone: the class of each crop's best answer, by the index of its frame.
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
    """Begins a camera's visits, and keeps their evidence by the visit's id."""

    def __init__(self, source: str) -> None:
        """Start without visits."""
        super().__init__(source)
        self.evidence: dict[str, CropByCrop] = {}

    def begin(self, frame: Frame, box: Box) -> Visit:
        """Return a new visit of a vehicle that is first seen in this frame."""
        visit = super().begin(frame, box)
        visit.evidence = self.evidence[visit.id] = CropByCrop()
        return visit


@dataclass(frozen=True)
class FoundVisit:
    """A pass that became one visit, and what was said of it.

    Attributes:
        truth: the pass.
        probabilities: of all crops together, float32 [classes].
        crops: the class of each crop's own best answer, int64 [crops], in the order of the frames.
        best: that of the crop that shows the visit's answer.
    """

    truth: Pass
    probabilities: NDArray[np.float32]
    crops: NDArray[np.int64]
    best: int


@dataclass(frozen=True)
class WatchedClip:
    """A clip as the loop saw it: how many frames, its visits against the truth, and what was said of those found."""

    name: str
    frames: int
    score: Score
    found: tuple[FoundVisit, ...]


def watch_clip(clip: Path, passes: Sequence[Pass], classifier: Classifier) -> WatchedClip:
    """Run the loop on a clip with its defaults, as `watch` does, and keep what each crop said.

    Args:
        clip: a video file.
        passes: its truth.
        classifier: the model.

    Raises:
        InputError: the clip cannot be read.
        ModelError: the model fails.
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
