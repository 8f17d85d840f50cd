"""`tw.resend_events`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from twincar_edge.arguments import checked_arguments
from twincar_edge.runtime.sinks.resend import request_resend


@checked_arguments
def resend_events(
    state: str | Path | None = None, *, sink: str | None = None, since: datetime | None = None
) -> list[str]:
    """Request that events be resent that were set aside because a receiver rejected them.

    A running `twincar-edge watch` with this state folder sends them within seconds; otherwise the next one does.

    >>> try:
    ...     tw.resend_events("state", sink="webhook")
    ... except tw.InputError as error:
    ...     print(error)
    no spool in state/spool: choose another state folder with `state`

    Args:
        state: the state folder; None for the default one.
        sink: the kind or name of a sink; None for all sinks.
        since: only events set aside at this time or later; a time without a zone is local. None for all events.

    Returns:
        The names of the sinks with a new request.

    Raises:
        InputError: the folder or sink does not exist, the running `watch` has no such sink, or a request cannot be
            written.
    """
    return request_resend(None if state is None else Path(state), sink, since)
