"""Refusals: a single refused event is set aside and can be resent; a run of refusals is the receiver's fault."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.runtime.sinks.test_delivery import Receiver, delivery, ids
from tests.support.event_toys import eventually, schema_2_json, visit, visits
from twincar_edge.errors import InputError
from twincar_edge.runtime.backoff import Backoff
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks import Delivery, DeliveryError, DeliveryPolicy, JsonLines, RefusedError, Spool, sending
from twincar_edge.runtime.sinks.resend import request_resend
from twincar_edge.runtime.sinks.sending import REFUSED_IN_A_ROW
from twincar_edge.runtime.sinks.store import EventStore, query
from twincar_edge.runtime.storage.state import StateFolder


class Strict:
    """A reaction: the receiver refuses the events with these ids, and all while `closed` is set.

    With `opens_for`, it recovers when that event arrives.
    """

    def __init__(self, *bad: str) -> None:
        self.bad = set(bad)
        self.closed = threading.Event()
        self.opens_for: str | None = None
        self.attempts = 0

    def __call__(self, event: Event) -> None:
        self.attempts += 1
        if event.id == self.opens_for:
            self.closed.clear()
        if self.closed.is_set() or event.id in self.bad:
            raise RefusedError("it answers 400")


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """The path of a spool in a state folder."""
    path = StateFolder(tmp_path).spool / "webhook-hook.sqlite"
    path.parent.mkdir()
    return path


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check for resend requests continuously."""
    monkeypatch.setattr(sending, "POLL_S", 0.01)
    yield


def set_aside_ids(path: Path) -> list[str]:
    """Return the ids of the events set aside."""
    spool = Spool(path)
    spool.open()
    try:
        return [json.loads(event)["id"] for _reason, event in spool.refused()]
    finally:
        spool.close()


# --- the event's fault or the receiver's ---


def test_a_receiver_that_refuses_everything_gets_all_events_in_order_once_it_recovers(spool: Path) -> None:
    strict, events, messages = Strict(), visits(300), list[str]()
    strict.closed.set()
    sink = Receiver(strict)
    with delivery(sink, spool, messages, limit=100) as sending:
        for event in events:
            sending.put(event)
            eventually(lambda: sending.status().queued < 100, "room in memory, as the disk takes what waits")
        eventually(lambda: sending.status().spooled == 300, "all wait")
        eventually(lambda: messages, "reported")
        assert sending.status().problem == "it answers 400"
        assert (sending.status().aside, sending.status().dropped) == (0, 0)
        strict.opens_for = events[0].id  # in between, a later event would be accepted first, and only then the others
        eventually(lambda: sending.status().delivered == 300, "all delivered")
    assert sink.got == ids(events)
    assert messages == ["receiver: it answers 400", "receiver: delivery recovered"]


def test_single_refused_events_are_set_aside_and_the_reason_is_reported_once(spool: Path) -> None:
    bad, events, messages = [str(number) for number in range(5, 300, 10)], visits(300), list[str]()
    sink = Receiver(Strict(*bad))
    with delivery(sink, spool, messages) as sending:
        for event in events:
            sending.put(event)
        eventually(lambda: sending.status().delivered == 270, "all but those")
        assert sending.status().aside == 30
    assert sink.got == [id for id in ids(events) if id not in bad]
    assert set_aside_ids(spool) == bad
    assert messages == ["receiver: it answers 400: event set aside; `twincar-edge events resend` sends it again"]


def test_a_refused_event_waits_for_the_next_event_which_decides_immediately(tmp_path: Path) -> None:
    sink = Receiver(Strict("bad"))
    spool = Spool(tmp_path / "spool")
    with Delivery(sink, "receiver", DeliveryPolicy(), spool=spool, backoff=Backoff(60.0, 60.0)) as sending:
        sending.put(visit(id="bad"))
        eventually(lambda: sending.status().problem, "refused")
        eventually(lambda: sending.status().spooled == 1, "kept")
        sending.put(visit(id="good"))
        eventually(lambda: sink.got == ["good"], "delivered, although the pause after a failure is a minute")
        eventually(lambda: sending.status().aside == 1, "set aside")


def test_a_short_run_of_refused_events_is_set_aside_when_the_next_is_accepted(spool: Path) -> None:
    bad = [str(number) for number in range(1, REFUSED_IN_A_ROW)]
    sink = Receiver(Strict(*bad))
    events = visits(REFUSED_IN_A_ROW + 2)
    with delivery(sink, spool) as sending:
        for event in events:
            sending.put(event)
        eventually(lambda: sending.status().delivered == 3, "the others")
    assert sink.got == ["0", *ids(events[-2:])]
    assert set_aside_ids(spool) == bad


@pytest.mark.parametrize("deciding", range(1, REFUSED_IN_A_ROW))
def test_a_receiver_that_recovers_for_a_later_event_gets_only_this_one_early(spool: Path, deciding: int) -> None:
    strict, events = Strict(), visits(REFUSED_IN_A_ROW + 2)
    strict.closed.set()
    spooled(spool, *(event.to_json() for event in events))
    strict.opens_for = str(deciding)
    sink = Receiver(strict)
    with delivery(sink, spool) as sending:
        eventually(lambda: sending.status().delivered == len(events), "all delivered")
    assert sink.got == [str(deciding), *(id for id in ids(events) if id != str(deciding))]
    assert set_aside_ids(spool) == []


def test_an_outage_during_a_run_of_refusals_loses_nothing(spool: Path) -> None:
    states = iter([RefusedError("no"), RefusedError("no"), DeliveryError("away"), RefusedError("no")])

    def unreliable(_event: Event) -> None:
        error = next(states, None)
        if error is not None:
            raise error

    sink = Receiver(unreliable)
    with delivery(sink, spool) as sending:
        for event in visits(5):
            sending.put(event)
        eventually(lambda: sending.status().delivered == 5, "all delivered")
    assert sorted(sink.got) == [str(number) for number in range(5)]
    assert set_aside_ids(spool) == []


# --- events of other versions ---


def older(number: int) -> str:
    """Return an event with an unknown schema."""
    return json.dumps({"schema_version": 1, "id": str(number), "type": "end", "camera": "gate", "car": "Castor"})


def spooled(path: Path, *texts: str) -> None:
    spool = Spool(path)
    spool.open()
    spool.add(list(enumerate(texts, 1)))
    spool.close()


def test_events_of_other_versions_are_forwarded_unchanged(spool: Path, tmp_path: Path) -> None:
    texts = [older(number) for number in range(300)] + [schema_2_json(visit(id="two")), visit(id="now").to_json()]
    spooled(spool, *texts)
    with Delivery(JsonLines(tmp_path / "events.jsonl"), "file", DeliveryPolicy(drain_s=60.0), spool=Spool(spool)):
        pass
    assert (tmp_path / "events.jsonl").read_text().splitlines() == texts


def test_events_that_a_store_cannot_read_are_set_aside(spool: Path, tmp_path: Path) -> None:
    spooled(spool, *(older(number) for number in range(20)), "no event", visit(id="good").to_json())
    messages: list[str] = []
    with Delivery(
        EventStore(tmp_path / "s"), "store", DeliveryPolicy(), spool=Spool(spool), on_problem=messages.append
    ) as sending:
        eventually(lambda: sending.status().aside == 21, "set aside")
    assert [event.id for event in query(tmp_path / "s")] == ["good"]
    assert len(messages) == 2  # one per reason


# --- resending ---


def set_events_aside(spool: Path, events: list[Event], *refused: str) -> None:
    with delivery(Receiver(Strict(*refused)), spool) as sending:
        for event in events:
            sending.put(event)
        eventually(lambda: sending.status().aside == len(refused), "set aside")


def test_a_running_delivery_resends_events_set_aside_on_request(spool: Path, tmp_path: Path) -> None:
    strict = Strict("1", "3")
    sink = Receiver(strict)
    with delivery(sink, spool) as sending:
        for event in visits(5):
            sending.put(event)
        eventually(lambda: sending.status().aside == 2, "set aside")
        strict.bad = {"3"}
        assert request_resend(tmp_path, "hook") == ["webhook-hook"]
        eventually(lambda: not spool.with_suffix(".resend").exists(), "the request is done")
        assert sending.status().aside == 1
        sending.put(visit(id="live"))
        eventually(lambda: "live" in sink.got, "live events continue")
    assert sink.got == ["0", "2", "4", "1", "live"]
    assert set_aside_ids(spool) == ["3"]


def test_a_resend_request_waits_for_the_next_run_and_for_the_receiver(spool: Path, tmp_path: Path) -> None:
    set_events_aside(spool, visits(3), "1")
    request_resend(tmp_path)
    failures = iter([DeliveryError("away")] * 3)

    def away(_event: Event) -> None:
        error = next(failures, None)
        if error is not None:
            raise error

    sink, messages = Receiver(away), list[str]()
    with delivery(sink, spool, messages) as sending:
        eventually(lambda: sending.status().aside == 0, "sent again")
    assert sink.got == ["1"]
    assert messages[0] == "receiver: 1 event set aside: `twincar-edge events resend` sends them again"


def test_a_resend_request_made_while_another_is_served_is_served_next(spool: Path, tmp_path: Path) -> None:
    set_events_aside(spool, visits(3), "0", "1")
    request_resend(tmp_path)
    strict = Strict("0")

    def reaction(event: Event) -> None:
        if event.id == "1":  # "0" was refused again; meanwhile the receiver is repaired
            strict.bad.clear()
            request_resend(tmp_path)
        strict(event)

    sink = Receiver(reaction)
    with delivery(sink, spool) as sending:
        eventually(lambda: not spool.with_suffix(".resend").exists(), "both requests are done")
        assert sending.status().aside == 0
    assert sink.got == ["1", "0"]


def test_resending_respects_retry_after(spool: Path, tmp_path: Path) -> None:
    set_events_aside(spool, visits(2), "0")
    request_resend(tmp_path)
    attempts: list[float] = []

    def busy(_event: Event) -> None:
        attempts.append(time.monotonic())
        if len(attempts) == 1:
            raise DeliveryError("later", retry_after_s=0.5)

    with delivery(Receiver(busy), spool) as sending:
        eventually(lambda: sending.status().aside == 0, "sent again")
    assert attempts[1] - attempts[0] >= 0.5


def test_a_resend_that_waits_for_retry_after_does_not_delay_closing(spool: Path, tmp_path: Path) -> None:
    set_events_aside(spool, visits(2), "0")
    request_resend(tmp_path)

    def busy(_event: Event) -> None:
        raise DeliveryError("later", retry_after_s=3600.0)

    with delivery(Receiver(busy), spool, drain_s=60.0) as sending:
        eventually(lambda: sending.status().problem == "later", "asked to wait")
        begun_s = time.monotonic()
    assert time.monotonic() - begun_s < 20


def test_a_resend_request_may_select_events_by_time(spool: Path, tmp_path: Path) -> None:
    spool_file, now = Spool(spool), visit().started_at
    spool_file.open()
    for number, event in enumerate(visits(3)):
        spool_file.set_aside([("no", event.to_json())], now + timedelta(hours=number))
    spool_file.close()
    request_resend(tmp_path, since=now + timedelta(hours=1))
    sink = Receiver()
    with delivery(sink, spool) as sending:
        eventually(lambda: sending.status().aside == 1, "sent again")
    assert sink.got == ["1", "2"]


def test_a_resend_request_for_an_unknown_sink_lists_the_known_ones(spool: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no spool in"):
        request_resend(tmp_path / "elsewhere")
    spooled(spool)
    with pytest.raises(InputError, match=r"no spool of sink 'mqtt' in .*: choose from webhook-hook"):
        request_resend(tmp_path, "mqtt")
    spool.with_suffix(".resend").write_text("[]")
    sink = Receiver()
    with delivery(sink, spool) as sending:  # an invalid request does not stop the delivery
        sending.put(visit())
        eventually(lambda: sink.got, "delivered")
        eventually(lambda: not spool.with_suffix(".resend").exists(), "removed")
