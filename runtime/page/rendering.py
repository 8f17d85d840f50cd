"""Renders the page's templates, and defines their filters."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from twincar_edge._version import __version__
from twincar_edge.wording import percent

HERE = Path(__file__).parent
LEVEL_NAMES = {"year": "make, model, year", "model": "make, model", "make": "make only", "unknown": "unknown"}


class Pages:
    """Renders the templates, with all values escaped."""

    def __init__(self, *, live: bool, logged_in: bool) -> None:
        """Load the templates.

        Args:
            live: whether a loop runs in this process.
            logged_in: whether users log in with tokens, and so can log out.
        """
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(percent=percent, day=day, clock=clock, local=local, age=age)
        self._templates.globals.update(version=__version__, live=live, logged_in=logged_in, level_names=LEVEL_NAMES)

    def render(self, request: Request, name: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a page.

        Args:
            request: the request to answer.
            name: the template's file name.
            status: the HTTP status.
            **values: the template's variables.
        """
        return HTMLResponse(self.fragment(request, name, **values), status)

    def fragment(self, request: Request, name: str, **values: Any) -> str:
        """Return the text of a rendered template; see `render`."""
        root = request.scope.get("root_path", "")
        return self._templates.get_template(name).render(
            root=root, path=request.url.path.removeprefix(root), user=getattr(request.state, "user", None), **values
        )


def local(moment: datetime) -> datetime:
    """Return a time in the box's time zone."""
    return moment.astimezone()


def day(moment: datetime) -> str:
    """Return the date of a time in the box's time zone, such as 28 Nov 2026."""
    local_moment = moment.astimezone()
    return f"{local_moment.day} {local_moment:%b %Y}"


def clock(moment: datetime) -> str:
    """Return the time of day in the box's time zone."""
    return f"{moment.astimezone():%H:%M:%S}"


def age(seconds: float) -> str:
    """Return how long ago something happened, such as "3 s ago" or "2 h ago"."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "now" if seconds < 1 else f"{seconds:.0f} s ago"
