"""The servers around the box in a soak, on loopback, and their faults: a camera, a receiver, a broker."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from twincar_edge.bundled import demo_clip
from twincar_edge.errors import InputError
from twincar_edge.runtime.events import Event
from twincar_edge.videos import open_capture

FPS = 8.0
WIDTH = 640
GAP_S = 4.0  # of an empty road after each pass of the clip

Arrived = Callable[[Event], None]


class Part:
    """A part of the environment with a fault that can be switched on: None, or one of `faults`."""

    name: str
    faults: tuple[str, ...]

    def __init__(self) -> None:
        """Start well."""
        self.fault: str | None = None

    def set(self, fault: str | None) -> None:
        """Switch to a fault, or back to none."""
        self.fault = fault

    def close(self) -> None:
        """End it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    part: Any

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients are killed all the time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Served(Part):
    handler: type[_Handler]

    def __init__(self) -> None:
        super().__init__()
        self._server = _Server(("127.0.0.1", 0), self.handler)
        self._server.part = self
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _CameraHandler(_Handler):
    def do_GET(self) -> None:
        camera: Camera = self.server.part
        if camera.fault == "away":
            return self.send_error(404)
        self.send_response(200)
        if camera.fault != "no boundary":
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=part")
        self.end_headers()
        while True:
            self.wfile.write(camera.part())
            time.sleep(1 / FPS)


class Camera(_Served):
    """A camera that sends the bundled clip in an endless loop, as MJPEG over HTTP."""

    name = "camera"
    faults = ("away", "silent", "garbage", "endless part", "lying length", "huge picture", "no boundary", "frozen")
    handler = _CameraHandler

    def __init__(self) -> None:
        """Read the clip; serve at `port`."""
        self._pictures = _clip()
        self._huge = cv2.imencode(".jpg", np.full((8200, 8200, 3), 127, np.uint8))[1].tobytes()
        super().__init__()

    def part(self) -> bytes:
        """Return the next part of the stream."""
        place = 0 if self.fault == "frozen" else int(time.monotonic() * FPS) % len(self._pictures)
        picture = self._pictures[place]
        length = len(picture)
        if self.fault == "silent":
            time.sleep(1.0)
            return b""
        if self.fault == "garbage":
            picture = os.urandom(length)
        elif self.fault == "endless part":
            return os.urandom(2**20)
        elif self.fault == "lying length":
            length = 2**31 - 1
        elif self.fault == "huge picture":
            picture = self._huge
            length = len(picture)
        head = f"--part\r\nContent-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n"
        return head.encode() + picture + b"\r\n"


class _ReceiverHandler(_Handler):
    def do_POST(self) -> None:
        receiver: Receiver = self.server.part
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = receiver.fault
        if fault == "away":
            self.close_connection = True
            return
        if fault == "hangs":
            time.sleep(8.0)
            self.close_connection = True
            return
        if fault == "trickles":
            with contextlib.suppress(OSError):
                for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0":
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.5)
            self.close_connection = True
            return
        if fault in ("refuses", "fails"):
            if fault == "refuses":
                receiver.refused(Event.model_validate_json(body))
            self.send_response(400 if fault == "refuses" else 503)
        else:
            if fault == "slow":
                time.sleep(1.5)
            receiver.arrived(Event.model_validate_json(body))
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


class Receiver(_Served):
    """A web server that accepts events, or fails to."""

    name = "webhook"
    faults = ("away", "hangs", "trickles", "refuses", "fails", "slow")
    handler = _ReceiverHandler

    def __init__(self, arrived: Arrived, refused: Arrived) -> None:
        """Serve at `port`; say what has arrived, and what was refused as if the event were at fault."""
        self.arrived = arrived
        self.refused = refused
        super().__init__()


class Broker(Part):
    """A Mosquitto behind a proxy that can fail, and a subscriber that is always connected."""

    name = "mqtt"
    faults = ("away", "stalls", "cuts")

    def __init__(self, folder: Path, arrived: Arrived) -> None:
        """Prepare; `port` is the proxy's.

        Raises:
            InputError: Mosquitto is not installed.
        """
        super().__init__()
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise InputError("mosquitto is not installed: install the Debian package mosquitto")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._behind = int(probe.getsockname()[1])
        config = folder / "mosquitto.conf"
        config.write_text(f"listener {self._behind} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
        self._process = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
        self._proxy = _Proxy(("127.0.0.1", 0), _ProxyHandler)
        self._proxy.broker, self._proxy.behind = self, self._behind
        self.port = int(self._proxy.server_address[1])
        threading.Thread(target=self._proxy.serve_forever, args=(0.1,), daemon=True).start()
        self._subscriber = mqtt.Client(CallbackAPIVersion.VERSION2, "soak", clean_session=False)
        self._subscriber.on_message = lambda _client, _data, message: arrived(
            Event.model_validate_json(message.payload)
        )
        self._subscriber.on_connect = lambda client, *_: client.subscribe("twincar-edge/+/events", 1)
        self._subscriber.reconnect_delay_set(1, 1)
        self._subscriber.connect_async("127.0.0.1", self._behind)
        self._subscriber.loop_start()

    def close(self) -> None:
        """End broker, proxy and subscriber."""
        self._subscriber.loop_stop()
        self._proxy.shutdown()
        self._proxy.server_close()
        self._process.terminate()
        self._process.wait(20)


class _Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    broker: Broker
    behind: int

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients are killed all the time."""


class _ProxyHandler(socketserver.BaseRequestHandler):
    server: _Proxy

    def handle(self) -> None:
        broker = self.server.broker
        if broker.fault == "away":
            return
        with socket.create_connection(("127.0.0.1", self.server.behind), 5) as behind:
            back = threading.Thread(target=self._pass_on, args=(behind, self.request), daemon=True)
            back.start()
            self._pass_on(self.request, behind)
            back.join(5)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        broker = self.server.broker
        source.settimeout(0.2)
        with contextlib.suppress(OSError):
            while broker.fault not in ("away", "cuts"):
                if broker.fault == "stalls":
                    time.sleep(0.1)
                    continue
                try:
                    data = source.recv(65536)
                except TimeoutError:
                    continue
                if not data:
                    break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def _clip() -> list[bytes]:
    """Return the bundled clip as JPEGs at `FPS`, and its first picture with noise for the pause behind it."""
    video = open_capture(str(demo_clip().absolute()), "the demo clip")
    step = max(1, round(video.get(cv2.CAP_PROP_FPS) / FPS))
    pictures: list[Any] = []
    number = 0
    while video.grab():
        if number % step == 0:
            _, frame = video.retrieve()
            pictures.append(cv2.resize(frame, (WIDTH, round(WIDTH * frame.shape[0] / frame.shape[1]))))
        number += 1
    video.release()
    random = np.random.default_rng(0)
    pause = [
        np.clip(pictures[0].astype(np.int16) + random.integers(-3, 4, pictures[0].shape), 0, 255).astype(np.uint8)
        for _ in range(round(GAP_S * FPS))
    ]
    return [cv2.imencode(".jpg", picture)[1].tobytes() for picture in (*pictures, *pause)]
