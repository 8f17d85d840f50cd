"""Log-in with a token, log-out, sessions, and roles."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from twincar_edge.runtime.page.rendering import Pages
from twincar_edge.runtime.page.tokens import Role, Tokens, User

FREE_ATTEMPTS = 5
LOCKED_S = 60.0
_MAX_ADDRESSES = 10_000
_SESSION_S = 30 * 86_400


def user_of(request: Request) -> User:
    """Return the user of a request; the guard admits no others."""
    user: User | None = request.state.user
    if user is None:
        raise HTTPException(401)
    return user


def require_role(request: Request, role: Role) -> User:
    """Return the user of a request that needs a role.

    Raises:
        HTTPException: the user does not have the role.
    """
    user = user_of(request)
    if not user.may(role):
        raise HTTPException(403, f"This requires a token with the role {role}; yours has the role {user.role}.")
    return user


class Sessions:
    """Middleware for sessions in signed cookies. They are `Secure` if the browser uses HTTPS, even only to a proxy."""

    def __init__(self, app: ASGIApp, *, secret_key: str, path: str) -> None:
        """Wrap an application; its cookies are for `path`."""

        def sessions(https: bool) -> SessionMiddleware:
            return SessionMiddleware(
                app, secret_key, "twincar-session", _SESSION_S, path, same_site="strict", https_only=https
            )

        self._http, self._https = sessions(False), sessions(True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its session."""
        secure = scope["scheme"] in ("https", "wss")  # proxies forward a WebSocket's scheme, though we accept none
        await (self._https if secure else self._http)(scope, receive, send)


class _FailedAttempts:
    """Counts failed log-ins by address, and makes an address wait after too many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Return how long an address has to wait before its next attempt."""
        failed, at = self._failed.get(address, (0, 0.0))
        return max(0.0, at + LOCKED_S - self._clock()) if failed >= FREE_ATTEMPTS else 0.0

    def count(self, address: str) -> None:
        """Count a failed attempt. With too many addresses, the one that failed longest ago is forgotten."""
        now = self._clock()
        failed, at = self._failed.pop(address, (0, now))
        self._failed[address] = (1 if now - at > LOCKED_S else failed + 1, now)
        if len(self._failed) > _MAX_ADDRESSES:
            self._failed.popitem(last=False)


def routes(pages: Pages, tokens: Tokens | None) -> list[Route]:
    """Return the routes for log-in and log-out; `tokens` is None if the page needs no token."""
    attempts = _FailedAttempts()

    async def login(request: Request) -> Response:
        wanted = _own_path(request.query_params.get("next", ""), request.scope.get("root_path", ""))
        if tokens is None:
            return RedirectResponse(wanted, 303)
        if request.method != "POST":
            return pages.render(request, "login.html", next=wanted)
        address = request.client.host if request.client is not None else ""
        if (wait_s := attempts.wait_s(address)) > 0:
            problem = f"Too many wrong tokens: try again in {wait_s:.0f} seconds."
            response = pages.render(request, "login.html", status=429, next=wanted, problem=problem)
            response.headers["Retry-After"] = f"{wait_s:.0f}"
            return response
        form = await request.form(max_files=0, max_fields=4)
        token = tokens.find(str(form.get("token", "")).strip())
        if token is None:
            attempts.count(address)
            problem = "Unknown token. `twincar-edge token list` lists the tokens of this box."
            return pages.render(request, "login.html", status=403, next=wanted, problem=problem)
        request.session.clear()
        request.session.update(name=token.name, token=token.sha256)
        return RedirectResponse(wanted, 303)

    async def logout(request: Request) -> Response:
        if tokens is not None:
            request.session.clear()
        return RedirectResponse(f"{request.scope.get('root_path', '')}/login", 303)

    return [Route("/login", login, methods=["GET", "POST"]), Route("/logout", logout, methods=["POST"])]


def _own_path(wanted: str, root: str) -> str:
    """Return the path to open after log-in. Addresses of other sites, such as `//host`, become the first page."""
    ours = wanted.startswith("/") and not wanted.startswith("//") and "\\" not in wanted and wanted.isprintable()
    return wanted if ours else f"{root}/"
