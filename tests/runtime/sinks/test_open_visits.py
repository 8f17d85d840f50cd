"""The next run ends the visits that a killed run left open."""

from __future__ import annotations

import contextlib
import http.server
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import REPOSITORY
from tests.runtime.sinks.test_delivery import Receiver, delivery
from tests.support.disks import small_disk
from tests.support.event_toys import CROP, MOMENT, eventually, visit
from tests.support.servers import web_server
from tests.support.tiny_model import tiny_model
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.service import Service
from twincar_edge.runtime.sinks import Delivery, DeliveryPolicy
from twincar_edge.runtime.sinks.fan_out import FanOut
from twincar_edge.runtime.sinks.open_visits import OpenVisits, interrupted_end
from twincar_edge.runtime.sinks.settings import JsonLinesSettings, StoreSettings
from twincar_edge.runtime.sinks.store import EventStore, query

# Simulates a run with vehicles in view, by writing to its sinks.
_RUN = """
import os, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.support.event_toys import CROP, visit
from twincar_edge.runtime.sinks.open_visits import OpenVisits
from twincar_edge.runtime.sinks.store import EventStore

folder = Path({folder!r})
with OpenVisits(folder / "open-visits.sqlite") as open_visits, EventStore(folder / "events.sqlite") as store:
    for sink in (open_visits, store):
        for event in (visit(id="gone", type="start"), visit(id="gone"), visit(id="here", type="start"),
                      visit(id="here", type="update", crops=9), visit(id="file", type="start", recording="0" * 64),
                      visit(id="ghost", type="start", provisional=True)):
            sink.write(event, CROP)
    print("ready", flush=True)
    time.sleep(60)
"""


# Sends a visit's `start` and `end` to a webhook, as `Service` does, or, after a kill, what the earlier run left.
_WEBHOOK = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.support.event_toys import CROP, visit
from twincar_edge.runtime.sinks import Delivery, DeliveryPolicy, Spool
from twincar_edge.runtime.sinks.fan_out import FanOut
from twincar_edge.runtime.sinks.open_visits import OpenVisits, interrupted_end
from twincar_edge.runtime.sinks.webhook import Webhook

folder, url = Path({folder!r}), {url!r}
open_visits = OpenVisits(folder / "open-visits.sqlite")
spool = Spool(folder / "spool.sqlite")
webhook = Delivery(Webhook(url), "webhook", DeliveryPolicy(), spool=spool, persist_after_s=60.0)
keeper = Delivery(open_visits, "open visits", DeliveryPolicy(local=True))
with FanOut([webhook], [webhook], keeper, set()) as sinks:
    if open_visits.left:
        for event in open_visits.left:
            sinks.write(interrupted_end(event), CROP)
    else:
        sinks.write(visit(type="start", ended_at=None), CROP)
        while keeper.status().delivered + webhook.status().delivered < 2:
            time.sleep(0.01)
        sinks.write(visit(), CROP)
        time.sleep(60)
"""


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The state folder of a run that was killed while a vehicle was in view."""
    program = _RUN.format(root=str(REPOSITORY), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    process.stdout.close()
    return tmp_path


def test_the_next_run_ends_the_open_visits_of_a_killed_run(
    killed: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    clip = tmp_path_factory.mktemp("video") / "pictures"
    clip.mkdir()
    config = WatchConfig(
        cameras=(CameraConfig(name="gate", source=str(clip)),),
        model=tiny_model(clip.parent / "tiny.onnx"), ep="cpu", threads=1, state=killed, duration_s=0.01,
        sinks=(StoreSettings(), JsonLinesSettings(path=clip.parent / "events.jsonl", types=frozenset({"end"}))),
    )  # fmt: skip
    for _ in range(2):  # the second run finds nothing
        with Service(config) as service:
            service.run()
    (line,) = (clip.parent / "events.jsonl").read_text().splitlines()
    end = Event.model_validate_json(line)
    assert (end.id, end.type, end.crops, end.interrupted) == ("here", "end", 9, True)
    assert end.ended_at is not None and (end.ended_at - end.started_at).total_seconds() == 1.5  # when it was last seen
    stored = {event.id: (event.type, event.interrupted) for event in query(killed / "events.sqlite")}
    assert stored == {"gone": ("end", False), "here": ("end", True), "file": ("start", False)}


def test_a_run_that_cannot_read_the_open_visits_at_its_start_ends_them_once_it_can(
    killed: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVisits, "tend_s", 0.05)
    folder, stop = tmp_path_factory.mktemp("run"), threading.Event()
    (folder / "pictures").mkdir()
    config = WatchConfig(
        cameras=(CameraConfig(name="gate", source=str(folder / "pictures")),),
        model=tiny_model(folder / "tiny.onnx"), ep="cpu", threads=1, state=killed,
        sinks=(StoreSettings(), JsonLinesSettings(path=folder / "events.jsonl", types=frozenset({"end"}))),
    )  # fmt: skip
    service = Service(config, stop=stop)
    with locked(killed / "open-visits.sqlite"):
        service.start()
        run = threading.Thread(target=service.run)
        run.start()
        eventually(lambda: problem(service) is not None, "the failure is reported")
        assert "database is locked" in str(problem(service))
    eventually(lambda: (folder / "events.jsonl").read_text(), "the visit is ended")
    eventually(lambda: problem(service) is None, "the recovery is reported")
    stop.set()
    run.join(60)
    service.stop()
    (line,) = (folder / "events.jsonl").read_text().splitlines()
    assert Event.model_validate_json(line).id == "here"
    stored = {event.id: (event.type, event.interrupted) for event in query(killed / "events.sqlite")}
    assert stored == {"gone": ("end", False), "here": ("end", True), "file": ("start", False)}
    with OpenVisits(killed / "open-visits.sqlite") as sink:
        assert sink.left == []


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a database so that it cannot be opened, as a failing or full disk does."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def problem(service: Service) -> str | None:
    (keeper,) = (sink for sink in service.status().sinks if sink.name == "open visits")
    return keeper.problem


def test_open_visits_that_a_disk_without_room_for_a_file_hides_are_ended_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVisits, "tend_s", 0.05)
    receiver, messages = Receiver(), list[str]()
    with small_disk(tmp_path / "disk", "1m,nr_inodes=5") as disk:
        with OpenVisits(disk / "open") as sink:
            sink.write(visit(id="old", type="start"), CROP)
        with contextlib.suppress(OSError):
            for number in range(10):
                (disk / str(number)).touch()
        sink = OpenVisits(disk / "open")
        keeper = Delivery(sink, "open visits", DeliveryPolicy(local=True), on_problem=messages.append)
        sending = delivery(receiver)
        with FanOut([sending], [sending], keeper, set()) as fan_out:
            sink.end_left(fan_out.write)
            fan_out.write(visit(id="new", type="start"), CROP)
            eventually(lambda: messages, "the failure is reported")
            eventually(lambda: receiver.got == ["new"], "events of this run are delivered")
            (disk / "0").unlink()
            eventually(lambda: keeper.status().delivered == 2, "the new visit is stored, and the old one is ended")
        assert receiver.got == ["new", "old"]
        with OpenVisits(disk / "open") as again:
            assert [event.id for event in again.left] == ["new"]


def test_what_a_run_stored_itself_is_not_left_by_an_earlier_one(tmp_path: Path) -> None:
    ends: list[str] = []
    with OpenVisits(tmp_path / "o") as sink:
        sink.end_left(lambda event, _crop: ends.append(event.id))
        sink.write(visit(id="mine", type="start"), CROP)
        sink._database.close()  # as after damage
        sink.tend()
        sink.write(visit(id="too", type="start"), CROP)
        sink.tend()
    assert ends == []


def test_an_end_that_a_killed_run_has_sent_already_has_the_same_webhook_id(tmp_path: Path) -> None:
    senders: list[subprocess.Popen[bytes]] = []
    got: list[tuple[str, Event]] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            event = Event.model_validate_json(self.rfile.read(int(self.headers["Content-Length"])))
            got.append((self.headers["webhook-id"], event))
            if event.type == "end" and not event.interrupted:
                senders[0].kill()  # before the response, so the run cannot know that the event was delivered
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with web_server(Receiver) as server:
        url = f"http://127.0.0.1:{server.server_port}/hook"
        program = _WEBHOOK.format(root=str(REPOSITORY), folder=str(tmp_path), url=url)
        for status in (-signal.SIGKILL, 0):
            senders.insert(0, subprocess.Popen([sys.executable, "-c", program]))
            assert senders[0].wait(60) == status
    (start, _), (end, regular), (repeated, interrupted) = got
    assert (regular.type, interrupted.interrupted) == ("end", True)
    assert start != end == repeated


def test_a_visit_that_was_never_confirmed_ends_as_a_false_positive(killed: Path) -> None:
    with OpenVisits(killed / "open-visits.sqlite") as sink:
        ends = {event.id: interrupted_end(event) for event in sink.left}
    assert {id: (end.provisional, end.false_positive) for id, end in ends.items()} == {
        "here": (False, False),
        "ghost": (False, True),
    }


@pytest.mark.parametrize("provisional", [False, True])
def test_an_interrupted_end_does_not_replace_a_regular_one(tmp_path: Path, provisional: bool) -> None:
    with EventStore(tmp_path / "s") as store:
        store.write(visit(), CROP)
        store.write(interrupted_end(visit(type="start", ended_at=None, provisional=provisional)), CROP)
    assert query(tmp_path / "s") == [visit()]


def test_a_visit_without_times_ends_when_it_started(tmp_path: Path) -> None:
    end = interrupted_end(visit(type="start", first_time_s=None, last_time_s=None, ended_at=None))
    assert (end.started_at, end.ended_at) == (MOMENT, MOMENT)


def test_open_visits_of_another_version_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with OpenVisits(tmp_path / "o") as sink:
        sink.write(visit(id="a", type="start"), CROP)
        sink._database.run(lambda connection: connection.execute("UPDATE open SET event = '{}'"))
    with OpenVisits(tmp_path / "o") as sink:
        assert sink.left == []
    assert "another version" in caplog.text
