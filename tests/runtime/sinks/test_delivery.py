"""A delivery never blocks the loop, and delivers events once, in order and without avoidable losses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.event_toys import CROP, eventually, schema_2_json, visit, visits
from twincar_edge.errors import InputError
from twincar_edge.runtime import sinks
from twincar_edge.runtime.backoff import Backoff
from twincar_edge.runtime.events import Event, EventType
from twincar_edge.runtime.sinks import (
    Delivery,
    DeliveryError,
    DeliveryPolicy,
    RefusedError,
    Sink,
    Spool,
    backlog,
    running,
)
from twincar_edge.runtime.sinks.base import Crop
from twincar_edge.runtime.sinks.delivery import TOO_OLD_S


class Receiver(Sink):
    """A sink that records events and calls `reaction` for each."""

    def __init__(self, reaction: Callable[[Event], None] = lambda _event: None) -> None:
        self.reaction = reaction
        self.got: list[str] = []
        self.crops: list[Crop] = []
        self.is_open = False

    def open(self) -> None:
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    def write(self, event: Event, crop_bgr: Crop) -> None:
        self.reaction(event)
        self.got.append(event.id)
        self.crops.append(crop_bgr)


class Away:
    """A reaction: the receiver is unreachable until `back` is set."""

    def __init__(self) -> None:
        self.back = threading.Event()
        self.attempts = 0

    def __call__(self, event: Event) -> None:
        self.attempts += 1
        if not self.back.is_set():
            raise DeliveryError("it is away")


def quick() -> Backoff:
    return Backoff(0.001, 0.01)


def ids(events: list[Event]) -> list[str]:
    return [event.id for event in events]


def delivery(sink: Receiver, spool: Path | None = None, messages: list[str] | None = None, **options: Any) -> Delivery:
    policy = DeliveryPolicy(
        **{
            "drain_s": 20.0,
            **{name: options.pop(name) for name in list(options) if name in DeliveryPolicy.__annotations__},
        }
    )
    lines = [] if messages is None else messages
    return Delivery(
        sink,
        "receiver",
        policy,
        spool=None if spool is None else Spool(spool, options.pop("spool_limit", 50_000)),
        backoff=quick(),
        on_problem=lines.append,
        **options,
    )


def test_events_are_delivered_in_order_and_closing_drains_the_queue(tmp_path: Path) -> None:
    events = visits(200)
    sink = Receiver(lambda _event: time.sleep(0.0005))
    with delivery(sink, tmp_path / "spool") as sending:
        for event in events:
            sending.put(event, CROP)
    assert sink.got == ids(events)
    assert not sink.is_open
    status = sending.status()
    assert (status.delivered, status.queued, status.spooled, status.dropped, status.problem) == (200, 0, 0, 0, None)


def test_events_delivered_immediately_are_never_written_to_disk(tmp_path: Path) -> None:
    with delivery(Receiver(), tmp_path / "spool", persist_after_s=60.0) as sending:
        assert sending._spool is not None
        connection = sending._spool._database._connection
        assert connection is not None
        before = connection.total_changes
        for number, event in enumerate(visits(50)):
            sending.put(event)
            eventually(lambda number=number: sending.status().delivered == number + 1, "delivered")
        assert connection.total_changes == before


@pytest.mark.parametrize("hangs", [False, True], ids=["working disk", "hanging disk"])
def test_an_event_that_is_delivered_while_it_is_written_is_removed_before_the_next_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """Else a kill would leave it on disk, and the next run would repeat it after its successor."""
    first, second = visits(2)
    written, released = threading.Event(), threading.Event()
    add = Spool.add

    def slow_add(spool: Spool, entries: list[tuple[int, str]]) -> int:
        displaced = add(spool, entries)
        written.set()
        assert released.wait(60)
        return displaced

    monkeypatch.setattr(Spool, "add", slow_add)
    monkeypatch.setattr(backlog, "_WRITE_S", 0.1 if hangs else 60.0)
    on_disk: list[int] = []

    def receive(event: Event) -> None:
        if event.id == first.id:
            assert written.wait(60)
        else:
            on_disk.append(spool.waiting)

    with delivery(Receiver(receive), tmp_path / "spool", persist_after_s=0.0) as sending:
        spool = sending._spool
        assert spool is not None
        sending.put(first)
        eventually(lambda: sending.status().delivered == 1, "the first was delivered")
        sending.put(second)
        if hangs:
            eventually(lambda: sending.status().delivered == 2, "the second does not wait for a disk that hangs")
        else:
            time.sleep(0.2)
            assert sending.status().delivered == 1
        released.set()
        eventually(lambda: sending.status().delivered == 2, "the second was delivered")
    assert on_disk == [int(hangs)]


def test_a_sink_gets_the_event_types_and_pictures_of_its_policy() -> None:
    plain, pictures = Receiver(), Receiver()
    with delivery(plain, types=frozenset({"end"})) as one, delivery(pictures, crops=True) as two:
        for event in (visit(id="1", type="start"), visit(id="2", type="update"), visit(id="3")):
            one.write(event, CROP)
            two.write(event, CROP)
    assert (plain.got, plain.crops[0].size) == (["3"], 0)
    assert pictures.got == ["1", "2", "3"]
    assert np.array_equal(pictures.crops[0], CROP)


def test_after_an_outage_a_receiver_gets_all_events_in_order(tmp_path: Path) -> None:
    away, events, messages = Away(), visits(500), list[str]()
    sink = Receiver(away)
    with delivery(sink, tmp_path / "spool", messages, limit=20) as sending:
        for event in events:
            sending.put(event)
            eventually(lambda: sending.status().queued < 20, "room in memory, as the disk takes what waits")
        eventually(lambda: sending.status().spooled == 500, "all on disk")
        assert sending.status().problem == "it is away"
        away.back.set()
        eventually(lambda: sending.status().delivered == 500, "all delivered")
        eventually(lambda: sending.status().problem is None, "recovered")
    assert sink.got == ids(events)
    assert sending.status().dropped == 0
    assert messages == ["receiver: it is away", "receiver: delivery recovered"]  # not once per event


def test_after_a_restart_spooled_events_are_sent_before_new_ones(tmp_path: Path) -> None:
    events = visits(60)
    for start in (0, 20):  # two runs without a receiver
        sink = Receiver(Away())
        with delivery(sink, tmp_path / "spool") as sending:
            for event in events[start : start + 20]:
                sending.put(event)
        assert sink.got == []
        assert sending.status().dropped == 0
    sink = Receiver()
    with delivery(sink, tmp_path / "spool") as sending:
        assert sending.status().spooled in range(41)
        for event in events[40:]:
            sending.put(event)
    assert sink.got == ids(events)
    again = Receiver()
    with delivery(again, tmp_path / "spool"):
        pass
    assert again.got == []  # no duplicates


def test_spooled_events_are_delivered_unchanged_to_the_byte(tmp_path: Path) -> None:
    event = visit(probability=0.1 + 0.2, name="Škoda \x00 \U0001f697 Wagon", first_time_s=1 / 3)
    got: list[str] = []
    with delivery(Receiver(Away()), tmp_path / "spool") as sending:
        sending.put(event)
    with delivery(Receiver(lambda event: got.append(event.to_json())), tmp_path / "spool"):
        pass
    assert got == [event.to_json()]


def test_an_unreliable_receiver_gets_every_event_exactly_once(tmp_path: Path, rng: np.random.Generator) -> None:
    """Mix fast, failing and slow deliveries over several restarts."""
    events = visits(600)
    got: list[str] = []

    def unreliable(event: Event) -> None:
        draw = rng.random()
        if draw < 0.2:
            raise DeliveryError("not now")
        if draw < 0.25:
            time.sleep(0.01)

    for start in range(0, 600, 100):
        sink = Receiver(unreliable)
        sink.got = got
        drain_s = 20.0 if start == 500 else 0.02
        with delivery(sink, tmp_path / "spool", persist_after_s=0.002, drain_s=drain_s) as sending:
            for event in events[start : start + 100]:
                sending.put(event)
        assert sending.status().dropped == 0
    while len(got) < 600:  # closing stops at the first failure
        sink = Receiver(unreliable)
        sink.got = got
        with delivery(sink, tmp_path / "spool"):
            pass
    assert got == ids(events)


def test_a_hanging_sink_delays_neither_put_nor_close_and_loses_nothing(tmp_path: Path) -> None:
    hang = threading.Event()
    hanging = delivery(Receiver(lambda _event: hang.wait()), tmp_path / "spool", limit=100, drain_s=0.2)
    other = Receiver()
    events = visits(50)
    try:
        with running([hanging, delivery(other)]) as sending:
            for event in events:
                for one in sending:
                    one.put(event)
            eventually(lambda: other.got == ids(events), "the other sink has all")
        # The context ended while the sink still hangs; all events are on disk, including the one it holds.
        assert hanging._sender.is_alive()
        assert hanging.status().dropped == 0
        assert hanging.status().spooled == 50
    finally:
        hang.set()
        hanging._sender.join()
        assert hanging._spool is not None
        hanging._spool.close()


def test_without_a_spool_a_full_queue_drops_and_counts_the_oldest_events() -> None:
    go = threading.Event()
    sink, messages = Receiver(lambda _event: go.wait()), list[str]()
    events = visits(12)
    with delivery(sink, None, messages, limit=4) as sending:
        sending.put(events[0])
        eventually(lambda: sending._backlog._taken, "the sender holds the first")
        for event in events[1:]:
            sending.put(event)
        assert (sending.status().queued, sending.status().dropped) == (5, 7)
        go.set()
    assert sink.got == ids([events[0], *events[8:]])
    assert messages == ["receiver: too slow: 7 events lost"]


def test_without_retries_failed_events_are_dropped_counted_and_reported_once() -> None:
    away, messages = Away(), list[str]()
    sink = Receiver(away)
    with delivery(sink, None, messages, retry=False) as sending:
        for event in visits(5):
            sending.put(event)
        eventually(lambda: sending.status().dropped == 5, "dropped")
        away.back.set()
        sending.put(visit(id="after"))
    assert sink.got == ["after"]
    assert messages == ["receiver: it is away", "receiver: delivery recovered; 5 events lost"]


def test_refused_events_are_set_aside_and_later_ones_delivered(tmp_path: Path) -> None:
    def picky(event: Event) -> None:
        if event.id == "1":
            raise RefusedError("it says 422")
        if event.id == "2":
            raise ZeroDivisionError("a defect")

    sink, messages = Receiver(picky), list[str]()
    with delivery(sink, tmp_path / "spool", messages) as sending:
        for event in visits(4):
            sending.put(event)
    assert sink.got == ["0", "3"]
    assert (sending.status().dropped, sending.status().aside) == (0, 2)
    spool = Spool(tmp_path / "spool")
    spool.open()
    refused = spool.refused()
    spool.close()
    assert [reason for reason, _event in refused] == ["it says 422", "ZeroDivisionError: a defect"]
    assert [Event.model_validate_json(event).id for _reason, event in refused] == ["1", "2"]
    assert messages == [
        "receiver: it says 422: event set aside; `twincar-edge events resend` sends it again",
        "receiver: ZeroDivisionError: a defect: event set aside; `twincar-edge events resend` sends it again",
    ]


def test_a_full_spool_drops_and_counts_the_oldest_events(tmp_path: Path) -> None:
    messages: list[str] = []
    events = visits(30)
    with delivery(Receiver(Away()), tmp_path / "spool", messages, spool_limit=10, persist_after_s=0.0) as sending:
        for number, event in enumerate(events):
            sending.put(event)
            eventually(lambda number=number: sending._backlog._persisted_through == number + 1, "on disk")
    assert (sending.status().spooled, sending.status().dropped) == (10, 20)
    sink = Receiver()
    with delivery(sink, tmp_path / "spool", messages):
        pass
    assert sink.got == ids(events[20:])


def test_retry_after_is_respected(tmp_path: Path) -> None:
    attempts: list[float] = []

    def busy(_event: Event) -> None:
        attempts.append(time.monotonic())
        if len(attempts) == 1:
            raise DeliveryError("later", retry_after_s=0.3)

    with delivery(Receiver(busy), tmp_path / "spool") as sending:
        sending.put(visit())
        eventually(lambda: sending.status().delivered, "delivered")
    assert attempts[1] - attempts[0] >= 0.3


def test_retry_after_is_respected_while_closing() -> None:
    attempts: list[float] = []

    def busy(_event: Event) -> None:
        attempts.append(time.monotonic())
        if len(attempts) == 1:
            raise DeliveryError("later", retry_after_s=0.5)

    with delivery(Receiver(busy)) as sending:
        sending.put(visit())
        eventually(lambda: attempts, "refused once")
    assert sending.status().delivered == 1
    assert len(attempts) == 2 and attempts[1] - attempts[0] >= 0.5


def test_a_retry_after_beyond_the_drain_limit_leaves_the_event_in_the_spool(tmp_path: Path) -> None:
    def busy(_event: Event) -> None:
        attempts.append(time.monotonic())
        raise DeliveryError("later", retry_after_s=3600.0)

    attempts: list[float] = []
    begun_s = time.monotonic()
    with delivery(Receiver(busy), tmp_path / "spool", drain_s=0.5) as sending:
        sending.put(visit())
        eventually(lambda: attempts, "refused once")
    assert len(attempts) == 1 and time.monotonic() - begun_s < 20
    with delivery(receiver := Receiver(), tmp_path / "spool"):
        pass
    assert len(receiver.got) == 1


def test_a_closed_reader_ends_the_delivery_and_calls_on_gone() -> None:
    def gone(_event: Event) -> None:
        raise BrokenPipeError

    called = threading.Event()
    with delivery(Receiver(gone), on_gone=called.set) as sending:
        sending.put(visit())
        assert called.wait(20)
        sending.put(visit())
    assert sending.status().dropped == 2
    assert sending.status().problem == "reader closed the stream"


def test_a_sink_that_cannot_be_opened_is_an_error_and_the_others_are_closed(tmp_path: Path) -> None:
    class Broken(Receiver):
        def open(self) -> None:
            raise InputError("no such folder")

    first = Receiver()
    with pytest.raises(InputError, match="no such folder"), running([delivery(first), delivery(Broken())]):
        pass
    assert not first.is_open
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 a picture")
    second = Receiver()
    with pytest.raises(InputError, match="not an SQLite file"), delivery(second, tmp_path / "photo.jpg"):
        pass
    assert not second.is_open
    assert (tmp_path / "photo.jpg").read_bytes().startswith(b"\xff\xd8")


def test_a_damaged_spool_is_renamed_and_a_new_one_created(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with delivery(Receiver(Away()), tmp_path / "spool") as sending:
        for event in visits(50):
            sending.put(event)
    damaged = bytearray((tmp_path / "spool").read_bytes())
    damaged[100:9000] = b"\x5a" * 8900
    (tmp_path / "spool").write_bytes(damaged)
    sink = Receiver()
    with delivery(sink, tmp_path / "spool") as sending:
        sending.put(visit(id="new"))
    assert sink.got == ["new"]
    (aside,) = tmp_path.glob("spool.corrupt-*")
    assert aside.read_bytes() == damaged
    assert caplog.text.count("is damaged") == 1


def test_an_unreadable_event_in_the_spool_does_not_block_the_others(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.open()
    spool.add([(1, '{"schema_version": 1}'), (2, visit(id="good").to_json())])
    spool.close()
    sink = Receiver()
    with delivery(sink, tmp_path / "spool") as sending:
        pass
    assert sink.got == ["good"]
    assert (sending.status().dropped, sending.status().aside) == (0, 1)


def test_spooled_events_of_an_earlier_release_are_sent(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.open()
    spool.add([(1, schema_2_json(visit(id="old")))])
    spool.close()
    sink = Receiver()
    with delivery(sink, tmp_path / "spool") as sending:
        pass
    assert sink.got == ["old"]
    assert sending.status().dropped == 0


def test_backoff_grows_exponentially_with_jitter() -> None:
    shortest, longest = (Backoff(1.0, 60.0, draw=lambda draw=draw: draw) for draw in (0.0, 1.0))
    assert [shortest.next_s() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert [longest.next_s() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    longest.reset()
    assert longest.next_s() == 1


def test_a_hanging_sink_is_failing_once_its_oldest_event_is_too_old(tmp_path: Path) -> None:
    now, hang = [0.0], threading.Event()
    with delivery(Receiver(lambda _event: hang.wait()), tmp_path / "spool", clock=lambda: now[0]) as sending:
        sending.put(visit(id="1"))
        now[0] += TOO_OLD_S - 1
        sending.put(visit(id="2"))
        assert (sending.status().oldest_s, sending.status().problem) == (TOO_OLD_S - 1, None)
        now[0] += 1
        assert sending.status().problem == "oldest event has waited 300 s"
        hang.set()
        eventually(lambda: sending.status().delivered == 2, "delivered")
        assert (sending.status().oldest_s, sending.status().problem) == (0, None)


@pytest.mark.parametrize(("types", "expected"), [({"end"}, ["car"]), ({"start", "end"}, ["car", "ground"])])
def test_a_false_positive_goes_only_to_sinks_that_got_its_start(types: set[EventType], expected: list[str]) -> None:
    sink = Receiver()
    with delivery(sink, types=frozenset(types)) as queue:
        queue.put(visit(id="car"))
        queue.put(visit(id="ground", false_positive=True))
    assert sink.got == expected


def test_the_former_name_of_the_policy_still_works() -> None:
    with pytest.warns(DeprecationWarning, match="DeliveryPolicy"):
        assert sinks.Terms is DeliveryPolicy
    with pytest.warns(DeprecationWarning, match="policy"), Delivery(Receiver(), "r", terms=DeliveryPolicy(crops=True)):
        pass
