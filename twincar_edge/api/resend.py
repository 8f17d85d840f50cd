"""`tw.resend_events`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from twincar_edge.runtime.sinks.resend import request_resend


def resend_events(
    state: str | Path | None = None, *, sink: str | None = None, since: datetime | None = None
) -> list[str]:
    """Ask for the events that were set aside, because a receiver refused them, to be sent again.

    A `twincar-edge watch` that runs with this state folder sends them within seconds, otherwise the next one.

    >>> try:
    ...     tw.resend_events("state", sink="webhook")
    ... except tw.InputError as error:
    ...     print(error)
    no sink has kept an event in state/spool: name another folder with `state`

    Args:
        state: the state folder; the default one if not given.
        sink: the sink's kind or name; all sinks if not given.
        since: only what was set aside at this time or later; a time without a zone is local.

    Returns:
        The names of the sinks that were asked.

    Raises:
        InputError: there is no such sink or folder, or a request cannot be written.
    """
    return request_resend(None if state is None else Path(state), sink, since)
