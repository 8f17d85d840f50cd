"""Events as HTTP requests, signed as Standard Webhooks describes, so that receivers find ready-made verifiers.

Source: Standard Webhooks 1.0.0, https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import http.client
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
from twincar_edge.runtime.sinks.exchange import Answer, Exchange
from twincar_edge.runtime.sources.base import redact_url

_SECRET_PREFIX = b"whsec_"
# Answers that may be about this one event; all others are about the receiver.
_REFUSED = frozenset({400, 413, 415, 422})
_SLOW_S = 60.0
_LONGEST_WAIT_S = 3600.0


@dataclass(frozen=True)
class Target:
    """The parts of a URL. `authorization` is made of the user and password in it.

    `name` is for messages: scheme and host, and a digest of the path if there is one, because paths hold secrets too.
    """

    name: str
    host: str
    port: int
    path: str = field(repr=False)
    tls: bool
    authorization: str | None = field(repr=False)


def parse_target(url: str) -> Target:
    """Check a webhook's URL.

    Raises:
        InputError: it is not an http:// or https:// URL with a host, or has characters that a URL cannot have.
    """
    shown = (re.match(r"[a-z]*://[^/?#]*", redact_url(url)) or [url[:8]])[0]
    if not re.fullmatch(r"[\x21-\x7e]+", url):
        raise InputError(
            f"invalid webhook URL {shown!r}…: spaces and special characters have to be percent-encoded, such as %20"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
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
    """Return the key that a secret stands for: `whsec_` and base64, or any other bytes as they are.

    Raises:
        InputError: base64 is missing or malformed behind `whsec_`.
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
    """Return what identifies one event however often it is sent: visit, type and a digest of the content.

    It has no full stop, because full stops delimit the signed content.
    """
    visit = re.sub(r"[^A-Za-z0-9_-]", "_", event.id)
    return f"{visit}/{event.type}/{hashlib.sha256(body).hexdigest()[:16]}"


def signature_headers(secret: bytes, id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that prove to a receiver with the same secret where a request comes from.

    The two `X-Twincar` headers are those of earlier versions, and deprecated: HMAC-SHA256 of `<timestamp>.<body>` with
    the secret as it is written.
    """
    signature = hmac.digest(signing_key(secret), f"{id}.{timestamp}.".encode() + body, "sha256")
    return {
        "webhook-signature": "v1," + base64.b64encode(signature).decode("ascii"),
        "X-Twincar-Timestamp": str(timestamp),
        "X-Twincar-Signature": "sha256=" + hmac.digest(secret, b"%d." % timestamp + body, "sha256").hex(),
    }


class Webhook(Sink):
    """Posts each event as JSON; it is delivered when the receiver answers with 2xx.

    Every request opens a connection, so that none is left half open overnight. Redirects are not followed: a request
    signed for one host must not reach another.
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
        """Post to `url`, signed if there is a `secret`.

        Args:
            url: http:// or https://, with user and password for HTTP Basic if need be.
            secret: shared with the receiver; see `signing_key`.
            ca_file: certificates (PEM) to trust in place of the system's.
            timeout_s: for a request and its answer, from looking the host up on.
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
            DeliveryError: no connection, no answer in time, or an error status.
            RefusedError: the receiver says that the event is invalid (400, 413, 415, 422).
        """
        self._send(event)

    def write_stored(self, event: StoredEvent) -> None:
        """Post an event as it was stored; raises what `write` raises."""
        self._send(event)

    def _send(self, event: Event | StoredEvent) -> None:
        body = event.to_json().encode("utf-8")
        try:
            answer = self._post(body, message_id(event, body))
        except (OSError, http.client.HTTPException) as error:
            raise DeliveryError(f"it cannot be reached: {connection_problem(error)}") from error
        status = answer.status
        if 200 <= status < 300:
            return
        reason = http.client.responses.get(status, "")
        said = f"it answers {status} {reason}".rstrip()
        if status in _REFUSED:
            raise RefusedError(said)
        if 300 <= status < 400:
            raise DeliveryError(f"{said}, and redirects are not followed: name the URL that it leads to", _SLOW_S)
        wait_s = _wait_s(answer.retry_after, self._clock())
        if wait_s is None and 400 <= status < 500 and status not in (408, 425, 429):
            wait_s = _SLOW_S  # wrong URL or rights: retrying soon is no use until a person changes it
        raise DeliveryError(said, wait_s)

    def _post(self, body: bytes, id: str) -> Answer:
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
        InputError: `ca_file` holds no certificates.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"cannot read certificates from {ca_file}: {connection_problem(error)}") from error


def _wait_s(retry_after: str | None, now_s: float) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3), an hour at most, or None."""
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
    return min(max(0.0, wait_s), _LONGEST_WAIT_S)
