"""The event stream: events in order, no loss from files, the newest events of cameras, and an end in every case."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.support.clips import BLUE_BGR, GREEN_BGR, RED_BGR, as_frames, drive_by, film
from tests.support.event_toys import eventually
from tests.support.tiny_model import BLUE, GREEN, RED, tiny_model
from twincar_edge.errors import InputError, ModelError
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.event_stream import EventStream
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.sources import Frame, FrameSource

CARS = film([drive_by(RED_BGR, 10), drive_by(BLUE_BGR, 90), drive_by(GREEN_BGR, 170)], 240)
EXPECTED = [(RED, "start"), (RED, "end"), (BLUE, "start"), (BLUE, "end"), (GREEN, "start"), (GREEN, "end")]
DEADLINE_S = 20.0


class Clip(FrameSource):
    """A source that records its release. `live` makes it a camera; `endless` makes it never end by itself."""

    def __init__(self, frames: Iterable[Frame], *, live: bool = False, endless: bool = False) -> None:
        super().__init__(frames)
        self.live = live
        self.given = 0
        self.released = threading.Event()
        self._endless = endless

    def __iter__(self) -> Iterator[Frame]:
        for frame in super().__iter__():
            self.given += 1
            yield frame
        if self._endless:
            self.released.wait(DEADLINE_S)

    def release(self) -> None:
        self.released.set()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return Classifier(tiny_model(tmp_path_factory.mktemp("m") / "tiny.onnx"), ep="cpu", threads=1)


def stream(source: FrameSource, classifier: Classifier, max_queue: int = 1000) -> EventStream:
    config = WatchConfig(cameras=(CameraConfig(lost_after_s=0.4),))
    return EventStream(config, classifier=classifier, sources={"camera": source}, max_queue=max_queue)


def names_and_types(events: Iterable[object]) -> list[tuple[str, str]]:
    return [(event.name, event.type) for event in events if event.type != "update"]  # type: ignore[attr-defined]


def stands_still(source: Clip) -> bool:
    before = source.given
    threading.Event().wait(0.5)
    return source.given == before


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "events" or "camera" in thread.name]


def test_all_events_arrive_in_order_and_the_summary_after_them(classifier: Classifier) -> None:
    source = Clip(as_frames(CARS))
    events = stream(source, classifier)
    assert names_and_types(events) == EXPECTED
    assert events.summary is not None and (events.summary.visits, events.summary.frames) == (3, 240)
    assert source.released.is_set() and ours() == []
    assert list(events) == []


def test_a_file_source_waits_for_a_slow_consumer_and_loses_nothing(classifier: Classifier) -> None:
    many = film([drive_by(RED_BGR, start) for start in range(10, 1000, 50)], 1050)
    source = Clip(as_frames(many))
    events = stream(source, classifier, max_queue=1)
    first = next(events)
    eventually(lambda: stands_still(source), "the loop waits for room")
    assert source.given < 1050
    rest = names_and_types(events)
    assert source.given == 1050
    assert (first.type, len(rest), events.dropped) == ("start", 39, 0)


def test_a_live_camera_does_not_wait_and_the_oldest_events_are_dropped_counted_and_logged(
    classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    source = Clip(as_frames(CARS), live=True)
    with caplog.at_level(logging.WARNING), stream(source, classifier, max_queue=2) as events:
        eventually(lambda: events.summary is not None, "the run ends without a consumer")
        assert names_and_types(events) == EXPECTED[-2:]
        assert events.dropped >= 4
    assert "event consumer too slow, events dropped so far: 1" in caplog.text


def test_leaving_the_loop_stops_the_run_and_releases_the_camera(classifier: Classifier) -> None:
    source = Clip(as_frames(CARS), endless=True)
    for event in stream(source, classifier):
        assert event.type == "start"
        break
    assert source.released.is_set() and ours() == []


def test_an_exception_in_the_with_block_releases_the_camera(classifier: Classifier) -> None:
    source = Clip(as_frames(CARS), endless=True)
    with pytest.raises(ZeroDivisionError), stream(source, classifier) as events:
        next(events)
        _ = 1 / 0
    assert source.released.is_set() and ours() == []


def test_an_unreachable_stream_in_a_reference_cycle_is_garbage_collected(classifier: Classifier) -> None:
    source = Clip(as_frames(CARS), endless=True)
    cycle: list[object] = [stream(source, classifier, max_queue=1)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert source.released.is_set() and ours() == []


def test_closing_from_another_thread_wakes_a_waiting_consumer(classifier: Classifier) -> None:
    events = stream(Clip(as_frames(CARS[:5]), endless=True), classifier)
    closing = threading.Timer(0.2, events.close)
    closing.start()
    assert list(events) == []
    closing.join()
    events.close()
    assert ours() == []


def test_ctrl_c_while_waiting_closes_the_stream(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Clip(as_frames(CARS[:5]), endless=True)
    events = stream(source, classifier)

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(events._queue, "take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(events)
    assert source.released.is_set() and ours() == []


def test_after_stop_the_vehicles_in_view_get_their_last_events(classifier: Classifier) -> None:
    source = Clip(as_frames(CARS[:30]), endless=True)
    events = stream(source, classifier)
    assert next(events).type == "start"
    events.stop()
    source.release()  # as a stopped camera without further frames does
    assert [event.type for event in events][-1] == "end"


def test_an_error_of_the_source_is_raised_to_the_consumer_after_earlier_events(classifier: Classifier) -> None:
    def failing() -> Iterator[Frame]:
        yield from as_frames(CARS[:60])
        raise InputError("the cable is cut")

    events = stream(Clip(failing()), classifier)
    assert [next(events).type, next(events).type] == ["start", "end"]
    with pytest.raises(InputError, match="the cable is cut"):
        next(events)
    assert list(events) == [] and events.summary is None and ours() == []


def test_an_unexpected_error_of_the_loop_is_raised_too(classifier: Classifier) -> None:
    def broken() -> Iterator[Frame]:
        yield from as_frames(CARS[:2])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(stream(Clip(broken()), classifier))


def test_errors_while_opening_are_raised_immediately(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no source"):
        EventStream(WatchConfig(cameras=(CameraConfig(source="missing.mp4"),)))
    source = Clip([])
    with pytest.raises(ModelError):
        EventStream(WatchConfig(model=tmp_path / "missing.onnx"), sources={"camera": source})
    with pytest.raises(InputError, match="`max_queue` must be 1 or more, found 0"):
        EventStream(WatchConfig(), max_queue=0)
    assert source.released.is_set() and ours() == []


def test_the_status_of_a_run_can_be_read_while_it_runs(classifier: Classifier) -> None:
    with stream(Clip(as_frames(CARS), endless=True), classifier) as events:
        next(events)
        assert events.status().model.name == "tiny"
        assert events.summary is None
