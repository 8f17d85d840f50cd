"""MQTT with a real broker: events arrive once and in order; sensors and availability are published."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests import REPOSITORY
from tests.runtime.sinks.test_delivery import quick
from tests.support.clips import film, write_video
from tests.support.event_toys import CROP, eventually, visit, visits
from tests.support.mosquitto import Mosquitto
from tests.support.servers import free_port, make_certificates
from tests.support.tiny_model import tiny_model
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.service import Service
from twincar_edge.runtime.sinks import Delivery, DeliveryError, DeliveryPolicy, Spool
from twincar_edge.runtime.sinks.discovery import discovery, topic_part
from twincar_edge.runtime.sinks.mqtt import Mqtt
from twincar_edge.runtime.sinks.settings import MqttSettings
from twincar_edge.runtime.sources import open_source


class Subscriber:
    """A client with a persistent session: the broker queues messages while the client is disconnected."""

    def __init__(
        self, port: int, topics: str = "#", prepare: Callable[[paho.Client], None] = lambda _client: None
    ) -> None:
        self.messages: list[paho.MQTTMessage] = []
        self._topics = topics
        self._ready = False
        self._port = port
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="subscriber", clean_session=False)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = lambda _client, _data, message: self.messages.append(message)
        prepare(self._client)

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        eventually(lambda: self._ready, "subscribed")
        return self

    def __exit__(self, *_exception: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: paho.Client, *_more: Any) -> None:
        client.subscribe(self._topics, qos=1)

    def _on_subscribe(self, *_more: Any) -> None:
        self._ready = True

    def ids(self) -> list[str]:
        """Return the ids of the events in order, without duplicates that the broker caused.

        The broker sets `dup` on every message that may have arrived before, so only a repeated id with `dup` is its
        duplicate. A repeated id without `dup` is the publisher's fault and remains in the result.
        """
        ids: list[str] = []
        for message in list(self.messages):
            one = json.loads(message.payload)["id"]
            if not (message.dup and one in ids):
                ids.append(one)
        return ids

    def last(self, topic: str) -> str | None:
        """Return the last message of a topic."""
        messages = [message.payload.decode() for message in list(self.messages) if message.topic == topic]
        return messages[-1] if messages else None


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as mosquitto:
        yield mosquitto


def sink(port: int, **options: Any) -> Mqtt:
    return Mqtt("127.0.0.1", port, **{"timeout_s": 5.0, "reconnect_s": (1, 1), **options})


def sending(mqtt: Mqtt, spool: Path, messages: list[str] | None = None, drain_s: float = 30.0) -> Delivery:
    lines = [] if messages is None else messages
    return Delivery(
        mqtt, "mqtt", DeliveryPolicy(drain_s=drain_s), spool=Spool(spool), backoff=quick(), on_problem=lines.append
    )


def test_a_subscriber_receives_the_event_unchanged(broker: Mosquitto) -> None:
    event = visit(camera="gate 1/#", name="Škoda Octavia Wagon 2012")
    with Subscriber(broker.port, "twincar-edge/+/events") as subscriber, sink(broker.port) as mqtt:
        mqtt.write(event, CROP)
        eventually(lambda: subscriber.messages, "arrived")
    (message,) = subscriber.messages
    assert Event.model_validate_json(message.payload) == event
    assert message.topic == f"twincar-edge/{topic_part('gate 1/#')}/events"
    assert (message.qos, message.retain) == (1, False)


def test_every_event_arrives_once_and_in_order_across_broker_restarts(broker: Mosquitto, tmp_path: Path) -> None:
    events = visits(300)
    messages: list[str] = []
    with Subscriber(broker.port, "twincar-edge/+/events") as subscriber:
        with sending(sink(broker.port, timeout_s=5), tmp_path / "spool", messages) as delivery:
            for number, event in enumerate(events):
                delivery.put(event)
                time.sleep(0.002)
                if number in (60, 160):  # the first outage is over before the second begins
                    eventually(lambda: delivery.status().problem is None, "recovered", 40)
                    broker.stop()
                if number in (120, 220):
                    eventually(lambda: delivery.status().problem, "the outage is noticed")
                    broker.start()
            eventually(lambda: delivery.status().delivered == 300, "all delivered", 40)
        eventually(lambda: len(subscriber.ids()) >= 300, "all arrived")
    assert subscriber.ids() == [event.id for event in events]
    assert delivery.status().dropped == 0
    assert [line for line in messages if "recovered" in line] == ["mqtt: delivery recovered"] * 2


def test_a_frozen_broker_gets_a_pending_event_only_once(broker: Mosquitto, tmp_path: Path) -> None:
    """The acknowledgment arrives after several timeouts."""
    with Subscriber(broker.port, "twincar-edge/+/events") as subscriber:
        with sending(sink(broker.port, timeout_s=0.1), tmp_path / "spool") as delivery:
            delivery.put(visit(id="before"))
            eventually(lambda: delivery.status().delivered == 1, "delivered")
            broker.send(signal.SIGSTOP)
            delivery.put(visit(id="1"))
            delivery.put(visit(id="2"))
            eventually(lambda: "no acknowledgment" in (delivery.status().problem or ""), "the timeout is noticed")
            eventually(lambda: delivery.status().spooled == 2, "both on disk")
            broker.send(signal.SIGCONT)
            eventually(lambda: delivery.status().delivered == 3, "all delivered")
        eventually(lambda: len(subscriber.messages) >= 3, "all arrived")
    assert subscriber.ids() == ["before", "1", "2"]


def test_events_without_a_broker_are_sent_after_a_restart_of_the_process(tmp_path: Path) -> None:
    events = visits(20)
    with sending(sink(free_port(), timeout_s=0.05), tmp_path / "spool", drain_s=0.1) as delivery:
        for event in events:
            delivery.put(event)
        eventually(lambda: delivery.status().problem == "cannot connect: Connection refused", "the reason is reported")
    with Mosquitto(tmp_path / "broker") as broker, Subscriber(broker.port, "twincar-edge/+/events") as subscriber:
        with sending(sink(broker.port), tmp_path / "spool") as delivery:
            pass
        eventually(lambda: len(subscriber.ids()) >= 20, "all arrived")
        assert subscriber.ids() == [event.id for event in events]


_WATCHER = """
import sys, time
sys.path.insert(0, {root!r})
from tests.support.clips import film, write_video
from tests.support.event_toys import CROP, visit
from twincar_edge.runtime.sinks.mqtt import Mqtt

with Mqtt("127.0.0.1", {port}) as mqtt:
    mqtt.write(visit(), CROP)
    print("delivered", flush=True)
    time.sleep(600)
"""


def test_availability_is_online_then_offline_after_closing_and_by_last_will_after_a_kill(broker: Mosquitto) -> None:
    with Subscriber(broker.port) as subscriber:
        with sink(broker.port):
            eventually(lambda: subscriber.last("twincar-edge/availability") == "online", "online")
        eventually(lambda: subscriber.last("twincar-edge/availability") == "offline", "offline")
        program = _WATCHER.format(root=str(REPOSITORY), port=broker.port)
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "delivered\n"
            eventually(lambda: subscriber.last("twincar-edge/availability") == "online", "online")
            os.kill(process.pid, signal.SIGKILL)
            eventually(lambda: subscriber.last("twincar-edge/availability") == "offline", "the last will")
    with Subscriber(broker.port) as later:
        assert later._topics == "#"
        retained = sink(broker.port)
        with retained:
            eventually(lambda: later.last("twincar-edge/availability") == "online", "online again")


def test_availability_and_sensors_are_republished_after_the_broker_lost_them(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker, sink(broker.port, cameras=["gate"]) as mqtt:
        mqtt.write(visit(), CROP)
        broker.stop()
        (tmp_path / "broker" / "mosquitto.db").unlink()
        broker.start()
        config = "homeassistant/sensor/twincar-edge_gate/last_vehicle/config"
        with Subscriber(broker.port) as subscriber:
            eventually(lambda: subscriber.last("twincar-edge/availability") == "online", "online")
            eventually(lambda: subscriber.last(config), "the sensor")


def test_an_event_of_a_camera_that_was_removed_does_not_announce_it_again(broker: Mosquitto, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.open()
    spool.add([(1, visit(camera="removed").to_json())])
    spool.close()
    with Subscriber(broker.port) as subscriber:
        with sending(sink(broker.port, cameras=["gate"]), tmp_path / "spool"):
            eventually(lambda: subscriber.last("twincar-edge/removed/events"), "the event")
        eventually(lambda: subscriber.last("twincar-edge/availability") == "offline", "offline")
    announced = [message.topic for message in subscriber.messages if message.topic.startswith("homeassistant/")]
    assert announced == ["homeassistant/sensor/twincar-edge_gate/last_vehicle/config"]


def test_each_camera_is_announced_on_connecting(broker: Mosquitto) -> None:
    cameras = ["gate", "yard.2"]
    with Subscriber(broker.port, "homeassistant/#") as subscriber, sink(broker.port, cameras=cameras):
        eventually(lambda: len(subscriber.messages) == 2, "both")
    topics = [message.topic for message in subscriber.messages]
    configs = [json.loads(message.payload) for message in subscriber.messages]
    assert topics[0] == "homeassistant/sensor/twincar-edge_gate/last_vehicle/config"
    assert all(
        set(topic) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-/") for topic in topics
    )
    assert configs[0] == discovery("twincar-edge", "gate")
    assert configs[0]["state_topic"] == configs[0]["json_attributes_topic"] == "twincar-edge/gate/last_vehicle"
    assert len({config["unique_id"] for config in configs}) == 2
    assert configs[0]["default_entity_id"] == "sensor.twincar_edge_gate_last_vehicle"
    for config in configs:
        # https://www.home-assistant.io/docs/configuration/state_object: letters, digits, underscores
        assert re.fullmatch(r"sensor\.[a-z0-9_]+", config["default_entity_id"])
        assert "object_id" not in config  # deprecated in 2025.10, an error since 2026.4
    with Subscriber(broker.port, "homeassistant/#") as later:  # retained for a Home Assistant that starts later
        eventually(lambda: {message.topic for message in later.messages} == set(topics), "retained")


def test_camera_availability_follows_its_health_and_is_republished_after_a_broker_restart(tmp_path: Path) -> None:
    works = {"gate": True}
    with Mosquitto(tmp_path / "broker") as broker:
        mqtt = sink(broker.port, cameras=["gate", "yard"], available=lambda: dict(works))
        mqtt.tend_s = 0.02
        with sending(mqtt, tmp_path / "spool"):
            with Subscriber(broker.port) as subscriber:
                topic = "twincar-edge/{}/availability".format
                eventually(lambda: subscriber.last(topic("gate")) == "online", "online")
                works["gate"] = False
                eventually(lambda: subscriber.last(topic("gate")) == "offline", "offline")
                assert subscriber.last(topic("yard")) is None  # unknown
                config = json.loads(subscriber.last("homeassistant/sensor/twincar-edge_gate/last_vehicle/config") or "")
                assert topic("gate") in [place["topic"] for place in config["availability"]]
            broker.stop()
            (tmp_path / "broker" / "mosquitto.db").unlink()
            broker.start()
            with Subscriber(broker.port) as later:
                eventually(lambda: later.last(topic("gate")) == "offline", "published again", 40)


def test_an_unexpected_error_of_a_connection_is_reported_and_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host name that Python cannot encode raised a UnicodeError, which ended paho's thread."""
    attempts: list[object] = []

    def fail(*arguments: object, **_options: object) -> socket.socket:
        attempts.append(arguments)
        raise UnicodeError("label too long")

    monkeypatch.setattr(socket, "create_connection", fail)
    with Mqtt("broker", 1883, timeout_s=0.1, reconnect_s=(1, 1)) as mqtt:
        eventually(lambda: len(attempts) > 1, "it is retried")
        with pytest.raises(DeliveryError, match="cannot connect: UnicodeError: label too long"):
            mqtt.write(visit(), CROP)


def test_a_withdrawn_visit_never_becomes_the_last_vehicle(broker: Mosquitto) -> None:
    car = visit(id="car")
    ghost = visit(id="ghost", name="Castor Green Coupe 2020")
    with sink(broker.port) as mqtt, Subscriber(broker.port, "twincar-edge/gate/#") as subscriber:
        mqtt.write(car, CROP)
        mqtt.write(ghost.model_copy(update={"type": "start", "provisional": True}), CROP)
        mqtt.write(ghost.model_copy(update={"type": "update"}), CROP)
        mqtt.write(ghost.model_copy(update={"false_positive": True}), CROP)
        eventually(lambda: len(subscriber.messages) == 5, "all arrived")
    published = [
        message.payload for message in subscriber.messages if message.topic == "twincar-edge/gate/last_vehicle"
    ]
    assert [Event.model_validate_json(payload) for payload in published] == [car]
    with Subscriber(broker.port, "twincar-edge/gate/#") as later:  # retained for a Home Assistant that starts later
        eventually(lambda: later.messages, "retained")
        assert [Event.model_validate_json(message.payload).id for message in later.messages] == ["car"]


def test_two_cameras_never_share_a_topic() -> None:
    names = ["gate", "a/b", "a_b", "a+b", "a#b", "", "ä", "x" * 70, "x" * 71]
    parts = {topic_part(name) for name in names}
    assert len(parts) == len(names)
    assert all(not set(part) & set("/+#") and part for part in parts)
    assert topic_part("gate") == "gate"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def guarded(certificates: Path, tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that requires TLS, a user and a password."""
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "box", "geheim"], check=True, capture_output=True)
    options = [
        f"certfile {certificates}/server.crt",
        f"keyfile {certificates}/server.key",
        "allow_anonymous false",
        f"password_file {passwords}",
    ]
    with Mosquitto(tmp_path / "broker", *options) as mosquitto:
        yield mosquitto


def test_events_are_delivered_over_tls_with_a_password(guarded: Mosquitto, certificates: Path) -> None:
    def prepare(client: paho.Client) -> None:
        client.username_pw_set("box", "geheim")
        client.tls_set(str(certificates / "ca.crt"))

    trusted = ssl.create_default_context(cafile=certificates / "ca.crt")
    with (
        Subscriber(guarded.port, "twincar-edge/+/events", prepare) as subscriber,
        sink(guarded.port, tls=trusted, user="box", password="geheim") as mqtt,
    ):
        mqtt.write(visit(), CROP)
        eventually(lambda: subscriber.messages, "arrived")


# After a failed handshake, paho-mqtt leaves the socket open until the client is garbage-collected.
UNCLOSED = pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")


@pytest.mark.filterwarnings("ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning")
def test_a_service_publishes_the_availability_of_its_cameras(
    broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mqtt, "tend_s", 0.05)
    clip = write_video(tmp_path / "clip.mp4", film([], 5))
    gone = f"rtsp://127.0.0.1:{free_port()}/live"
    config = WatchConfig(
        cameras=(
            CameraConfig(name="file", source=str(clip)),
            CameraConfig(name="gone", source=gone),
        ),
        model=tiny_model(tmp_path / "model.onnx", golden=True),
        ep="cpu",
        threads=1,
        state=tmp_path / "state",
        sinks=(MqttSettings(host="127.0.0.1", port=broker.port, area="Yard"),),
    )
    sources = {"gone": open_source(gone, keep_trying=True)}
    with Subscriber(broker.port) as subscriber, Service(config, sources=sources):
        expected = {"file": "online", "gone": "offline"}
        for camera, state in expected.items():
            eventually(lambda: subscriber.last(f"twincar-edge/{camera}/availability") == state, camera, 20)  # noqa: B023
        config_topic = "homeassistant/sensor/twincar-edge_file/last_vehicle/config"
        announced = json.loads(subscriber.last(config_topic) or "")
    assert announced["device"]["suggested_area"] == "Yard"
    gc.collect()  # within the filter of this test


@pytest.mark.parametrize(
    ("authority", "password", "message"),
    [
        ("ca", "falsch", "not authori[sz]ed"),
        pytest.param("stranger", "geheim", "certificate not trusted", marks=UNCLOSED),
    ],
)
def test_errors_for_a_wrong_password_or_certificate_do_not_contain_the_password(
    guarded: Mosquitto,
    certificates: Path,
    authority: str,
    password: str,
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    tls = ssl.create_default_context(cafile=certificates / f"{authority}.crt")
    with (
        sink(guarded.port, tls=tls, user="box", password=password, timeout_s=1.0) as mqtt,
        pytest.raises(DeliveryError, match=message) as caught,
    ):
        mqtt.write(visit(), CROP)
    assert password not in str(caught.value) + caplog.text


def test_repeated_disconnects_by_the_broker_back_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[int] = []
    enough = threading.Event()

    def wait(client: paho.Client) -> None:
        waits.append(client._reconnect_min_delay)
        if len(waits) >= 7:
            enough.set()
            time.sleep(0.05)

    def accept() -> None:
        with contextlib.suppress(OSError):  # the test is over
            while not enough.is_set():
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"\x20\x02\x00\x00")  # CONNACK: accepted

    monkeypatch.setattr(paho.Client, "_reconnect_wait", wait)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        with Mqtt("127.0.0.1", listener.getsockname()[1], reconnect_s=(1, 30)):
            assert enough.wait(20)
    assert waits[:7] == [1, 2, 4, 8, 16, 30, 30]
