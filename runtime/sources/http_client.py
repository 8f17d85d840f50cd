"""HTTP requests to cameras: authentication, redirects, and messages for failures."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from twincar_edge._version import __version__
from twincar_edge.errors import InputError
from twincar_edge.runtime.connection import connection_problem
from twincar_edge.runtime.sources.addresses import split_user_info
from twincar_edge.runtime.sources.redirects import RedirectsOnHost

# What urllib raises; ValueError and LookupError if it cannot parse a server's authentication challenge.
FAILURES = (OSError, http.client.HTTPException, ValueError, LookupError)
_REDIRECTS = (301, 302, 303, 307, 308)  # urllib raises those that it does not follow
HEADERS = {"User-Agent": f"twincar-edge/{__version__}", "Cache-Control": "no-cache"}


def request_error(name: str, error: Exception) -> InputError:
    """Return the error of a failed request: one line, without text from the server.

    Args:
        name: the redacted URL.
        error: what urllib raised; an answer with an error status is closed.
    """
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        problem = f"it answers {error.code} {http.client.responses.get(error.code, '')}".rstrip()
        if error.code in _REDIRECTS:
            problem += ": its redirects form a loop, or lead to no HTTP address"
    elif isinstance(error, OSError | http.client.HTTPException):
        problem = connection_problem(error)
    else:
        problem = "its response is malformed"
    return InputError(f"cannot open {name}: {problem}")


def http_opener(url: str, *, verify: bool = True) -> tuple[str, urllib.request.OpenerDirector]:
    """Return the URL without user and password, and an opener that sends these only to its host, on request.

    Args:
        url: `http://` or `https://`.
        verify: verify the certificate of an HTTPS server.
    """
    user_info, bare = split_user_info(url)
    bare = bare.partition("#")[0]
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if user_info:
        user, _, password = (urllib.parse.unquote(part) for part in user_info.partition(":"))
        passwords.add_password(None, bare, user, password)
    handlers: list[urllib.request.BaseHandler] = []
    if not verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return bare, urllib.request.build_opener(
        *handlers,
        RedirectsOnHost(),
        _ClosesRefusals(),
        urllib.request.HTTPDigestAuthHandler(passwords),
        urllib.request.HTTPBasicAuthHandler(passwords),
    )


class _ClosesRefusals(urllib.request.BaseHandler):
    """Closes the 401 response; urllib's handlers leave it open."""

    handler_order = 100  # run before those handlers

    def http_error_401(self, _request: Any, answer: Any, *_: Any) -> None:
        answer.close()
