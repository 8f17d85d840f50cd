"""An event, `classify` of its saved picture, and `explain` of that picture agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import twincar_edge
from twincar_edge.images import read_image, write_image
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.inference.answers import Prediction
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.sinks import Sink
from twincar_edge.runtime.watch import CameraConfig, WatchConfig, watch


class Album(Sink):
    """Saves the picture of every event as `--save-crops` does, each in its own file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Event] = []

    def write(self, event: Event, crop_bgr: NDArray[np.uint8]) -> None:
        write_image(self.picture(len(self.events)), crop_bgr)
        self.events.append(event)

    def picture(self, number: int) -> Path:
        return self.folder / f"{number}.jpg"


def agrees_with(answer: Prediction, event: Event) -> bool:
    """Whether an answer equals or refines the event's answer; for an unknown vehicle, it must be unknown too."""
    if event.make is None:
        return answer.make is None
    parts = [(event.make, answer.make), (event.model, answer.model), (event.year, answer.year)]
    return all(expected in (None, actual) for expected, actual in parts)


@pytest.mark.shared
def test_event_picture_and_explanation_agree_on_a_street_and_on_photos(shared: Path, tmp_path: Path) -> None:
    album = Album(tmp_path)
    photos = tmp_path / "photos"
    photos.mkdir()
    for photo in sorted((shared / "cars196_more" / "images").iterdir())[:6]:
        (photos / photo.name).symlink_to(photo)
    street = str(shared / "clips" / "street_side.mp4")
    cameras = (
        CameraConfig(name="street", source=street, min_area=0.03),
        CameraConfig(name="photos", source=str(photos / "*.jpg")),
    )
    watch(WatchConfig(cameras=cameras), [album])
    classifier = Classifier()
    answers = [classifier.predict([read_image(album.picture(n))])[0] for n in range(len(album.events))]
    assert {event.level for event in album.events} >= {"unknown", "year"}  # the street has no car of the model
    for event, answer in zip(album.events, answers, strict=True):
        assert agrees_with(answer, event), (event.name, answer.name)
        assert event.best_frame == event.deciding_frames[0]
    named = next(number for number, event in enumerate(album.events) if event.level != "unknown")
    (end,) = [n for n, event in enumerate(album.events) if (event.id, event.type) == (album.events[named].id, "end")]
    for number in (named, end):
        explanation = twincar_edge.explain(album.picture(number))
        assert explanation.prediction == answers[number]
