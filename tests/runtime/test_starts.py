"""A vehicle on a real street is never retracted after its start event."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from twincar_edge.runtime.configuration.config import one_camera
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks import Sink
from twincar_edge.runtime.sources import FrameSource, open_source
from twincar_edge.runtime.watch import watch


class EventRecorder(Sink):
    """A sink that records all events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event, crop_bgr: NDArray[np.uint8]) -> None:
        self.events.append(event)


@pytest.mark.shared
def test_no_start_is_retracted_if_the_detector_boxes_parts_of_a_car(shared: Path) -> None:
    """Two cars approach one after the other; for some frames, the detector boxes only parts of the first."""
    sink = EventRecorder()
    with open_source(str(shared / "clips" / "street_side.mp4")) as clip:
        frames = [frame for frame in clip if 153 <= frame.index < 275]
    config = one_camera("street", detector=shared / "models" / "yolox_nano_coco.onnx")
    watch(config, [sink], sources={"camera": FrameSource(frames)})
    starts = [event.id for event in sink.events if event.type == "start"]
    ends = [event.id for event in sink.events if event.type == "end"]
    assert len(starts) == len(ends) == 2
    assert set(starts) == set(ends)
    assert not any(event.false_positive or event.provisional for event in sink.events)
