"""The judgments of a visit, for the templates."""

from __future__ import annotations

from typing import Any

from twincar_edge.runtime.events import Event
from twincar_edge.runtime.teaching.judging import JudgementRecorder

MAX_NAMES = 1000  # for completion


def judgement_values(recorder: JudgementRecorder, event: Event) -> dict[str, Any]:
    """Return the variables of a visit's forms: its history, the current judgment, and names for completion."""
    history = recorder.corrections.history(event.id)
    names = recorder.names()
    guesses = [guess.name for guess in event.top5]
    current = history[0] if history and history[0].kind != "taken back" else None
    truth = None if current is None else current.truth
    return {
        "history": history,
        "current": current,
        "names": list(dict.fromkeys([*guesses, *names]))[:MAX_NAMES],
        "new": truth is not None and recorder.is_new(truth),
        "saved": truth is not None and recorder.labeled.picture(event.id, truth) is not None,
    }
