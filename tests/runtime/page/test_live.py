"""The live part of the page, over HTTP: pictures only for viewers, and visits as they happen."""

from __future__ import annotations

import http.client
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from tests.support.clips import RED_BGR, drive_by, film, write_video
from tests.support.event_toys import CROP, MOMENT, eventually, visit, visits
from tests.support.pages import repeating
from tests.support.tiny_model import RED, tiny_model
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.configuration.page_settings import PageSettings
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.loop.answering import LiveFrame, LiveTrack
from twincar_edge.runtime.monitoring.health import HealthLimits
from twincar_edge.runtime.monitoring.status import CameraStatus, LoopStatus, ModelStatus
from twincar_edge.runtime.page.content import Content, Running
from twincar_edge.runtime.page.pictures import INTERVAL_S, MAX_WIDTH, LivePictures, shrunk
from twincar_edge.runtime.page.server import PageServer
from twincar_edge.runtime.page.streaming import MAX_STREAMS
from twincar_edge.runtime.page.tokens import Tokens
from twincar_edge.runtime.service import Service
from twincar_edge.runtime.sinks.settings import StoreSettings
from twincar_edge.runtime.sinks.store import EventStore
from twincar_edge.runtime.sources import Frame

CAMERAS = (CameraConfig(name="gate"), CameraConfig(name="yard.v2"))
TIMEOUT_S = 20.0
STATUS = LoopStatus(
    cameras=(
        CameraStatus("gate", live=True, state="running", frames=100, frame_age_s=0.04, in_view=2),
        CameraStatus(
            "yard.v2",
            live=True,
            state="reconnecting",
            reconnects=3,
            frame_age_s=400.0,
            problem="no <answer>",
            notes=("4 things were too small",),
        ),
    ),
    model=ModelStatus("tiny", "0" * 64, "fp32", "cpu"),
    turn_age_s=0.1,
    visits={("gate", "year"): 3, ("gate", "unknown"): 1},
)


@contextmanager
def serving(folder: Path, pictures: LivePictures | None = None, *, tokens: bool = False) -> Iterator[PageServer]:
    running = None if pictures is None else Running(lambda: STATUS, HealthLimits(), pictures)

    def no_classifier() -> None:
        raise AssertionError("live views need no model")

    content = Content(folder / "events.sqlite", folder, (), no_classifier, running)  # type: ignore[arg-type]
    with PageServer(content, PageSettings(address="127.0.0.1:0", tokens=tokens)) as server:
        yield server


@pytest.fixture
def pictures() -> Iterator[LivePictures]:
    with LivePictures(CAMERAS) as pictures:
        yield pictures


@pytest.fixture
def page(tmp_path: Path, pictures: LivePictures) -> Iterator[PageServer]:
    with serving(tmp_path, pictures) as server:
        yield server


@contextmanager
def get(page: PageServer, path: str, token: str | None = None) -> Iterator[http.client.HTTPResponse]:
    with closing(http.client.HTTPConnection(urlsplit(page.url).netloc, timeout=TIMEOUT_S)) as connection:
        connection.request("GET", path, headers={} if token is None else {"Authorization": f"Bearer {token}"})
        yield connection.getresponse()


def text(page: PageServer, path: str) -> str:
    with get(page, path) as answer:
        assert answer.status == 200
        return answer.read().decode()


def live_frame(camera: str = "gate", wide: int = 1280, index: int = 0) -> LiveFrame:
    image = np.full((wide * 9 // 16, wide, 3), 90, np.uint8)
    track = LiveTrack(1, (wide // 4, 100, wide // 2, 300), RED, "year", "90%", 4, True)
    return LiveFrame(camera, Frame(index, index / 25, image, camera), (track,))


def filming(pictures: LivePictures, camera: str = "gate") -> AbstractContextManager[None]:
    """Simulate a loop with a new frame every few milliseconds."""
    numbers = itertools.count()

    def film_next() -> None:
        number = next(numbers)
        if pictures.wants(camera):
            pictures(live_frame(camera, index=number))

    return repeating(film_next, every_s=0.005)


def next_picture(answer: http.client.HTTPResponse) -> bytes:
    length = None
    while line := answer.readline():
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
        if line == b"\r\n" and length is not None:
            return answer.read(length)
    raise AssertionError("the stream has ended")


def next_event(answer: http.client.HTTPResponse) -> tuple[str, str]:
    name, data = "", []
    while line := answer.readline().decode():
        if line.startswith("event: "):
            name = line[7:].strip()
        elif line.startswith("data: "):
            data.append(line[6:])
        elif line == "\n" and name:
            return name, "".join(data)
    raise AssertionError("the stream has ended")


def test_frames_are_wanted_only_for_viewers_and_a_few_times_per_second() -> None:
    now = [10.0]
    watcher = SimpleNamespace(wake=lambda: None)
    pictures = LivePictures(CAMERAS, lambda: now[0])
    assert not pictures.wants("gate")
    with pictures.watching("gate", watcher):
        assert pictures.wants("gate")
        assert not pictures.wants("yard.v2")
        pictures(live_frame())
        assert not pictures.wants("gate")
        now[0] += INTERVAL_S
        assert pictures.wants("gate")
    assert not pictures.wants("gate")


def test_the_loop_does_not_queue_unwanted_frames(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "gate.mp4", film([drive_by(RED_BGR, 5)], 45))
    config = WatchConfig(
        cameras=(CameraConfig(source=str(clip)),),
        model=tiny_model(tmp_path / "tiny.onnx"),
        state=tmp_path,
        page=PageSettings(address="127.0.0.1:0"),
        sinks=(StoreSettings(),),
    )
    with Service(config) as service:
        assert service.run().visits == 1
        assert service.page is not None
        assert RED in text(service.page, "/visits")
        with get(service.page, "/live/camera.jpg") as answer:
            assert answer.status == 503  # no picture was drawn


def test_all_viewers_get_the_same_pictures_with_boxes_and_limited_width(
    page: PageServer, pictures: LivePictures
) -> None:
    with filming(pictures), get(page, "/live/gate.mjpeg") as one, get(page, "/live/gate.mjpeg") as other:
        assert one.getheader("Content-Type") == "multipart/x-mixed-replace; boundary=frame"
        seen = [next_picture(one) for _ in range(3)]
        assert len(set(seen)) == 3
        assert {next_picture(other) for _ in range(3)} & set(seen)
        image = cv2.imdecode(np.frombuffer(seen[-1], np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.shape[1] == MAX_WIDTH
        assert (np.abs(image.astype(int) - 90) > 40).any()  # boxes on the gray frame
    eventually(lambda: not pictures.wants("gate"), "disconnected viewers do not count")


def test_boxes_are_scaled_with_their_picture() -> None:
    small = shrunk(live_frame(wide=1920))
    assert small.frame.image_bgr.shape == (540, 960, 3)
    assert small.tracks[0].box_xyxy == (240, 50, 480, 150)
    frame = live_frame(wide=640)
    assert shrunk(frame) is frame


def test_a_still_is_a_new_picture(page: PageServer, pictures: LivePictures) -> None:
    with filming(pictures, "yard.v2"), get(page, "/live/yard.v2.jpg") as answer:
        assert (answer.status, answer.getheader("Content-Type")) == (200, "image/jpeg")
        assert answer.getheader("Cache-Control") == "no-store"
        assert answer.read().startswith(b"\xff\xd8")
    assert not pictures.wants("yard.v2")


@pytest.mark.parametrize("path", ["/live/cellar.jpg", "/live/cellar.mjpeg", "/live/gate"])
def test_unknown_cameras_are_not_found(page: PageServer, path: str) -> None:
    with get(page, path) as answer:
        assert answer.status == 404


def test_pictures_continue_after_one_that_cannot_be_drawn(page: PageServer, pictures: LivePictures) -> None:
    with get(page, "/live/gate.mjpeg") as answer:
        eventually(lambda: pictures.wants("gate"), "the stream watches")
        broken = live_frame()
        pictures(replace(broken, frame=replace(broken.frame, image_bgr=np.zeros((0, 0, 3), np.uint8))))
        with filming(pictures):
            assert next_picture(answer).startswith(b"\xff\xd8")


def test_streams_are_limited_so_that_pages_stay_reachable(page: PageServer) -> None:
    with closing_all() as opened:
        for _ in range(MAX_STREAMS):
            answer = opened(get(page, "/visits.stream"))
            assert answer.status == 200
        with get(page, "/live/gate.mjpeg") as refused:
            assert refused.status == 503
            assert "close one" in refused.read().decode()
        assert "gate" in text(page, "/")
    eventually(lambda: streams_open(page), "closed streams release their places")


@contextmanager
def closing_all() -> Iterator[Callable[..., http.client.HTTPResponse]]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield stack.enter_context


def streams_open(page: PageServer) -> bool:
    with get(page, "/visits.stream") as answer:
        return answer.status == 200


def test_streams_end_properly_when_the_page_stops(tmp_path: Path, pictures: LivePictures) -> None:
    before = threading.active_count()
    with closing_all() as opened:
        with serving(tmp_path, pictures) as page:
            answers = [opened(get(page, path)) for path in ("/visits.stream", "/live/gate.mjpeg")]
        for answer in answers:
            answer.read()  # raises if the connection breaks before the end
    assert threading.active_count() == before


def read_to_end(answer: http.client.HTTPResponse) -> None:
    until_s = time.monotonic() + TIMEOUT_S
    while answer.read1(2**16):
        assert time.monotonic() < until_s, "the stream continues"


def test_streams_end_soon_after_their_token_is_removed(tmp_path: Path, pictures: LivePictures) -> None:
    tokens = Tokens(tmp_path)
    anna, otto = tokens.add("anna", "view"), tokens.add("otto", "view")
    with serving(tmp_path, pictures, tokens=True) as page, filming(pictures), closing_all() as opened:
        busy = opened(get(page, "/live/gate.mjpeg", anna))
        silent = [opened(get(page, path, anna)) for path in ("/live/yard.v2.mjpeg", "/visits.stream")]
        others = opened(get(page, "/live/gate.mjpeg", otto))
        next_picture(busy)
        tokens.remove("anna")
        for answer in (busy, *silent):
            read_to_end(answer)
        next_picture(others)


def test_camera_cards_show_status_and_problems(page: PageServer) -> None:
    for path in ("/", "/cameras"):
        shown = " ".join(text(page, path).split())
        assert "4 visits, 25% unknown" in shown
        assert "2 in view" in shown
        assert "reconnected 3 times" in shown
        assert "newest frame 7 min ago" in shown
        assert "4 things were too small" in shown
        assert "no &lt;answer&gt;" in shown
        assert "no frame from camera yard.v2 for 400 s" in shown
        assert 'src="/live/yard.v2.jpg"' in shown


def test_a_page_without_a_loop_explains_how_to_get_live_pictures(tmp_path: Path) -> None:
    with serving(tmp_path) as page:
        assert "twincar-edge watch SOURCE --page" in text(page, "/")
        with get(page, "/live/gate.jpg") as answer:
            assert answer.status == 404


def write(store: EventStore, *events: Event) -> None:
    for event in events:
        store.write(event, CROP)


@contextmanager
def opened_store(folder: Path) -> Iterator[EventStore]:
    with EventStore(folder / "events.sqlite") as store:
        yield store


def shown_visit(card: str) -> str:
    found = re.search(r'data-visit="([^"]*)"', card)
    assert found is not None
    return found[1]


def test_the_stream_sends_all_newest_visits_then_changes(tmp_path: Path) -> None:
    with serving(tmp_path) as page, opened_store(tmp_path) as store:
        first, second, third = visits(3)
        write(store, first)
        with get(page, "/visits.stream") as answer:
            assert answer.getheader("Content-Type").startswith("text/event-stream")
            name, card = next_event(answer)
            assert (name, shown_visit(card)) == ("visit", "0")
            write(store, second.model_copy(update={"type": "start", "ended_at": None}))
            assert "Castor" in next_event(answer)[1]
            write(store, second.model_copy(update={"name": "<script>alert(1)</script>"}))
            name, card = next_event(answer)
            assert (name, shown_visit(card)) == ("visit", "1")
            assert "&lt;script&gt;" in card
            assert "<script>" not in card
            write(store, third, third.model_copy(update={"false_positive": True}), first)
            write(store, third.model_copy(update={"type": "start"}))
            assert shown_visit(next_event(answer)[1]) == "2"
            write(store, third.model_copy(update={"false_positive": True}))
            assert next_event(answer) == ("gone", "2\n")


def test_a_visit_is_sent_within_a_second_even_if_the_store_is_created_later(tmp_path: Path) -> None:
    with serving(tmp_path) as page, get(page, "/visits.stream") as answer:
        assert "No vehicle has passed yet" in text(page, "/")
        with opened_store(tmp_path) as store:
            took_s = []
            for event in visits(3):
                write(store, event)
                began_s = time.monotonic()
                assert shown_visit(next_event(answer)[1]) == event.id
                took_s.append(time.monotonic() - began_s)
        assert min(took_s) < 1


def test_visits_displaced_by_newer_ones_are_not_sent_as_gone(tmp_path: Path) -> None:
    with serving(tmp_path) as page, opened_store(tmp_path) as store, get(page, "/visits.stream") as answer:
        for event in visits(26):
            write(store, event)
        seen = []
        while "25" not in seen:
            name, card = next_event(answer)
            assert name == "visit"
            seen.append(shown_visit(card))
        late = visit(id="late", started_at=MOMENT + timedelta(hours=1))
        write(store, late)
        assert shown_visit(next_event(answer)[1]) == "late"
