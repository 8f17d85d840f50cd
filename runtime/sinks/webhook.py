"""The webhook sink: HTTP requests, signed per Standard Webhooks, for which verification libraries exist.

Source: Standard Webhooks 1.0.0, https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import http.client
import json
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from urllib.parse import unquote, urlsplit

from twincar_edge._version import __version__
from twincar_edge.errors import InputError
from twincar_edge.runtime.connection import connection_problem
from twincar_edge.runtime.events import Event, StoredEvent
from twincar_edge.runtime.sinks.base import Crop, DeliveryError, RefusedError, Sink
from twincar_edge.runtime.sinks.exchange import Exchange, Response
from twincar_edge.runtime.sources.base import redact_url

_SECRET_PREFIX = b"whsec_"
# Statuses that may be about the event; all others are about the receiver.
_REFUSED = frozenset({400, 413, 415, 422})
_OF_THE_RUN = frozenset({"started_at", "ended_at", "crop", "clip"})  # fields that differ when a file is read again
_SLOW_S = 60.0
_MAX_WAIT_S = 3600.0


@dataclass(frozen=True)
class Target:
    """The parts of a URL. `authorization` is the Basic header made from its user and password.

    `name` is for messages: scheme and host, and a digest of the path if there is one, because paths may hold secrets.
    """

    name: str
    host: str
    port: int
    path: str = field(repr=False)
    tls: bool
    authorization: str | None = field(repr=False)


def parse_target(url: str) -> Target:
    """Parse and check a webhook's URL.

    Raises:
        InputError: not an http:// or https:// URL with a host, or invalid characters.
    """
    shown = (re.match(r"[a-z]*://[^/?#]*", redact_url(url)) or [url[:8]])[0]
    if not re.fullmatch(r"[\x21-\x7e]+", url):
        raise InputError(
            f"invalid webhook URL {shown!r}…: percent-encode spaces and special characters (a space is %20)"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")  # as the lookup does; UnicodeError is a ValueError
    except ValueError as error:
        raise InputError(f"invalid webhook URL {shown!r}…: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"invalid webhook URL {shown!r}…: expected http://HOST/PATH or https://HOST/PATH")
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode("ascii")
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if path != "/":
        name += f"#{hashlib.sha256(path.encode()).hexdigest()[:6]}"
    return Target(name, parts.hostname, port or (443 if tls else 80), path, tls, authorization)


def signing_key(secret: bytes) -> bytes:
    """Return the key of a secret: decoded if it is `whsec_` and base64, else the bytes unchanged.

    Raises:
        InputError: the base64 after `whsec_` is missing or malformed.
    """
    if not secret.startswith(_SECRET_PREFIX):
        return secret
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise InputError("invalid webhook secret: whsec_ must be followed by the key in base64")
    return key


def message_id(event: Event | StoredEvent, body: bytes) -> str:
    """Return an id by which a receiver recognizes an event that it already has: visit, type and a digest.

    The digest is of the content, with two exceptions for a process that is killed just after an `end`. A live camera's
    visit has one `end`, and the next run may send an `interrupted` one too, so the content does not count. An image or
    video is read again, so its times, and the names made of them, do not count.

    The id contains no full stop, because full stops delimit the signed content.
    """
    visit = re.sub(r"[^A-Za-z0-9_-]", "_", event.id)
    fields = json.loads(body)
    if fields.get("recording") is not None:
        body = json.dumps({name: value for name, value in fields.items() if name not in _OF_THE_RUN}).encode()
    elif event.type == "end":
        body = event.id.encode()
    return f"{visit}/{event.type}/{hashlib.sha256(body).hexdigest()[:16]}"


def signature_headers(secret: bytes, id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers with which a receiver that has the secret verifies a request.

    The two `X-Twincar` headers of earlier versions are deprecated: HMAC-SHA256 of `<timestamp>.<body>` with the secret
    as written.
    """
    signature = hmac.digest(signing_key(secret), f"{id}.{timestamp}.".encode() + body, "sha256")
    return {
        "webhook-signature": "v1," + base64.b64encode(signature).decode("ascii"),
        "X-Twincar-Timestamp": str(timestamp),
        "X-Twincar-Signature": "sha256=" + hmac.digest(secret, b"%d." % timestamp + body, "sha256").hex(),
    }


class Webhook(Sink):
    """Posts each event as JSON; a 2xx status means delivered.

    Every request opens a new connection, so that no half-open connection remains overnight. Redirects are not followed:
    a request signed for one host must not reach another.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: bytes | None = None,
        ca_file: Path | None = None,
        timeout_s: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Post to `url`; sign requests if there is a `secret`.

        Args:
            url: http:// or https://, optionally with user and password for HTTP Basic.
            secret: shared with the receiver; see `signing_key`.
            ca_file: certificates (PEM) to trust instead of the system's.
            timeout_s: deadline of a whole request, from name resolution to the response.
            clock: seconds since 1970.

        Raises:
            InputError: the URL, the secret or the certificates are invalid.
        """
        if secret is not None:
            signing_key(secret)
        self._target = parse_target(url)
        self._secret = secret
        self._clock = clock
        tls = tls_context(ca_file) if self._target.tls else None
        self._exchange = Exchange(self._target.host, self._target.port, timeout_s, tls)

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Post one event.

        Raises:
            DeliveryError: no connection, no response in time, or an error status.
            RefusedError: the receiver reports the event as invalid (400, 413, 415, 422).
        """
        self._send(event)

    def write_stored(self, event: StoredEvent) -> None:
        """Post a stored event unchanged; raises what `write` raises."""
        self._send(event)

    def _send(self, event: Event | StoredEvent) -> None:
        body = event.to_json().encode("utf-8")
        try:
            response = self._post(body, message_id(event, body))
        except (OSError, http.client.HTTPException) as error:
            raise DeliveryError(f"request failed: {connection_problem(error)}") from error
        status = response.status
        if 200 <= status < 300:
            return
        problem = f"HTTP {status} {http.client.responses.get(status, '')}".rstrip()
        if status in _REFUSED:
            raise RefusedError(problem)
        if 300 <= status < 400:
            raise DeliveryError(f"{problem}: redirects are not followed; use the final URL", _SLOW_S)
        wait_s = _retry_after_s(response.retry_after, self._clock())
        if wait_s is None and 400 <= status < 500 and status not in (408, 425, 429):
            wait_s = _SLOW_S  # wrong URL or credentials: nothing changes until an operator fixes them
        raise DeliveryError(problem, wait_s)

    def _post(self, body: bytes, id: str) -> Response:
        timestamp = int(self._clock())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"twincar-edge/{__version__}",
            "Connection": "close",
            "webhook-id": id,
            "webhook-timestamp": str(timestamp),
            "Idempotency-Key": id,
        }
        if self._target.authorization is not None:
            headers["Authorization"] = self._target.authorization
        if self._secret is not None:
            headers |= signature_headers(self._secret, id, timestamp, body)
        return self._exchange.post(self._target.path, body, headers)


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that verifies the server's certificate and host name.

    Raises:
        InputError: `ca_file` contains no certificates.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"cannot read certificates from {ca_file}: {connection_problem(error)}") from error


def _retry_after_s(retry_after: str | None, now_s: float) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110, 10.2.3), at most an hour; None if missing or invalid."""
    if retry_after is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", retry_after):
        wait_s = float(retry_after)
    else:
        try:
            moment = email.utils.parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        wait_s = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now_s
    return min(max(0.0, wait_s), _MAX_WAIT_S)
