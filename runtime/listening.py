"""Shared by the HTTP servers: listening addresses, allowed host names, and which connection to close when full."""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from twincar_edge.errors import InputError

PAGE_ADDRESS = "127.0.0.1:8600"  # default address of the web page


def parse_address(text: str) -> tuple[str, int]:
    """Parse `HOST:PORT`, `[IPv6]:PORT` or `:PORT` (on 127.0.0.1); port 0 picks a free port.

    Raises:
        InputError: the text is not a valid address.
    """
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if (
        not colon
        or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536)
        or (":" in bare) != host.startswith("[")
        or host.startswith("[") != host.endswith("]")
    ):
        raise InputError(f"invalid address {text!r}: use HOST:PORT, such as 127.0.0.1:9464")
    return bare or "127.0.0.1", int(port)


def listen(address: str, what: str) -> socket.socket:
    """Return a socket that listens on `HOST:PORT`.

    Args:
        address: see `parse_address`.
        what: what is served, for messages, such as "the page".

    Raises:
        InputError: the address is invalid, in use, not permitted, or not an address of this machine.
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
    """Return whether an IP address is a loopback address; a scope such as `%eth0` is allowed."""
    return ipaddress.ip_address(host.split("%")[0]).is_loopback


def is_local(host: str) -> bool:
    """Return whether a host is `localhost` or a loopback address."""
    try:
        return is_loopback(host)
    except ValueError:
        return host.lower() == "localhost"


def as_host(address: str) -> str:
    """Return an IP address as URLs write it: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def allowed_hosts(bound: str, extra: Iterable[str] = ()) -> frozenset[str]:
    """Return the host names that a server accepts, in lower case. It accepts every IP address too.

    Args:
        bound: the IP address that the server listens on.
        extra: further names.
    """
    names = {"localhost", *(name.lower() for name in extra)}
    if not is_loopback(bound):
        own = socket.gethostname().lower()
        names |= {own, own.split(".")[0], f"{own.split('.')[0]}.local"}
    return frozenset(names)


def is_allowed_host(header: str, names: frozenset[str]) -> bool:
    """Return whether a `Host` header contains one of the names, or an IP address.

    The check prevents DNS rebinding: a page in a browser sends requests to a name that an attacker controls and has
    pointed at this machine. IP addresses cannot be rebound.
    """
    try:
        host = urlsplit(f"//{header}").hostname
    except ValueError:
        return False
    if host is None or host in names:
        return host is not None
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def connection_to_close(addresses: Sequence[str]) -> int:
    """Return the index of the connection to close when a server is full: the oldest of the busiest client address.

    Args:
        addresses: the client address of each connection, oldest first; at least one.
    """
    busiest, _ = Counter(addresses).most_common(1)[0]
    return addresses.index(busiest)
