"""A page, really served, with given visits in its store, and a client that sends arbitrary requests."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import cv2

from tests.support.event_toys import CROP
from tests.support.visit_toys import classifier
from twincar_edge.runtime.configuration.page_settings import PageSettings
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.page.content import Content, OwnClassifier, Running
from twincar_edge.runtime.page.server import PageServer
from twincar_edge.runtime.sinks.store import EventStore


@dataclass(frozen=True)
class Answer:
    """A complete HTTP response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def cookie(self) -> str:
        """The cookie that the response sets, in the form that a request sends."""
        return self.headers.get("Set-Cookie", "").partition(";")[0]


@dataclass
class ServedPage:
    """A running page. `headers`, such as the cookie after `log_in`, go with every request."""

    server: PageServer
    content: Content
    port: int
    headers: dict[str, str]
    trusted: ssl.SSLContext | None = None

    def ask(self, method: str, path: str, body: bytes | Iterable[bytes] | None = None, **headers: str) -> Answer:
        """Send a request. `Sec_Fetch_Site="none"` is the header `Sec-Fetch-Site: none`."""
        if self.trusted is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=self.trusted)
        given = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, given, encode_chunked=not isinstance(body, bytes | None))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """Request a page as a browser does."""
        return self.ask("GET", path, **({"Accept": "text/html"} | headers))

    def post(self, path: str, form: dict[str, str] | None = None, **headers: str) -> Answer:
        """Submit a form as a browser does."""
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}
        return self.ask("POST", path, urlencode(form or {}).encode(), **(kind | headers))

    def log_in(self, token: str | None = None, to: str = "/") -> Answer:
        """Log in, by default with the page's first token, and keep the cookie."""
        answer = self.post(f"/login?{urlencode({'next': to})}", {"token": token or self.server.first_token or ""})
        self.headers["Cookie"] = answer.cookie
        return answer


def write_store(folder: Path, events: Iterable[Event]) -> Path:
    """Write a store with these visits, and the pictures that they name to `folder/pictures`; return its path."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    store = EventStore(folder / "events.sqlite", crops=pictures, clips=pictures)
    for event in events:
        if event.crop is not None:
            cv2.imwrite(str(pictures / event.crop), CROP)
        store.write(event, CROP)
    store.close()
    return folder / "events.sqlite"


@contextmanager
def served(
    folder: Path,
    events: Iterable[Event] = (),
    *,
    address: str = "127.0.0.1:0",
    running: Running | None = None,
    trusted: ssl.SSLContext | None = None,
    model: Path | None = None,
    **settings: Any,
) -> Iterator[ServedPage]:
    """Serve a page with these visits in its store and `folder` as its state folder; its classifier is a tiny model."""
    store = write_store(folder, events)
    answering = OwnClassifier(model) if model is not None else lambda: classifier(folder / "tiny.onnx")
    content = Content(store, folder, (folder / "pictures",), answering, running)
    with PageServer(content, PageSettings(address=address, **settings)) as server:
        yield ServedPage(server, content, urlsplit(server.url).port or 0, {}, trusted)


@contextmanager
def repeating(work: Callable[[], None], every_s: float) -> Iterator[None]:
    """Call `work` in a thread, again and again with a pause, until the context ends."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(every_s):
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
