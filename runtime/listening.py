"""What our HTTP servers share: the address they listen at, the host names they answer to, which client has to go."""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from twincar_edge.errors import InputError

PAGE_ADDRESS = "127.0.0.1:8600"  # where the web page is served by default


def parse_address(text: str) -> tuple[str, int]:
    """Read `HOST:PORT`, `[IPv6]:PORT` or `:PORT` (on 127.0.0.1); port 0 takes a free one.

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


def allowed_hosts(bound: str, extra: Iterable[str] = ()) -> frozenset[str]:
    """Return the host names that a server answers to, in lower case; it answers to every IP address besides.

    Args:
        bound: the IP address that the server listens at.
        extra: names beside this machine's own.
    """
    names = {"localhost", *(name.lower() for name in extra)}
    if not is_loopback(bound):
        own = socket.gethostname().lower()
        names |= {own, own.split(".")[0], f"{own.split('.')[0]}.local"}
    return frozenset(names)


def is_allowed_host(header: str, names: frozenset[str]) -> bool:
    """Return whether a `Host` header has one of the names or an IP address, which no name server can point elsewhere.

    A browser sends requests for any page that it has open, also to a name that an attacker controls and has pointed at
    this machine (DNS rebinding).
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


def crowding(addresses: Sequence[str]) -> int:
    """Return which connection has to make room: the oldest of the address that has the most.

    Args:
        addresses: the address of each connection, the oldest first; at least one.
    """
    busiest, _ = Counter(addresses).most_common(1)[0]
    return addresses.index(busiest)
