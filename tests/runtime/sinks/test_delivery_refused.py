"""What a receiver refuses: a run of refusals is its own fault, a single one is set aside and can come back."""

from __future__ import annotations

import json
import threading
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
    """A reaction: the receiver refuses the events with these ids, and all while `closed` is set."""

    def __init__(self, *bad: str) -> None:
        self.bad = set(bad)
        self.closed = threading.Event()
        self.attempts = 0

    def __call__(self, event: Event) -> None:
        self.attempts += 1
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
    """Requests are looked for all the time."""
    monkeypatch.setattr(sending, "POLL_S", 0.01)
    yield


def aside(path: Path) -> list[str]:
    """Return the ids of the events that are set aside."""
    spool = Spool(path)
    spool.open()
    try:
        return [json.loads(event)["id"] for _reason, event in spool.refused()]
    finally:
        spool.close()


# --- whose fault it is ---


def test_a_receiver_that_refuses_everything_for_a_while_gets_everything_in_order_afterwards(spool: Path) -> None:
    strict, events, said = Strict(), visits(300), list[str]()
    strict.closed.set()
    sink = Receiver(strict)
    with delivery(sink, spool, said, limit=100) as sending:
        for event in events:
            sending.put(event)
            eventually(lambda: sending.status().queued < 100, "room in memory, as the disk takes what waits")
        eventually(lambda: sending.status().spooled == 300, "all wait")
        eventually(lambda: said, "reported")
        assert sending.status().problem == "it answers 400"
        assert (sending.status().aside, sending.status().dropped) == (0, 0)
        strict.closed.clear()
        eventually(lambda: sending.status().delivered == 300, "all delivered")
    assert sink.got == ids(events)
    assert said == ["receiver: it answers 400", "receiver: delivers again"]


def test_an_event_that_is_refused_between_others_is_set_aside_and_the_reason_is_said_once(spool: Path) -> None:
    bad, events, said = [str(number) for number in range(5, 300, 10)], visits(300), list[str]()
    sink = Receiver(Strict(*bad))
    with delivery(sink, spool, said) as sending:
        for event in events:
            sending.put(event)
        eventually(lambda: sending.status().delivered == 270, "all but those")
        assert sending.status().aside == 30
    assert sink.got == [id for id in ids(events) if id not in bad]
    assert aside(spool) == bad
    assert said == ["receiver: it answers 400: the event is set aside; `twincar-edge events resend` sends it again"]


def test_a_lone_event_that_is_refused_waits_for_the_next_which_decides_at_once(tmp_path: Path) -> None:
    sink = Receiver(Strict("bad"))
    spool = Spool(tmp_path / "spool")
    with Delivery(sink, "receiver", DeliveryPolicy(), spool=spool, backoff=Backoff(60.0, 60.0)) as sending:
        sending.put(visit(id="bad"))
        eventually(lambda: sending.status().problem, "refused")
        eventually(lambda: sending.status().spooled == 1, "kept")
        sending.put(visit(id="good"))
        eventually(lambda: sink.got == ["good"], "delivered, although the pause after a failure is a minute")
        eventually(lambda: sending.status().aside == 1, "set aside")


def test_some_in_a_row_that_are_refused_are_set_aside_when_the_next_is_accepted(spool: Path) -> None:
    bad = [str(number) for number in range(1, REFUSED_IN_A_ROW)]
    sink = Receiver(Strict(*bad))
    events = visits(REFUSED_IN_A_ROW + 2)
    with delivery(sink, spool) as sending:
        for event in events:
            sending.put(event)
        eventually(lambda: sending.status().delivered == 3, "the others")
    assert sink.got == ["0", *ids(events[-2:])]
    assert aside(spool) == bad


def test_an_event_that_was_refused_by_chance_is_delivered_after_its_neighbor(spool: Path) -> None:
    refusals = iter([True])

    def moody(event: Event) -> None:
        if event.id == "1" and next(refusals, False):
            raise RefusedError("it answers 400")

    sink = Receiver(moody)
    with delivery(sink, spool) as sending:
        for event in visits(3):
            sending.put(event)
        eventually(lambda: sending.status().delivered == 3, "all delivered")
    assert sorted(sink.got) == ["0", "1", "2"]
    assert aside(spool) == []


def test_a_receiver_that_goes_away_in_the_middle_of_a_run_of_refusals_loses_nothing(spool: Path) -> None:
    states = iter([RefusedError("no"), RefusedError("no"), DeliveryError("away"), RefusedError("no")])

    def moody(_event: Event) -> None:
        error = next(states, None)
        if error is not None:
            raise error

    sink = Receiver(moody)
    with delivery(sink, spool) as sending:
        for event in visits(5):
            sending.put(event)
        eventually(lambda: sending.status().delivered == 5, "all delivered")
    assert sorted(sink.got) == [str(number) for number in range(5)]
    assert aside(spool) == []


# --- events of other versions ---


def older(number: int) -> str:
    """An event of a schema that this version does not know."""
    return json.dumps({"schema_version": 1, "id": str(number), "type": "end", "camera": "gate", "car": "Castor"})


def spooled(path: Path, *texts: str) -> None:
    spool = Spool(path)
    spool.open()
    spool.add(list(enumerate(texts, 1)))
    spool.close()


def test_events_of_other_versions_are_sent_as_they_stand(spool: Path, tmp_path: Path) -> None:
    texts = [older(number) for number in range(300)] + [schema_2_json(visit(id="two")), visit(id="now").to_json()]
    spooled(spool, *texts)
    with Delivery(JsonLines(tmp_path / "events.jsonl"), "file", DeliveryPolicy(drain_s=60.0), spool=Spool(spool)):
        pass
    assert (tmp_path / "events.jsonl").read_text().splitlines() == texts


def test_what_a_store_cannot_read_is_set_aside_and_stops_nothing(spool: Path, tmp_path: Path) -> None:
    spooled(spool, *(older(number) for number in range(20)), "no event", visit(id="good").to_json())
    said: list[str] = []
    with Delivery(
        EventStore(tmp_path / "s"), "store", DeliveryPolicy(), spool=Spool(spool), on_problem=said.append
    ) as sending:
        eventually(lambda: sending.status().aside == 21, "set aside")
    assert [event.id for event in query(tmp_path / "s")] == ["good"]
    assert len(said) == 2  # one for each reason


# --- sending again ---


def test_what_was_set_aside_is_sent_again_on_request_while_a_run_goes_on(spool: Path, tmp_path: Path) -> None:
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
        eventually(lambda: "live" in sink.got, "live events go on")
    assert sink.got == ["0", "2", "4", "1", "live"]
    assert aside(spool) == ["3"]


def test_a_request_waits_for_the_next_run_and_for_a_receiver_that_is_away(spool: Path, tmp_path: Path) -> None:
    with delivery(Receiver(Strict("1")), spool) as sending:
        for event in visits(3):
            sending.put(event)
        eventually(lambda: sending.status().aside == 1, "set aside")
    request_resend(tmp_path)
    failures = iter([DeliveryError("away")] * 3)

    def away(_event: Event) -> None:
        error = next(failures, None)
        if error is not None:
            raise error

    sink, said = Receiver(away), list[str]()
    with delivery(sink, spool, said) as sending:
        eventually(lambda: sending.status().aside == 0, "sent again")
    assert sink.got == ["1"]
    assert said[0] == "receiver: 1 event is set aside: `twincar-edge events resend` sends them again"


def test_a_request_may_leave_out_what_was_set_aside_before_a_time(spool: Path, tmp_path: Path) -> None:
    kept, now = Spool(spool), visit().started_at
    kept.open()
    for number, event in enumerate(visits(3)):
        kept.set_aside([("no", event.to_json())], now + timedelta(hours=number))
    kept.close()
    request_resend(tmp_path, since=now + timedelta(hours=1))
    sink = Receiver()
    with delivery(sink, spool) as sending:
        eventually(lambda: sending.status().aside == 1, "sent again")
    assert sink.got == ["1", "2"]


def test_a_request_for_a_sink_that_keeps_nothing_names_those_that_do(spool: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sink has kept an event"):
        request_resend(tmp_path / "elsewhere")
    spooled(spool)
    with pytest.raises(InputError, match=r"no sink 'mqtt' keeps events in .*: there are webhook-hook"):
        request_resend(tmp_path, "mqtt")
    spool.with_suffix(".resend").write_text("[]")
    sink = Receiver()
    with delivery(sink, spool) as sending:  # an invalid request stops nothing
        sending.put(visit())
        eventually(lambda: sink.got, "delivered")
        eventually(lambda: not spool.with_suffix(".resend").exists(), "removed")
