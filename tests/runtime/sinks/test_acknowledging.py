"""Nothing forgets an event before it is delivered or on disk."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.clips import RED_BGR
from tests.support.disks import small_disk
from tests.support.event_toys import CROP, eventually, visit
from tests.support.tiny_model import tiny_model
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.service import Service
from twincar_edge.runtime.sinks import Delivery, DeliveryPolicy, Sink, Spool, acknowledging
from twincar_edge.runtime.sinks.acknowledging import Acknowledger
from twincar_edge.runtime.sinks.base import Crop
from twincar_edge.runtime.sinks.fan_out import FanOut
from twincar_edge.runtime.sinks.open_visits import OpenVisits
from twincar_edge.runtime.sinks.settings import WebhookSettings


class Hanging(Sink):
    """A sink that hangs in `write` until `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def write(self, event: Event, crop_bgr: Crop) -> None:
        self.go.wait()


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    sink = Hanging()
    yield sink
    sink.go.set()


def in_memory_for(seconds: float, sink: Sink, folder: Path, name: str = "spool") -> Delivery:
    policy = DeliveryPolicy(drain_s=0.1)
    return Delivery(sink, name, policy, spool=Spool(folder / name), persist_after_s=seconds)


def open_ids(path: Path) -> list[str]:
    with OpenVisits(path) as open_visits:
        return [event.id for event in open_visits.left]


def test_a_visit_stays_open_until_its_end_is_safe(hanging: Hanging, tmp_path: Path) -> None:
    file = tmp_path / "open-visits.sqlite"
    keeper = Delivery(OpenVisits(file), "open visits")
    one, other = in_memory_for(0.0, hanging, tmp_path, "one"), in_memory_for(600.0, hanging, tmp_path, "other")
    with FanOut([one, other], [one, other], keeper, set()) as fan_out:
        fan_out.write(visit(id="gone", type="start"), CROP)
        fan_out.write(visit(id="gone"), CROP)
        fan_out.write(visit(id="here", type="start"), CROP)
        eventually(lambda: not keeper.status().queued, "both starts are stored")
        assert keeper.status().delivered == 2  # the end is only in the memory of one sink
    assert other.status().spooled == 3
    assert open_ids(file) == ["here"]
    hanging.go.set()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "100k") as folder:
        with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        yield folder


def test_a_visit_whose_end_is_lost_at_shutdown_on_a_full_disk_stays_open_for_the_next_run(
    hanging: Hanging, full_disk: Path, tmp_path: Path
) -> None:
    file = tmp_path / "open-visits.sqlite"
    keeper = Delivery(OpenVisits(file), "open visits")
    full, good = in_memory_for(0.0, hanging, full_disk), in_memory_for(0.0, hanging, tmp_path)
    with FanOut([full, good], [full, good], keeper, set()) as fan_out:
        fan_out.write(visit(type="start"), CROP)
        eventually(lambda: keeper.status().delivered, "the start is stored")
        fan_out.write(visit(), CROP)
    assert (full.status().dropped, good.status().spooled) == (2, 2)
    assert open_ids(file) == [visit().id]
    hanging.go.set()


def test_an_action_waits_until_the_events_before_it_are_on_disk(hanging: Hanging, tmp_path: Path) -> None:
    called: list[str] = []
    delivery = in_memory_for(0.0, hanging, tmp_path)
    with Acknowledger([delivery]) as acknowledger, delivery:
        delivery.put(visit())
        acknowledger.when_safe(lambda: called.append("stored"))
        eventually(lambda: called, "the event is on disk")
        assert (delivery.status().spooled, delivery.status().delivered) == (1, 0)


def test_an_action_waits_until_the_events_before_it_are_delivered(hanging: Hanging, tmp_path: Path) -> None:
    called: list[str] = []
    delivery = in_memory_for(600.0, hanging, tmp_path)
    with Acknowledger([delivery]) as acknowledger, delivery:
        acknowledger.when_safe(lambda: called.append("nothing to wait for"))
        delivery.put(visit())
        acknowledger.when_safe(lambda: called.append("delivered"))
        eventually(lambda: called, "the first action")
        assert called == ["nothing to wait for"]
        hanging.go.set()
        eventually(lambda: len(called) == 2, "the second action")


def test_a_sink_without_a_spool_delays_nothing(hanging: Hanging) -> None:
    called: list[str] = []
    delivery = Delivery(hanging, "pictures", DeliveryPolicy(drain_s=0.0))
    with Acknowledger([delivery]) as acknowledger, delivery:
        delivery.put(visit())
        acknowledger.when_safe(lambda: called.append("now"))
        eventually(lambda: called, "the action")


def test_waiting_actions_are_bounded(hanging: Hanging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acknowledging, "MAX_WAITING", 3)
    called: list[int] = []
    delivery = in_memory_for(600.0, hanging, tmp_path)
    with Acknowledger([delivery]) as acknowledger, delivery:
        delivery.put(visit())
        for number in range(10):
            acknowledger.when_safe(lambda number=number: called.append(number))  # type: ignore[misc]
        eventually(lambda: len(called) >= 7, "the oldest are called early")
        assert called == list(range(7))
    assert called == list(range(10))


def test_an_image_is_seen_only_once_its_event_is_safe(tmp_path: Path) -> None:
    inbox, seen = tmp_path / "inbox", tmp_path / "state" / "seen-camera"
    inbox.mkdir()
    for number in range(2):
        cv2.imwrite(str(inbox / f"{number}.png"), np.full((40, 60 + number, 3), RED_BGR, np.uint8))
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts connections, and never answers
        config = WatchConfig(
            cameras=(CameraConfig(source=str(inbox)),), model=tiny_model(tmp_path / "tiny.onnx"), ep="cpu", threads=1,
            state=tmp_path / "state", sinks=(WebhookSettings(url=f"http://127.0.0.1:{server.getsockname()[1]}/"),),
        )  # fmt: skip
        service = Service(config, stop=stop)
        (webhook,) = service._deliveries
        webhook._persist_after_s = 600.0
        with service:
            run = threading.Thread(target=service.run)
            run.start()
            eventually(lambda: webhook.status().queued == 2, "both images are answered")
            assert seen.read_bytes() == b""
            stop.set()
            run.join(30)
    assert webhook.status().spooled == 2
    assert all(f"{number}.png" in seen.read_text() for number in range(2))
