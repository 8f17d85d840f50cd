"""URLs of cameras as people write them: passwords with reserved characters, IPv6 addresses, ports."""

from __future__ import annotations

import re
import urllib.parse

from twincar_edge.errors import InputError
from twincar_edge.runtime.sources.base import redact_url

DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
ESCAPES = {"#": "%23", "/": "%2F", "?": "%3F"}
HOW_TO_ESCAPE = "in a user name or password write # as %23, / as %2F and ? as %3F"


def escape_password(url: str) -> str:
    """Return a URL with `#`, `/` and `?` of its user and password escaped, if they are unambiguously part of it.

    They are unambiguous if exactly one @ follows, and the text before them is `user:` without a port:
    `rtsp://admin:a/b@camera/live`. In `http://camera:80/?mail=a@b` the slash may begin a path. A `#` begins a fragment,
    which no camera takes.
    """
    scheme, separator, rest = url.partition("://")
    start = re.search(r"[/?#]", rest)
    user_info, _, place = rest.partition("@")
    if start is None or rest.count("@") != 1 or ":" not in user_info or start.start() > len(user_info):
        return url
    before = rest[: start.start()]
    port = before.rpartition(":")[2]
    may_be_a_path = start[0] != "#" and (":" not in before or port.isdigit() or not port or before.startswith("["))
    if may_be_a_path:
        return url
    return f"{scheme}{separator}{re.sub('[#/?]', lambda found: ESCAPES[found[0]], user_info)}@{place}"


def host_and_port(url: str) -> tuple[str, int]:
    """Return the host of a stream's URL, an IPv6 address without its brackets, and its port or the scheme's own.

    Raises:
        InputError: there is no host, or no port behind its colon.
    """
    scheme, _, rest = url.partition("://")
    # Parsed as FFmpeg does: a password may contain an @; the path is not checked here.
    place = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    if place.count(":") > 1 and not place.startswith("["):
        raise InputError(f"cannot open {redact_url(url)}: write an IPv6 address in brackets, such as [fe80::1]:554")
    try:
        parts = urllib.parse.urlsplit(f"//{place}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"cannot open {_without_place(url)}: the port is not a number; {HOW_TO_ESCAPE}") from error
    if not host:
        raise InputError(f"cannot open {redact_url(url)}: the URL has no host")
    return host, port or DEFAULT_PORTS[scheme.lower()]


def split_user_info(url: str) -> tuple[str, str]:
    """Return the user and password of a URL verbatim, or an empty string, and the URL without them.

    urllib's own parser refuses a URL whose password has a bracket, or a letter that Unicode folds into a delimiter.
    """
    scheme, separator, rest = url.partition("://")
    place = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user_info, at, _ = place.rpartition("@")
    return user_info, f"{scheme}{separator}{rest[len(user_info) + len(at) :]}"


def path_of(url: str) -> str:
    """Return the path of a URL, without query and fragment."""
    return re.sub(r"^[^/?#]*", "", url.partition("://")[2]).partition("?")[0].partition("#")[0]


def password_hint(url: str) -> str:
    """Return a hint for the error of an unreachable host, if the host may be part of a password."""
    behind = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[1:]
    return f"; {HOW_TO_ESCAPE}" if behind and "@" in behind[0] else ""


def _without_place(url: str) -> str:
    """Return a URL for an error without its host part: that may be a password whose @ is missing."""
    redacted = redact_url(url)
    return redacted if "@" in redacted else f"{url.partition('://')[0]}://***"
