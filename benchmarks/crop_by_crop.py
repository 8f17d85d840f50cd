"""The camera loop on one clip whose truth is known, with what each crop of a visit said alone.

The loop runs as it is. Only its evidence is another, which remembers each crop's answer beside what all say together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twincar_edge.runtime.evidence import Evidence, Look
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.locating.boxes import Box
from twincar_edge.runtime.sources import Frame
from twincar_edge.runtime.truth import Pass, Score, score_visits
from twincar_edge.runtime.visits import VisitMaker
from twincar_edge.runtime.watch import CameraConfig, Watch, WatchConfig


class CropByCrop(Evidence):
    """Evidence as the loop's, that also keeps what each crop says alone.

    Attributes:
        alone: the class of each crop's best answer, by the index of its frame.
    """

    def __init__(self, frame: Frame, box: Box, id: str, classifier: Classifier) -> None:
        """Begin with the frame in which the vehicle is first seen, and where."""
        super().__init__(frame, box, datetime.now(UTC), id, lambda: classifier)
        self.alone: dict[int, int] = {}

    def add(self, look: Look, probabilities: NDArray[np.float32]) -> None:
        """Take the answer for one crop."""
        super().add(look, probabilities)
        self.alone[look.frame] = int(probabilities.argmax())


class Recorder(VisitMaker):
    """Begins a camera's visits with evidence that is kept: visit `id` has `begun[int(id)]`."""

    def __init__(self, source: str, classifier: Classifier) -> None:
        """Start without visits."""
        super().__init__(source, classifier)
        self.begun: list[CropByCrop] = []
        self._model = classifier

    def begin(self, frame: Frame, box: Box) -> CropByCrop:
        """Return empty evidence for a vehicle that is first seen in this frame."""
        self.begun.append(CropByCrop(frame, box, str(len(self.begun)), self._model))
        return self.begun[-1]


@dataclass(frozen=True)
class FoundVisit:
    """A pass that became one visit, and what was said of it.

    Attributes:
        truth: the pass.
        probabilities: of all crops together, float32 [classes].
        crops: the class of each crop's own best answer, int64 [crops], in the order of the frames.
        best: that of the crop that counts most.
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
    config = WatchConfig(cameras=(CameraConfig(name="clip", source=str(clip)),), keep=True)
    with Watch(config, classifier=classifier) as run:
        (camera,) = run.cameras
        camera.maker = recorder = Recorder(camera.source.name, classifier)
        summary = run.run()
    score = score_visits(passes, summary.results)
    once = [(result.truth, result.visits[0].id) for result in score.passes if len(result.visits) == 1]
    found = tuple(_found(truth, recorder.begun[int(id)]) for truth, id in once)
    return WatchedClip(clip.name, summary.frames, score, found)


def _found(truth: Pass, evidence: CropByCrop) -> FoundVisit:
    crops = np.array(list(evidence.alone.values()), np.int64)
    return FoundVisit(truth, evidence.probabilities, crops, evidence.alone[evidence.best_frame])
