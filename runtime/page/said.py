"""What people said of a visit, for the templates."""

from __future__ import annotations

from typing import Any

from twincar_edge.runtime.events import Event
from twincar_edge.runtime.teaching.judging import Judging

MOST_NAMES = 1000  # for completion


def judged(judging: Judging, event: Event) -> dict[str, Any]:
    """Return what the forms of a visit show: its history, what counts, and names for completion."""
    history = judging.corrections.history(event.id)
    names = judging.names()
    guesses = [guess.name for guess in event.top5]
    counts = history[0] if history and history[0].kind != "taken back" else None
    truth = None if counts is None else counts.truth
    return {
        "history": history,
        "counts": counts,
        "names": list(dict.fromkeys([*guesses, *names]))[:MOST_NAMES],
        "new": truth is not None and judging.is_new(truth),
        "kept": truth is not None and judging.labeled.picture(event.id, truth) is not None,
    }
