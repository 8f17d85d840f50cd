"""Where a camera's keys have an effect: the table of those that only some kinds of sources, or some locators, read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from twincar_edge.runtime.locating.locate import LOCATORS
from twincar_edge.runtime.sources.devices import is_device
from twincar_edge.runtime.sources.network import is_stream


@dataclass(frozen=True)
class KeyUse:
    """Where a key has an effect.

    `by` is the field that decides. The key is read by the source kinds or locators `read_by`, refused by `refused_by`,
    and has no effect, but does no harm either, with others. `purpose` names the former in messages.
    """

    by: Literal["source", "locate"]
    read_by: tuple[str, ...]
    refused_by: tuple[str, ...]
    purpose: str


KEY_USES = {
    "size": KeyUse("source", ("device",), ("file",), "cameras of this machine"),
    "poll_s": KeyUse("source", ("stream",), ("device", "file"), "http:// and https:// cameras"),
    "once": KeyUse("source", ("file",), ("device", "stream"), "folders"),
    "min_area": KeyUse("locate", ("motion", "detector"), (), "the locators motion and detector"),
    "presence": KeyUse("locate", ("whole", "zone"), ("motion", "detector"), "the locators whole and zone"),
    "detect_classes": KeyUse("locate", ("detector",), ("whole", "zone", "motion"), "the locator detector"),
    "detect_score": KeyUse("locate", ("detector",), ("whole", "zone", "motion"), "the locator detector"),
    "min_travel": KeyUse("locate", ("motion", "detector"), (), "the locators motion and detector"),
}
_PLACES = {
    "device": "for a camera of this machine",
    "stream": "for a stream",
    "file": "for a file or folder",
    **{name: f"with the locator {name}" for name in LOCATORS},
}


def place(use: KeyUse, source: str, locator: str) -> str:
    """Return what decides about a key: the locator, or the kind of a source, which need not exist; `""` for no kind."""
    if use.by == "locate":
        return locator
    if is_device(source):
        return "device"
    if is_stream(source):
        return "stream"
    return "" if "://" in source else "file"


def no_effect(use: KeyUse, found: str) -> str | None:
    """Return where a key has no effect and what it is for, to follow these words; None if it has one at this place."""
    if found in use.read_by or found not in _PLACES:
        return None
    return f"{_PLACES[found]}: it is for {use.purpose}"
