"""The MQTT sink, with discovery messages for Home Assistant.

An event is delivered once the broker has acknowledged it (QoS 1). paho-mqtt maintains the connection and resends
unacknowledged messages after a reconnect, so an event that paho still holds is never published again.
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

AVAILABILITY_POLL_S = 5.0
_KEEP_ALIVE_S = 30  # the broker declares a client dead after 1.5 times this
_OFFLINE_TIMEOUT_S = 1.0
_STABLE_S = 60.0  # a connection that lasts this long resets the backoff


class _Client(paho.Client):
    """Stores the reason of a failed connection, which paho's network thread does not expose."""

    failure: str | None = None

    def reconnect(self) -> MQTTErrorCode:
        try:
            return super().reconnect()
        except ssl.SSLCertVerificationError as error:
            self.failure = f"certificate not trusted: {error.verify_message}"
            raise
        except OSError as error:
            self.failure = error.strerror or str(error) or type(error).__name__
            raise
        except Exception as error:  # such as UnicodeError for a host name; only an OSError does not end paho's thread
            self.failure = f"{type(error).__name__}: {error}"
            raise OSError(self.failure) from error


class Mqtt(Sink):
    """Publishes each event as JSON under `<topic>/<camera>/events`.

    These topics are retained:

    - `<topic>/<camera>/last_vehicle`: the last visit that ended, never one that may be or was withdrawn.
    - `<topic>/availability`: `online` while connected, `offline` after closing; the last will sets `offline` when the
      process or the box dies.
    - `<topic>/<camera>/availability`: the camera's health.

    With a `discovery_prefix`, each camera has a sensor in Home Assistant.
    """

    tend_s = AVAILABILITY_POLL_S

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
            cameras: announced on connecting. Others are not: an undelivered event may be of a camera that was removed.
            discovery_prefix: prefix of Home Assistant's discovery topics; None announces no sensors.
            area: the area that Home Assistant suggests for the cameras.
            available: returns for each camera whether it works; a missing camera is unknown. With None, the
                availability of cameras is not published.
            user: the broker's user name.
            password: the broker's password.
            tls: verifies the broker's certificate; None for no TLS.
            timeout_s: timeout of a connection and of an acknowledgment.
            reconnect_s: minimum and maximum delay between attempts to connect.
        """
        self.name = f"mqtt{'s' if tls else ''}://{host}:{port}"
        self._address = host, port
        self._topic = topic
        self._availability = f"{topic}/availability"
        self._discovery_prefix = discovery_prefix
        self._area = area
        self._available = available
        self._published: dict[str, bool] = {}  # availability of cameras, published on this connection
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._cameras = tuple(cameras)
        self._connected = False
        self._refusal: str | None = None
        self._acknowledged: set[int] = set()
        self._pending: tuple[str, list[int]] | None = None  # the event that paho holds, and its message ids
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
        """Start connecting in the background; failed attempts are retried."""
        self._client.connect_async(*self._address, keepalive=_KEEP_ALIVE_S)
        self._client.loop_start()

    def close(self) -> None:
        """Publish `offline` and disconnect."""
        if self._connected:
            offline = self._client.publish(self._availability, OFFLINE, qos=1, retain=True)
            if offline.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._wait_for_acks([offline.mid], _OFFLINE_TIMEOUT_S)
        self._client.disconnect()
        self._client.loop_stop()

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Publish an event and wait for the broker's acknowledgment.

        Raises:
            DeliveryError: no connection, or no acknowledgment in time.
        """
        self._send(event)

    def write_stored(self, event: StoredEvent) -> None:
        """Publish a stored event unchanged; raises what `write` raises."""
        self._send(event)

    def tend(self) -> None:
        """Publish the availability of cameras for which it changed."""
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
                    raise DeliveryError(f"cannot connect: {self._failure_reason()}")
            camera = f"{self._topic}/{topic_part(event.camera)}"
            messages = [self._publish(f"{camera}/events", payload)]
            if event.type == "end" and not event.false_positive:
                messages.append(self._publish(f"{camera}/last_vehicle", payload, retain=True))
            self._pending = payload, messages
        if not self._wait_for_acks(self._pending[1], self._timeout_s):
            raise DeliveryError(f"no acknowledgment: {self._failure_reason()}")
        self._pending = None

    def _publish(self, topic: str, payload: str, *, retain: bool = False) -> int:
        message = self._client.publish(topic, payload, qos=1, retain=retain)
        if message.rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN):
            raise DeliveryError(f"cannot publish: {paho.error_string(message.rc)}")
        return message.mid

    def _wait_for_acks(self, message_ids: Sequence[int], seconds: float) -> bool:
        with self._changed:
            done = self._changed.wait_for(lambda: self._acknowledged.issuperset(message_ids), seconds)
            if done:
                self._acknowledged.clear()
            return done

    def _failure_reason(self) -> str:
        if self._connected:
            return "timed out"
        return self._refusal or self._client.failure or "timed out"

    # -- In paho's thread

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: paho.ConnectFlags, code: ReasonCode, _more: Properties | None
    ) -> None:
        if code.is_failure:
            self._refusal = f"refused ({str(code).lower()}): check $TWINCAR_MQTT_USER and $TWINCAR_MQTT_PASSWORD"
            return
        client.publish(self._availability, ONLINE, qos=1, retain=True)
        if self._discovery_prefix is not None:
            for camera in self._cameras:
                config = discovery(self._topic, camera, area=self._area, per_camera=self._available is not None)
                path = discovery_topic(self._discovery_prefix, self._topic, camera)
                client.publish(path, json.dumps(config), qos=1, retain=True)
        self._published.clear()  # the broker may have lost its retained messages
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
        """Set the delay before the next attempt: paho resets it after every connection, even a short one."""
        stable = time.monotonic() - self._connected_s >= _STABLE_S
        self._short_connections = 0 if stable else self._short_connections + 1
        first_s, longest_s = self._reconnect_s
        delay_s = min(longest_s, first_s * 2 ** min(max(0, self._short_connections - 1), 16))
        client.reconnect_delay_set(delay_s, longest_s)

    def _on_publish(
        self, _client: paho.Client, _data: Any, message_id: int, _code: ReasonCode, _more: Properties | None
    ) -> None:
        with self._changed:
            self._acknowledged.add(message_id)
            self._changed.notify_all()
