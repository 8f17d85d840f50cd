"""Events as signed HTTP requests.

A receiver proves where a request comes from by computing the signature again: docs/sinks.md has the recipe.
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
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.sinks.base import Crop, DeliveryError, RefusedError, Sink
from twincar_edge.runtime.sources.base import redact_url

SIGNATURE_HEADER = "X-Twincar-Signature"
TIMESTAMP_HEADER = "X-Twincar-Timestamp"
KEY_HEADER = "Idempotency-Key"
# What these say is about the one request, whatever comes after it; all other answers are about the receiver.
_REFUSED = frozenset({400, 413, 415, 422})
_SLOW_S = 60.0
_LONGEST_WAIT_S = 3600.0


@dataclass(frozen=True)
class Target:
    """A URL taken apart. `authorization` is that of a user and password in it.

    `name` is for people: scheme and host, and a digest of the path where there is one, for paths hold secrets too.
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
        InputError: it is no http:// or https:// URL with a host, or has characters that no URL has.
    """
    shown = (re.match(r"[a-z]*://[^/?#]*", redact_url(url)) or [url[:8]])[0]
    if not re.fullmatch(r"[\x21-\x7e]+", url):
        raise InputError(
            f"the webhook URL {shown!r}… has blanks or other characters that a URL writes as %20 or the like"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(f"the webhook URL {shown!r}… is none: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"a webhook is http://HOST/PATH or https://HOST/PATH, found {shown!r}…")
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


def sign(secret: bytes, timestamp: int, body: bytes) -> str:
    """Return the signature of a request: HMAC-SHA-256 over `<timestamp>.<body>`, as `sha256=<hex>`."""
    return "sha256=" + hmac.new(secret, b"%d." % timestamp + body, hashlib.sha256).hexdigest()


def idempotency_key(event: Event, body: bytes) -> str:
    """Return what names one event, and no other, however often it is sent: id, type and a digest of the content."""
    return f"{event.id}/{event.type}/{hashlib.sha256(body).hexdigest()[:16]}"


class Webhook(Sink):
    """Posts each event as JSON; it is delivered when the receiver answers with 2xx.

    Every request has a connection of its own, so that none is left half open over a night. Redirects are not followed:
    what is signed for one host is not for another.
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
        """Post to `url`, signed where there is a `secret`.

        Args:
            url: http:// or https://, with user and password for HTTP Basic if need be.
            secret: shared with the receiver.
            ca_file: certificates (PEM) to trust in place of the system's.
            timeout_s: for connecting, and for each wait for the answer.
            clock: seconds since 1970.

        Raises:
            InputError: the URL or the certificates are none.
        """
        self._target = parse_target(url)
        self._secret = secret
        self._timeout_s = timeout_s
        self._clock = clock
        self._context = None
        if self._target.tls:
            self._context = tls_context(ca_file)

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Post one event.

        Raises:
            DeliveryError: no connection, no answer in time, or one that says no.
            RefusedError: the receiver says that this event is none (400, 413, 415, 422).
        """
        body = event.to_json().encode("utf-8")
        try:
            status, retry_after = self._post(body, idempotency_key(event, body))
        except (OSError, http.client.HTTPException) as error:
            raise DeliveryError(f"it cannot be reached: {_reason(error)}") from error
        if 200 <= status < 300:
            return
        reason = http.client.responses.get(status, "")
        said = f"it answers {status} {reason}".rstrip()
        if status in _REFUSED:
            raise RefusedError(said)
        if 300 <= status < 400:
            raise DeliveryError(f"{said}, and redirects are not followed: name the URL that it leads to", _SLOW_S)
        wait_s = _wait_s(retry_after, self._clock())
        if wait_s is None and 400 <= status < 500 and status not in (408, 425, 429):
            wait_s = _SLOW_S  # wrong URL or rights: nothing will change before somebody changes it
        raise DeliveryError(said, wait_s)

    def _post(self, body: bytes, key: str) -> tuple[int, str | None]:
        target = self._target
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"twincar-edge/{__version__}",
            "Connection": "close",
            KEY_HEADER: key,
        }
        if target.authorization is not None:
            headers["Authorization"] = target.authorization
        if self._secret is not None:
            timestamp = int(self._clock())
            headers[TIMESTAMP_HEADER] = str(timestamp)
            headers[SIGNATURE_HEADER] = sign(self._secret, timestamp, body)
        connection: http.client.HTTPConnection
        if self._context is not None:
            connection = http.client.HTTPSConnection(
                target.host, target.port, timeout=self._timeout_s, context=self._context
            )
        else:
            connection = http.client.HTTPConnection(target.host, target.port, timeout=self._timeout_s)
        try:
            connection.request("POST", target.path, body, headers)
            response = connection.getresponse()
            return response.status, response.headers.get("Retry-After")
        finally:
            connection.close()


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that checks the other side's certificate and name.

    Raises:
        InputError: `ca_file` holds no certificates.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"cannot read certificates from {ca_file}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Say in a few words what failed, without what the other side wrote."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return f"it does not speak HTTP ({type(error).__name__})"


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
