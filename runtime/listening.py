"""Where a server of ours listens: reading an address, and binding a socket to it."""

from __future__ import annotations

import ipaddress
import socket

from twincar_edge.errors import InputError

PAGE_ADDRESS = "127.0.0.1:8600"  # where the web page is served by default


def parse_address(text: str) -> tuple[str, int]:
    """Read `HOST:PORT`, `[IPv6]:PORT` or `:PORT` (on 127.0.0.1); port 0 takes a free one.

    Raises:
        InputError: the text is none of these.
    """
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if (
        not colon
        or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536)
        or (":" in bare) != host.startswith("[")
        or host.startswith("[") != host.endswith("]")
    ):
        raise InputError(f"an address to serve at is HOST:PORT, such as 127.0.0.1:9464, found {text!r}")
    return bare or "127.0.0.1", int(port)


def listen(address: str, what: str) -> socket.socket:
    """Return a socket that listens at `HOST:PORT`.

    Args:
        address: as `parse_address` takes it.
        what: what is served there, for messages, such as "the page".

    Raises:
        InputError: the address is invalid or in use, may not be used, or is not this machine's.
    """
    host, port = parse_address(address)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(128)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"cannot serve {what} at {host}:{port}: {why}; name another address") from error
    return listener


def is_loopback(host: str) -> bool:
    """Return whether an IP address reaches this machine only; a scope such as `%eth0` is allowed."""
    return ipaddress.ip_address(host.split("%")[0]).is_loopback


def stays_here(host: str) -> bool:
    """Return whether a name or an address is certain to be this machine's own."""
    try:
        return is_loopback(host)
    except ValueError:
        return host.lower() == "localhost"


def as_host(address: str) -> str:
    """Return an IP address as URLs write it: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address
