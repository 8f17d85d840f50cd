"""Checks every request: host, origin, size of the body, and user.

A browser sends requests for any page that it has open, so another site's page could try to use this one. Three checks
prevent that. The host must be ours, because an attacker could point a foreign name to this address (DNS rebinding).
Requests that change something must come from our own pages. And browsers do not send the session cookie with requests
of other sites (`SameSite=Strict`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from functools import partial
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from twincar_edge.errors import InputError, Parameter
from twincar_edge.runtime.listening import as_host, is_allowed_host
from twincar_edge.runtime.page.headers import STATIC, own_path
from twincar_edge.runtime.page.tokens import Token, Tokens, User

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 24 * 2**20
ANONYMOUS_BODY_BYTES = 64 * 2**10  # before log-in
BODY_TIMEOUT_S = 30.0
LOCAL_USER = User(name="local", role="teach")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN_PATHS = frozenset({"/login", "/healthz"})  # health checks have no token
_FORWARDED = ("via", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")


class Guard:
    """Middleware that admits or refuses requests. The session middleware must run before it."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str], tokens: Tokens | None) -> None:
        """Wrap an application.

        Args:
            app: the application.
            hosts: the allowed host names, from `listening.allowed_hosts`.
            tokens: the tokens of users; None if no token is needed, because only this machine reaches the page.
        """
        self._app = app
        self._hosts = hosts
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, or refuse it."""
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        limit = ANONYMOUS_BODY_BYTES
        if refusal is None:
            try:
                user = self._user(scope)
            except InputError as error:
                logger.warning("refusing all requests to the page: %s", error)
                user, refusal = None, PlainTextResponse("The page cannot read its tokens: see its log.\n", 503)
            path = own_path(scope)
            if user is not None:
                limit = MAX_BODY_BYTES
            elif refusal is None and path not in OPEN_PATHS and not path.startswith(STATIC):
                refusal = _to_login(scope)
            scope.setdefault("state", {}).update(user=user, is_admitted=partial(self._is_admitted, scope))
        if refusal is not None:
            await refusal(scope, receive, send)
        else:
            await self._app(scope, _Body(receive, limit), send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._tokens is None and any(name in headers for name in _FORWARDED):
            return PlainTextResponse(
                f"This page needs no token, so it refuses requests that a proxy forwards: start it with "
                f"{Parameter('tokens', True)}.\n",
                403,
            )
        if not is_allowed_host(headers.get("host", ""), self._hosts):
            return PlainTextResponse(f"Unknown host name: allow it with {Parameter('hosts')}.\n", 421)
        if scope["method"] not in SAFE_METHODS and not _same_origin(headers):
            return PlainTextResponse("Refused: the request does not come from this page's own forms.\n", 403)
        return None

    def _user(self, scope: Scope) -> User | None:
        if self._tokens is None:
            return LOCAL_USER
        scheme, _, text = Headers(scope=scope).get("authorization", "").partition(" ")
        token = self._tokens.find(text.strip()) if scheme.lower() == "bearer" else self._of_session(scope)
        return None if token is None else User(name=token.name, role=token.role)

    def _is_admitted(self, scope: Scope) -> bool:
        """Return whether the token of a request is still valid: a stream may outlive it."""
        try:
            return self._user(scope) is not None
        except InputError:
            return False

    def _of_session(self, scope: Scope) -> Token | None:
        assert self._tokens is not None
        session = scope.get("session", {})
        name, digest = session.get("name"), session.get("token")
        return self._tokens.named(name, digest) if isinstance(name, str) and isinstance(digest, str) else None


def _to_login(scope: Scope) -> Response:
    if scope["method"] not in SAFE_METHODS or "text/html" not in Headers(scope=scope).get("accept", ""):
        return PlainTextResponse("This page needs a token.\n", 401, {"WWW-Authenticate": "Bearer"})
    connection = HTTPConnection(scope)
    wanted = connection.url.path + (f"?{connection.url.query}" if connection.url.query else "")
    return RedirectResponse(f"{scope.get('root_path', '')}/login?next={quote(wanted, safe='')}", 303)


def _same_origin(headers: Headers) -> bool:
    """Return whether a request comes from one of our own pages, or not from a browser."""
    site = headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
    except ValueError:  # not a URL
        return False


class _Body:
    """The body of a request, limited in size and time."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._size = 0
        self._more = True
        self._until: float | None = None

    async def __call__(self) -> Message:
        """Return the next message; raise in the application if the body is too large or too slow."""
        if not self._more:  # waits for the client to disconnect, without a timeout, because a stream may run long
            return await self._receive()
        now = asyncio.get_running_loop().time()
        self._until = self._until or now + BODY_TIMEOUT_S
        try:
            message = await asyncio.wait_for(self._receive(), self._until - now)
        except TimeoutError as error:
            raise HTTPException(408, f"The request took longer than {BODY_TIMEOUT_S:.0f} seconds to arrive.") from error
        self._size += len(message.get("body", b""))
        self._more = message.get("more_body", False)
        if self._size > self._limit:
            raise HTTPException(413, f"The request is too large: at most {self._limit / 2**20:g} MiB.")
        return message


def own_url(bound: str, port: int, *, https: bool) -> str:
    """Return the page's URL, ending in a slash. If the server listens on all addresses, it has this machine's name."""
    host = socket.gethostname() if ipaddress.ip_address(bound.split("%")[0]).is_unspecified else as_host(bound)
    return f"{'https' if https else 'http'}://{host}:{port}/"
