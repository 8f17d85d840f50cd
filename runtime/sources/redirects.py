"""Resolves redirects of a camera's URL, on the same host only.

FFmpeg sends the password of an RTSP URL to any host that it is redirected to. So a URL with a password is first
requested without it. A camera gains nothing by answering FFmpeg differently: it can ask for the password itself.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import time
import urllib.parse
import urllib.request
from typing import IO

from twincar_edge._version import __version__
from twincar_edge.errors import InputError
from twincar_edge.runtime.sources.addresses import DEFAULT_PORTS, host_and_port, split_user_info
from twincar_edge.runtime.sources.base import redact_url

ASK_S = 1.5
_MOST_BYTES = 16_384
_MOST_REDIRECTS = 5
_METHODS = {"rtsp": ("OPTIONS", "DESCRIBE"), "http": ("GET",)}  # as FFmpeg asks
_STATUS = re.compile(rb"(?:RTSP|HTTP)/\d\.\d 3\d\d[ \r]")
_LOCATION = re.compile(rb"\r\nlocation:[ \t]*([\x21-\x7e]+)[ \t]*\r\n", re.IGNORECASE)


def on_this_host(url: str, timeout_s: float = ASK_S) -> str:
    """Return the URL after redirects on its own host, with its user and password.

    Args:
        url: the stream's URL.
        timeout_s: to connect to an address of the host, and then for its answers; one that takes longer, or gives a
            malformed answer, counts as not redirecting.

    Raises:
        InputError: it redirects to another host.
    """
    user_info, bare = split_user_info(url)
    target = bare
    for _ in range(_MOST_REDIRECTS):
        location = _location(target, timeout_s)
        if location is None:
            break
        refuse_another_host(url, location)
        target = location
    if target == bare:
        return url
    scheme, separator, rest = target.partition("://")
    return f"{scheme}{separator}{user_info}@{rest}" if user_info else target


def refuse_another_host(url: str, location: str) -> None:
    """Check that a redirect stays on the host of the URL.

    Raises:
        InputError: it leads to another host, or its target is not a valid URL.
    """
    known = location.partition("://")[0].lower() in DEFAULT_PORTS
    host = host_and_port(location)[0] if known else "one that is no camera's"
    if host != host_and_port(url)[0]:
        raise InputError(
            f"cannot open {redact_url(url)}: it redirects to another host, {host}, which is not followed: name that "
            "address as the source"
        )


class RedirectsOnHost(urllib.request.HTTPRedirectHandler):
    """Follows redirects on the same host, to HTTP and HTTPS only; urllib would also go to FTP."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the next request.

        Raises:
            InputError: it would be to another host.
        """
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            return None
        try:
            refuse_another_host(req.full_url, newurl)
        except InputError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _location(url: str, timeout_s: float) -> str | None:
    """Request a URL without user and password, and return its redirect target, or None."""
    scheme = url.partition("://")[0].lower()
    place = url.partition("://")[2]
    path = "/" + place.partition("/")[2] if "/" in place else "/"
    with contextlib.suppress(OSError, ValueError, InputError), _connected(url, timeout_s) as connection:
        deadline_s = time.monotonic() + timeout_s  # begins here: a name's first address may be a dead one
        for number, method in enumerate(_METHODS[scheme[:4]], 1):
            what = f"{url} RTSP/1.0\r\nCSeq: {number}" if scheme.startswith("rtsp") else f"{path} HTTP/1.1"
            host = url.partition("://")[2].partition("/")[0]
            lines = f"{method} {what}\r\nHost: {host}\r\nUser-Agent: twincar-edge/{__version__}\r\n\r\n"
            connection.sendall(lines.encode("utf-8"))
            head = _head(connection, deadline_s)
            if _STATUS.match(head) and (found := _LOCATION.search(head)):
                location: str = urllib.parse.urljoin(url, found[1].decode("ascii"))
                return location
    return None


def _connected(url: str, timeout_s: float) -> socket.socket:
    host, port = host_and_port(url)
    connection = socket.create_connection((host, port), timeout_s)
    if url.partition("://")[0].lower() not in ("rtsps", "https"):
        return connection
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # as FFmpeg has it; nothing secret is sent
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise


def _head(connection: socket.socket, deadline_s: float) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and len(data) < _MOST_BYTES:
        connection.settimeout(_left_s(deadline_s))
        part = connection.recv(_MOST_BYTES)
        if not part:
            break
        data += part
    return data


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
