"""Events to an MQTT broker, with discovery messages for Home Assistant.

An event is delivered when the broker has acknowledged it (QoS 1). paho-mqtt keeps the connection, and after a reconnect
it resends what was not acknowledged. An event that paho still holds is therefore never passed to it again.
"""

from __future__ import annotations

import json
import logging
import math
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from twincar_edge.runtime.events import Event, StoredEvent
from twincar_edge.runtime.sinks.base import Crop, DeliveryError, Sink
from twincar_edge.runtime.sinks.discovery import (
    OFFLINE,
    ONLINE,
    camera_availability_topic,
    discovery,
    discovery_topic,
    topic_part,
)

logger = logging.getLogger(__name__)

CAMERAS_S = 5.0  # between two looks at which cameras are available
_KEEP_ALIVE_S = 30  # the broker notices a dead box after one and a half times this
_FAREWELL_S = 1.0
_STEADY_S = 60.0  # a connection that lasts so long is a good one


class _Client(paho.Client):
    """Remembers why it could not connect, which paho's own thread does not expose."""

    failure: str | None = None

    def reconnect(self) -> MQTTErrorCode:
        try:
            return super().reconnect()
        except ssl.SSLCertVerificationError as error:
            self.failure = f"its certificate is not trusted: {error.verify_message}"
            raise
        except OSError as error:
            self.failure = error.strerror or str(error) or type(error).__name__
            raise


class Mqtt(Sink):
    """Publishes each event as JSON under `<topic>/<camera>/events`.

    `<topic>/<camera>/last_vehicle` has the last visit that has ended, retained: what may still be retracted, or has
    been, never comes there. `<topic>/availability` is retained: `online` while connected, `offline` after closing, and
    by the last will when the process or the box dies. `<topic>/<camera>/availability` is retained too, and follows the
    camera's health. With a `discovery_prefix` each camera has a sensor in Home Assistant.
    """

    tend_s = CAMERAS_S

    def __init__(
        self,
        host: str,
        port: int,
        *,
        topic: str = "twincar-edge",
        cameras: Sequence[str] = (),
        discovery_prefix: str | None = "homeassistant",
        area: str | None = None,
        available: Callable[[], Mapping[str, bool]] | None = None,
        user: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 10.0,
        reconnect_s: tuple[int, int] = (1, 30),
    ) -> None:
        """Prepare; `open` connects.

        Args:
            host: the broker's name or address.
            port: its port.
            topic: prefix of all topics.
            cameras: announced on connecting; others are announced with their first event.
            discovery_prefix: where Home Assistant looks for sensors; None announces none.
            area: the area that Home Assistant suggests for the cameras.
            available: returns for each camera whether it works; a camera that is missing is not known yet. None
                publishes no availability of cameras.
            user: for the broker.
            password: for the broker.
            tls: verifies the broker's certificate; None for no TLS.
            timeout_s: how long to wait for a connection and for an acknowledgement.
            reconnect_s: shortest and longest time between attempts to connect.
        """
        self.name = f"mqtt{'s' if tls else ''}://{host}:{port}"
        self._address = host, port
        self._topic = topic
        self._availability = f"{topic}/availability"
        self._discovery_prefix = discovery_prefix
        self._area = area
        self._available = available
        self._published: dict[str, bool] = {}  # availability of cameras, on this connection
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._cameras = list(cameras)
        self._connected = False
        self._refusal: str | None = None
        self._acknowledged: set[int] = set()
        self._pending: tuple[str, list[int]] | None = None  # the event, and its messages that paho holds
        self._client = _Client(CallbackAPIVersion.VERSION2)
        self._reconnect_s = reconnect_s
        self._short_connections = 0  # in a row
        self._connected_s = -math.inf
        self._client.reconnect_delay_set(*reconnect_s)
        self._client.will_set(self._availability, OFFLINE, qos=1, retain=True)
        if user is not None:
            self._client.username_pw_set(user, password)
        if tls is not None:
            self._client.tls_set_context(tls)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish

    def open(self) -> None:
        """Start to connect; attempts go on until one succeeds."""
        self._client.connect_async(*self._address, keepalive=_KEEP_ALIVE_S)
        self._client.loop_start()

    def close(self) -> None:
        """Publish that the box is offline, and disconnect."""
        if self._connected:
            farewell = self._client.publish(self._availability, OFFLINE, qos=1, retain=True)
            if farewell.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._wait_for_acknowledgement([farewell.mid], _FAREWELL_S)
        self._client.disconnect()
        self._client.loop_stop()

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Publish one event, and wait until the broker has it.

        Raises:
            DeliveryError: there is no connection, or no acknowledgement in time.
        """
        self._send(event)

    def write_stored(self, event: StoredEvent) -> None:
        """Publish an event as it was stored; raises what `write` raises."""
        self._send(event)

    def tend(self) -> None:
        """Publish which cameras are available, where that has changed."""
        if self._available is None or not self._connected:
            return
        for camera, available in self._available().items():
            if self._published.get(camera) != available:
                self._published[camera] = available
                topic = camera_availability_topic(self._topic, camera)
                self._client.publish(topic, ONLINE if available else OFFLINE, qos=1, retain=True)

    def _send(self, event: Event | StoredEvent) -> None:
        payload = event.to_json()
        if self._pending is None or self._pending[0] != payload:
            with self._changed:
                if not self._changed.wait_for(lambda: self._connected, self._timeout_s):
                    raise DeliveryError(f"it cannot be reached: {self._why_not()}")
            self._announce(event.camera)
            camera = f"{self._topic}/{topic_part(event.camera)}"
            messages = [self._publish(f"{camera}/events", payload)]
            if event.type == "end" and not event.false_positive:
                messages.append(self._publish(f"{camera}/last_vehicle", payload, retain=True))
            self._pending = payload, messages
        if not self._wait_for_acknowledgement(self._pending[1], self._timeout_s):
            raise DeliveryError(f"it does not acknowledge: {self._why_not()}")
        self._pending = None

    def _publish(self, topic: str, payload: str, *, retain: bool = False) -> int:
        message = self._client.publish(topic, payload, qos=1, retain=retain)
        if message.rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN):
            raise DeliveryError(f"it takes no event: {paho.error_string(message.rc)}")
        return message.mid

    def _wait_for_acknowledgement(self, message_ids: Sequence[int], seconds: float) -> bool:
        with self._changed:
            done = self._changed.wait_for(lambda: self._acknowledged.issuperset(message_ids), seconds)
            if done:
                self._acknowledged.clear()
            return done

    def _announce(self, camera: str) -> None:
        if camera not in self._cameras:
            self._cameras.append(camera)
            self._publish_discovery(camera)

    def _publish_discovery(self, camera: str) -> None:
        if self._discovery_prefix is not None:
            config = discovery(self._topic, camera, area=self._area, per_camera=self._available is not None)
            path = discovery_topic(self._discovery_prefix, self._topic, camera)
            self._client.publish(path, json.dumps(config), qos=1, retain=True)

    def _why_not(self) -> str:
        if self._connected:
            return "no answer in time"
        return self._refusal or self._client.failure or "no answer in time"

    # -- On paho's thread

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: paho.ConnectFlags, code: ReasonCode, _more: Properties | None
    ) -> None:
        if code.is_failure:
            self._refusal = f"it says {str(code).lower()!r}: check $TWINCAR_MQTT_USER and $TWINCAR_MQTT_PASSWORD"
            return
        client.publish(self._availability, ONLINE, qos=1, retain=True)
        for camera in list(self._cameras):
            self._publish_discovery(camera)
        self._published.clear()  # the broker may have forgotten it
        self._connected_s = time.monotonic()
        with self._changed:
            self._connected, self._refusal = True, None
            self._changed.notify_all()

    def _on_disconnect(
        self, client: paho.Client, _data: Any, _flags: paho.DisconnectFlags, code: ReasonCode, _more: Properties | None
    ) -> None:
        logger.debug("%s: disconnected: %s", self.name, code)
        with self._changed:
            connected, self._connected = self._connected, False
        if connected:
            self._back_off(client)

    def _back_off(self, client: paho.Client) -> None:
        """Set the next wait: paho begins with the shortest one after each connection, however short that was."""
        steady = time.monotonic() - self._connected_s >= _STEADY_S
        self._short_connections = 0 if steady else self._short_connections + 1
        first_s, longest_s = self._reconnect_s
        wait_s = min(longest_s, first_s * 2 ** min(max(0, self._short_connections - 1), 16))
        client.reconnect_delay_set(wait_s, longest_s)

    def _on_publish(
        self, _client: paho.Client, _data: Any, message_id: int, _code: ReasonCode, _more: Properties | None
    ) -> None:
        with self._changed:
            self._acknowledged.add(message_id)
            self._changed.notify_all()
