"""The threads of the camera loop: queueing, dropping, isolated failures, and shutdown."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.clips import BLUE_BGR, RED_BGR, Car, Image, as_frames, drive_by, film, road
from tests.support.event_toys import eventually
from tests.support.tiny_model import BLUE, RED, tiny_model
from twincar_edge.errors import InputError, ModelError
from twincar_edge.runtime.backoff import Backoff
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.evidence import crop_vehicle
from twincar_edge.runtime.inference.classifier import Classifier, Judgement
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.locating.boxes import Detection
from twincar_edge.runtime.locating.locate import LocateOptions, Locator, Motion
from twincar_edge.runtime.loop import camera
from twincar_edge.runtime.loop.answering import Answering
from twincar_edge.runtime.loop.inbox import Crop, End, Inbox, Item, Shown
from twincar_edge.runtime.monitoring.stages import Stages
from twincar_edge.runtime.sinks import Sink
from twincar_edge.runtime.sources import Frame, FrameSource, Source
from twincar_edge.runtime.sources.live import LiveSource
from twincar_edge.runtime.sources.live_rules import LiveRules
from twincar_edge.runtime.visits import Visit, VisitMaker
from twincar_edge.runtime.watch import CameraConfig, Watch, WatchConfig, watch

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return Classifier(open_session(tiny_model(tmp_path_factory.mktemp("m") / "tiny.onnx"), ep="cpu", threads=1))


def cameras(*names: str, **options: object) -> tuple[CameraConfig, ...]:
    return tuple(CameraConfig(name=name, **options) for name in names)  # type: ignore[arg-type]


class Standing(Locator):
    """Finds one standing vehicle, whose box scales with the picture."""

    moves = True

    def locate(self, frame: Frame) -> list[Detection]:
        rows, columns = frame.image_bgr.shape[:2]
        return [Detection((columns // 4, rows // 4, columns // 2, rows // 2))]


def test_visits_end_when_the_picture_size_changes(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "make_locator", lambda _name, _options: Standing())
    sizes = [(240, 320)] * 10 + [(300, 400)] * 10
    frames = [Frame(index, index / 25, np.zeros((*shape, 3), np.uint8), "gate") for index, shape in enumerate(sizes)]
    config = WatchConfig(cameras=cameras("gate", source="gate", min_travel=0.0), keep=True)
    summary = watch(config, sources={"gate": FrameSource(frames)}, classifier=classifier)
    assert [(event.first_frame, event.last_frame, event.direction) for event in summary.results] == [
        (0, 9, "none"),
        (10, 19, "none"),
    ]


# --- the queue ---


def visit() -> Visit:
    return Visit("the-id", datetime(2025, 1, 1, tzinfo=UTC), Frame(0, 0.0, road(), "clip"), (0, 0, 10, 10))


def crop(of: Visit, index: int = 0, camera: str = "gate") -> Crop:
    queued = crop_vehicle(Frame(index, index / 25, road(), "clip"), (0, 0, 10, 10), 1.0)
    return Crop(camera, of, queued, True, 0.0)


def test_items_are_taken_in_order_and_at_most_a_batch_of_crops() -> None:
    inbox = Inbox(depth=10)
    inbox.add_writer()
    first, second = visit(), visit()
    items: list[Item] = [crop(first, 0), crop(second, 0), End("gate", first, True), crop(second, 1)]
    inbox.put(items)
    assert inbox.take(2, 0.0) == items[:3]  # an end needs no inference, so it does not count
    assert inbox.take(2, 0.0) == items[3:]
    assert inbox.take(2, 0.0) == []


def test_only_the_newest_crop_of_a_live_vehicle_is_queued_and_its_end_after_it() -> None:
    inbox = Inbox(depth=1)
    inbox.add_writer()
    first, second = visit(), visit()
    for index in range(50):
        inbox.put([crop(first, index), crop(second, index)], newest_only=True)
    end = End("gate", first, True)
    inbox.put([end], newest_only=True)
    assert inbox.waiting() == {"gate": 2}
    taken = inbox.take(8, 0.0)
    assert taken is not None
    assert [(item.visit, item.crop.frame) for item in taken if isinstance(item, Crop)] == [
        (first, 49),
        (second, 49),
    ]
    assert taken[2] is end
    assert inbox.replaced() == {"gate": 98}
    assert inbox.waiting() == {"gate": 0}


def test_the_writer_of_a_file_blocks_when_the_queue_is_full_and_loses_nothing() -> None:
    inbox = Inbox(depth=2)
    car = visit()

    def feed() -> None:
        for index in range(20):
            inbox.put([crop(car, index), Shown("gate", Frame(index, 0.0, road(), "clip"), (), ())])
        inbox.remove_writer()

    inbox.add_writer()
    thread = threading.Thread(target=feed)
    thread.start()
    seen: list[int] = []
    while (items := inbox.take(4, DEADLINE_S)) is not None:
        assert sum(inbox.waiting().values()) <= 3  # the items of one frame are queued together
        seen += [item.crop.frame for item in items if isinstance(item, Crop)]
    thread.join()
    assert seen == list(range(20))


def test_the_queue_is_limited_by_memory() -> None:
    pictures = 5
    inbox = Inbox(depth=20, memory=pictures * crop(visit()).crop.picture_bgr.nbytes, least=2)
    inbox.add_writer()
    for index in range(pictures):
        inbox.put([crop(visit(), index)])
    waits = threading.Thread(target=inbox.put, args=([crop(visit(), pictures)],))
    waits.start()
    waits.join(0.2)
    assert waits.is_alive()
    assert inbox.waiting() == {"gate": pictures}
    assert inbox.take(1, DEADLINE_S) is not None
    waits.join(DEADLINE_S)
    assert not waits.is_alive()


def test_a_blocked_writer_does_not_block_another_camera() -> None:
    inbox = Inbox(depth=1)
    inbox.add_writer()
    inbox.add_writer()
    inbox.put([crop(visit(), camera="full")])
    waits = threading.Thread(target=inbox.put, args=([crop(visit(), camera="full")],))
    waits.start()
    inbox.put([crop(visit(), camera="free")])
    taken = inbox.take(8, DEADLINE_S)
    assert taken is not None
    assert {item.camera for item in taken} == {"full", "free"}
    waits.join(DEADLINE_S)
    assert not waits.is_alive()


def test_closing_the_queue_wakes_all_waiting_threads() -> None:
    inbox = Inbox(depth=1)
    inbox.add_writer()
    inbox.put([crop(visit())])
    waits = threading.Thread(target=inbox.put, args=([crop(visit())],))
    waits.start()
    inbox.close()
    waits.join(DEADLINE_S)
    assert not waits.is_alive()
    assert inbox.take(1, DEADLINE_S) is None


# --- several cameras ---


def test_cameras_share_a_model_and_keep_their_events_separate(classifier: Classifier) -> None:
    sources: dict[str, Source] = {
        "north": FrameSource(as_frames(film([drive_by(RED_BGR, 10)], 60)), name="north.mp4"),
        "south": FrameSource(as_frames(film([drive_by(BLUE_BGR, 10, to_the_right=False)], 80)), name="south.mp4"),
    }
    summary = watch(WatchConfig(cameras=cameras(*sources), keep=True), sources=sources, classifier=classifier)
    found = {(one.camera, one.source, one.name, one.direction) for one in summary.results}
    assert found == {
        ("north", "north.mp4", RED, "left_to_right"),
        ("south", "south.mp4", BLUE, "right_to_left"),
    }
    assert [(one.name, one.frames, one.visits, one.error) for one in summary.cameras] == [
        ("north", 60, 1, None),
        ("south", 80, 1, None),
    ]
    assert (summary.frames, summary.visits) == (140, 2)


def test_crops_of_different_cameras_are_batched_together(classifier: Classifier) -> None:
    batches: list[int] = []
    all_wait = threading.Barrier(3, timeout=DEADLINE_S)

    class Counting(Classifier):
        def judge(self, images_bgr: Sequence[NDArray[np.uint8]]) -> Judgement:
            if not batches:  # during the first inference, crops of all cameras arrive
                eventually(lambda: sum(map(bool, loop.inbox.waiting().values())) == 3, "all wait", DEADLINE_S)
            batches.append(len(images_bgr))
            return super().judge(images_bgr)

    def pictures() -> Iterator[Frame]:
        all_wait.wait()
        yield from as_frames(film([drive_by(RED_BGR, 10)], 60))

    names = ("a", "b", "c")
    sources: dict[str, Source] = {name: FrameSource(pictures()) for name in names}
    config = WatchConfig(cameras=cameras(*names), keep=True)
    with Watch(config, sources=sources, classifier=Counting(classifier.session)) as loop:
        summary = loop.run()
    assert summary.visits == 3
    assert sum(batches) == sum(one.crops for one in summary.results)
    assert len(batches) < sum(batches)
    assert max(batches) <= 8


def failing(after: int) -> Iterator[Frame]:
    yield from as_frames(film([drive_by(RED_BGR, 5)], after))
    raise InputError("the camera is on fire")


def test_a_failing_camera_ends_alone_and_keeps_its_visits(classifier: Classifier) -> None:
    sources: dict[str, Source] = {
        "burning": FrameSource(failing(25)),
        "well": FrameSource(as_frames(film([drive_by(BLUE_BGR, 40)], 90))),
    }
    summary = watch(WatchConfig(cameras=cameras(*sources), keep=True), sources=sources, classifier=classifier)
    assert {(one.camera, one.name) for one in summary.results} == {("burning", RED), ("well", BLUE)}
    assert [one.error for one in summary.cameras] == ["the camera is on fire", None]


def test_the_error_of_the_only_camera_is_raised_and_not_logged_too(
    classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InputError, match="on fire"):
        watch(WatchConfig(), sources={"camera": FrameSource(failing(5))}, classifier=classifier)
    assert "on fire" not in caplog.text


def test_the_log_names_each_of_several_cameras_that_fail(
    classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    sources: dict[str, Source] = {name: FrameSource(failing(5)) for name in ("a", "b")}
    with pytest.raises(InputError, match="on fire"):
        watch(WatchConfig(cameras=cameras("a", "b")), sources=sources, classifier=classifier)
    assert sorted(record.getMessage() for record in caplog.records if record.levelname == "ERROR") == [
        "camera a has ended: the camera is on fire",
        "camera b has ended: the camera is on fire",
    ]


def test_a_bug_in_a_cameras_thread_ends_the_run(classifier: Classifier) -> None:
    def buggy() -> Iterator[Frame]:
        yield from as_frames(film([], 3))
        raise ZeroDivisionError

    sources: dict[str, Source] = {"a": FrameSource(buggy()), "b": FrameSource(as_frames(film([], 30)))}
    with pytest.raises(ZeroDivisionError):
        watch(WatchConfig(cameras=cameras("a", "b")), sources=sources, classifier=classifier)


def test_a_model_that_fails_ends_the_run_and_all_threads(classifier: Classifier) -> None:
    class Broken(Classifier):
        def judge(self, images_bgr: Sequence[NDArray[np.uint8]]) -> Judgement:
            raise ModelError("out of memory")

    before = threading.active_count()
    source = FrameSource(as_frames(film([drive_by(RED_BGR, 5)], 400)))
    with pytest.raises(ModelError, match="out of memory"):
        watch(WatchConfig(), sources={"camera": source}, classifier=Broken(classifier.session))
    assert threading.active_count() == before


def test_two_cameras_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="two cameras have the name 'gate'"):
        WatchConfig(cameras=cameras("gate", "yard", "gate"))


# --- replacing the model during a run ---


def test_after_a_model_change_each_visit_is_answered_by_exactly_one_model(
    classifier: Classifier, tmp_path: Path
) -> None:
    other = Classifier(open_session(tiny_model(tmp_path / "other.onnx", temperature=1.5), ep="cpu", threads=1))
    cars = [drive_by(RED_BGR, 5), drive_by(BLUE_BGR, 60)]
    runs: list[Watch] = []

    def pictures() -> Iterator[Frame]:
        for frame in as_frames(film(cars, 110)):
            if frame.index == 45:
                deadline = threading.Event()
                while runs[0].answering.visits.total() == 0:  # the red car has left
                    assert not deadline.wait(0.01)
                runs[0].answering.use(other)
            yield frame

    with Watch(WatchConfig(keep=True), sources={"camera": FrameSource(pictures())}, classifier=classifier) as run:
        runs.append(run)
        summary = run.run()
    models = [classifier.session.sha256, other.session.sha256]
    assert [(one.name, one.classifier.sha256) for one in summary.results] == list(zip((RED, BLUE), models, strict=True))


# --- start, update, end ---


class EventRecorder(Sink):
    """A sink that records all events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event, crop_bgr: NDArray[np.uint8]) -> None:
        assert crop_bgr.size
        self.events.append(event)


def test_a_visit_starts_once_and_ends_once_under_one_id(classifier: Classifier) -> None:
    sink = EventRecorder()
    cars = [drive_by(RED_BGR, 10), Car(BLUE_BGR, 60, 90, 320, -90)]
    source = FrameSource(as_frames(film(cars, 110)))
    watch(WatchConfig(), [sink], sources={"camera": source}, classifier=classifier)
    by_visit: dict[str, list[str]] = {}
    for event in sink.events:
        by_visit.setdefault(event.id, []).append(event.type)
    assert len(by_visit) == 2
    for types in by_visit.values():
        assert (types[0], types[-1]) == ("start", "end")
        assert set(types[1:-1]) <= {"update"}


def test_a_false_positive_gets_an_end_event_only_if_it_was_published(classifier: Classifier) -> None:
    inbox, stages = Inbox(depth=10), Stages(time.perf_counter)
    maker = VisitMaker("clip", camera="gate")
    published: list[Event] = []
    loop = Answering(inbox, classifier, {"gate": maker}, lambda event, _crop: published.append(event), stages, batch=8)
    frame = Frame(0, 0.0, road(), "clip")
    seen, unseen = maker.begin(frame, (0, 0, 90, 50)), maker.begin(frame, (0, 0, 90, 50))
    inbox.add_writer()
    for _ in range(3):
        inbox.put(
            [
                Crop("gate", seen, crop_vehicle(frame, (0, 0, 90, 50), 1.0), True, 0.0),
                Crop("gate", unseen, crop_vehicle(frame, (0, 0, 90, 50), 1.0), False, 0.0),
            ]
        )
    inbox.put([End("gate", seen, counts=False), End("gate", unseen, counts=False)])
    inbox.remove_writer()
    loop.run()
    assert [(event.id, event.type, event.false_positive) for event in published] == [
        (seen.id, "start", False),
        (seen.id, "end", True),
    ]
    assert loop.visits == {}


def answering(inbox: Inbox, classifier: Classifier, maker: VisitMaker, published: list[Event]) -> Answering:
    """An answering thread for the camera `gate`, one crop at a time, that appends its events to `published`."""
    return Answering(
        inbox,
        classifier,
        {"gate": maker},
        lambda event, _crop: published.append(event),
        Stages(time.perf_counter),
        batch=1,
    )


def published_events(
    classifier: Classifier, confirmed: Sequence[bool], *, early: bool, counts: bool = True
) -> list[str]:
    """The events of a vehicle whose crops come before or after its confirmation: type, whether provisional, name."""
    inbox, published = Inbox(depth=20), list[Event]()
    maker = VisitMaker("clip", camera="gate", early_start=early)
    loop = answering(inbox, classifier, maker, published)
    red = np.full((100, 160, 3), RED_BGR, np.uint8)
    visit = maker.begin(Frame(0, 0.0, red, "clip"), (0, 0, 160, 100))
    inbox.add_writer()
    for index, counting in enumerate(confirmed):
        shown = crop_vehicle(Frame(index, index / 25, red, "clip"), (0, 0, 160, 100), 1.0)
        inbox.put([Crop("gate", visit, shown, counting, 0.0)])
    inbox.put([End("gate", visit, counts=counts)])
    inbox.remove_writer()
    loop.run()
    assert all(event.false_positive == (not counts) for event in published if event.type == "end")
    return [f"{event.type}{' provisional' * event.provisional} {event.name}" for event in published]


def test_the_start_event_waits_for_confirmation_and_three_crops(classifier: Classifier) -> None:
    assert published_events(classifier, [True] * 5, early=False) == [f"start {RED}", f"end {RED}"]
    assert published_events(classifier, [False] * 9 + [True], early=False) == [f"start {RED}", f"end {RED}"]
    assert published_events(classifier, [False] * 9, early=False, counts=False) == []
    assert published_events(classifier, [True], early=False) == [
        "start Castor",
        "end Castor",
    ]  # it left before it had more crops


def test_an_early_start_is_provisional_until_the_vehicle_is_confirmed(classifier: Classifier) -> None:
    early = ["start provisional Castor", f"update provisional {RED}"]
    assert published_events(classifier, [False] * 4 + [True], early=True) == [*early, f"update {RED}", f"end {RED}"]
    assert published_events(classifier, [True] * 4, early=True) == ["start Castor", f"update {RED}", f"end {RED}"]
    assert published_events(classifier, [False] * 4, early=True, counts=False) == [*early, f"end {RED}"]


def test_a_visit_with_two_merged_vehicles_is_marked_and_counted(classifier: Classifier) -> None:
    inbox, published = Inbox(depth=20), list[Event]()
    maker = VisitMaker("clip", camera="gate")
    loop = answering(inbox, classifier, maker, published)
    visit = maker.begin(Frame(0, 0.0, road(), "clip"), (10, 10, 150, 90))
    inbox.add_writer()
    for index, color in enumerate([RED_BGR] * 5 + [BLUE_BGR] * 6):
        picture = np.full((100, 160, 3), color, np.uint8)
        inbox.put(
            [
                Crop(
                    "gate",
                    visit,
                    crop_vehicle(Frame(index, index / 25, picture, "clip"), (10, 10, 150, 90), 1.0),
                    True,
                    0.0,
                )
            ]
        )
    inbox.put([End("gate", visit, counts=True)])
    inbox.remove_writer()
    loop.run()
    assert [(event.type, event.name, event.merged) for event in published] == [
        ("start", RED, False),
        ("update", "unknown", True),
        ("end", "unknown", True),
    ]
    assert loop.limited_of("gate") == {"merged": 1}


def test_single_images_have_only_an_end_event(classifier: Classifier) -> None:
    sink = EventRecorder()
    source = FrameSource(as_frames([np.full((40, 60, 3), RED_BGR, np.uint8)] * 2), stills=True)
    watch(WatchConfig(), [sink], sources={"camera": source}, classifier=classifier)
    assert [event.type for event in sink.events] == ["end", "end"]


# --- a thread that hangs, a camera that fails, a detector that fails ---


def test_the_status_has_the_age_of_a_frame_in_which_a_camera_hangs(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()

    def hang(_locator: Motion, frame: Frame) -> list[Detection]:
        if frame.index == 1:
            assert goes_on.wait(DEADLINE_S)
        return []

    monkeypatch.setattr(Motion, "locate", hang)
    source = FrameSource(as_frames(film([], 3)))
    with Watch(WatchConfig(), sources={"camera": source}, classifier=classifier) as run:
        assert run.status().cameras[0].busy_s is None
        thread = threading.Thread(target=run.run)
        thread.start()
        eventually(lambda: (run.status().cameras[0].busy_s or 0.0) > 0.2, "the frame ages", DEADLINE_S)
        goes_on.set()
        thread.join(DEADLINE_S)
        assert run.status().cameras[0].busy_s is None


class OneCar:
    """A capture of a car that stops sending in the middle of its pass; `then` is what follows."""

    def __init__(self, then: Callable[[], bool]) -> None:
        self._pictures = iter(film([drive_by(RED_BGR, 15, 40)], 36))
        self._picture: Image | None = None
        self._then = then

    def isOpened(self) -> bool:
        return True

    def get(self, _property: int, /) -> float:
        return 25.0

    def grab(self) -> bool:
        time.sleep(0.02)
        self._picture = next(self._pictures, None)
        return self._picture is not None or self._then()

    def retrieve(self) -> tuple[bool, Image | None]:
        return self._picture is not None, self._picture

    def release(self) -> None:
        pass


def test_a_visit_ends_once_and_with_the_last_picture_when_its_camera_is_lost(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twincar_edge.runtime.loop.camera.LOST_S", 3.0)
    sink, stop = EventRecorder(), threading.Event()
    captures = iter([OneCar(lambda: False)])

    def connect() -> OneCar:
        if (capture := next(captures, None)) is None:
            raise InputError("the camera has no power")
        return capture

    source = LiveSource("camera", connect, kind="device", stop=stop)
    with Watch(WatchConfig(), [sink], sources={"camera": source}, classifier=classifier, stop=stop) as run:
        thread = threading.Thread(target=run.run)
        thread.start()
        eventually(lambda: any(event.type == "end" for event in sink.events), "the visit ends", DEADLINE_S)
        assert run.status().cameras[0].in_view == 0
        time.sleep(0.3)
        stop.set()
        thread.join(DEADLINE_S)
    assert [event.type for event in sink.events] == ["start", "end"]
    end = sink.events[-1]
    assert end.ended_at is not None
    assert 0 < (end.ended_at - end.started_at).total_seconds() < 2.9


def test_a_visit_goes_on_while_a_camera_is_slow_and_not_lost(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twincar_edge.runtime.loop.camera.LOST_S", 0.1)
    sink, stop = EventRecorder(), threading.Event()

    def silence() -> bool:
        stop.wait(DEADLINE_S)
        return False

    rules = LiveRules(stalled_s=DEADLINE_S)
    source = LiveSource("camera", lambda: OneCar(silence), kind="device", stop=stop, rules=rules)
    with Watch(WatchConfig(), [sink], sources={"camera": source}, classifier=classifier, stop=stop) as run:
        thread = threading.Thread(target=run.run)
        thread.start()
        eventually(lambda: sink.events, "the visit starts", DEADLINE_S)
        time.sleep(2.0)
        assert {event.type for event in sink.events} <= {"start", "update"}
        stop.set()
        thread.join(DEADLINE_S)
    assert sink.events[-1].type == "end"


class Failing(Motion):
    """A locator whose frames fail from `first` up to `last`."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__(LocateOptions())
        self._range = range(first, last + 1)

    def locate(self, frame: Frame) -> list[Detection]:
        if frame.index in self._range:
            raise ModelError("out of memory")
        return super().locate(frame)


def live_frames(frames: Iterable[Frame]) -> FrameSource:
    source = FrameSource(frames)
    source.live = True
    return source


def test_a_live_camera_goes_on_after_an_error_of_its_detector(classifier: Classifier) -> None:
    states: dict[int, tuple[str, str | None]] = {}

    def gate() -> Iterator[Frame]:
        for frame in as_frames(film([drive_by(RED_BGR, 10), drive_by(BLUE_BGR, 60)], 110)):
            status = run.status().cameras[0]
            states[frame.index] = status.state, status.problem
            time.sleep(0.005)
            yield frame

    sources: dict[str, Source] = {"gate": live_frames(gate()), "yard": live_frames(as_frames(film([], 30)))}
    config = WatchConfig(cameras=cameras(*sources), keep=True)
    with Watch(config, sources=sources, classifier=classifier) as run:
        run.cameras[0]._locator = Failing(25, 26)
        summary = run.run()
    red, *rest, blue = summary.results
    assert red.last_frame == 24  # it is still in view then, and may become another visit
    assert len(rest) <= 1
    assert blue.first_frame > 50
    assert states[26] == states[27] == ("failed", "out of memory")
    assert states[25] == states[28] == ("running", None)
    assert [one.error for one in summary.cameras] == [None, None]


def test_a_detector_that_fails_for_good_ends_the_run_of_all_cameras(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twincar_edge.runtime.loop.recovery.Backoff", lambda: Backoff(0.01))

    def endless() -> Iterator[Frame]:
        picture = road()
        for index in range(10**9):
            time.sleep(0.01)
            yield Frame(index, index / 25, picture, "camera")

    sources: dict[str, Source] = {name: live_frames(endless()) for name in ("gate", "yard")}
    with Watch(WatchConfig(cameras=cameras(*sources)), sources=sources, classifier=classifier) as run:
        run.cameras[0]._locator = Failing(5, 10**9)
        with pytest.raises(ModelError, match="out of memory"):
            run.run()
        assert not any(camera.alive for camera in run.cameras)


# --- shutdown ---


def test_a_hanging_source_does_not_delay_the_end_of_the_run(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("twincar_edge.runtime.watch.STOP_S", 0.1)
    released, stop = threading.Event(), threading.Event()

    def hanging() -> Iterator[Frame]:
        yield from as_frames(film([], 3))
        stop.set()
        released.wait()

    source = FrameSource(hanging(), name="driver")
    source.release = released.set  # type: ignore[method-assign]
    summary = watch(WatchConfig(), sources={"camera": source}, classifier=classifier, stop=stop)
    assert summary.frames == 3
    assert "camera did not stop in 0.1 s" in caplog.text
