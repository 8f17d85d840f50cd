"""Chooses a camera's locator, and records why: the one that `locate` names, or the best available."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twincar_edge.errors import Parameter
from twincar_edge.runtime.locating.pulled import PULL
from twincar_edge.runtime.locating.zones import Zone, included

AUTO = "auto"


@dataclass(frozen=True)
class DetectorFile:
    """The available detector; `pulled`: it comes from the state folder, not from the configuration."""

    path: Path
    pulled: bool = False


@dataclass(frozen=True)
class Choice:
    """A name in `LOCATORS`, and the reason for it, as text."""

    locator: str
    reason: str

    def __str__(self) -> str:
        """Return both, as the log and the summary show them."""
        return f"{self.locator} ({self.reason})"


def choose_locator(locate: str, *, stills: bool, zones: Sequence[Zone] = (), detector: DetectorFile | None) -> Choice:
    """Return the locator for a source.

    A configured detector is used for any source. A pulled one is used only for video and cameras: a single image is
    often a crop of one vehicle.

    Args:
        locate: the camera's setting: a name in `LOCATORS`, or `auto`.
        stills: the source gives single images.
        zones: the camera's.
        detector: the available one.
    """
    if locate != AUTO:
        return Choice(locate, f"set by {Parameter('locate', locate)}")
    if detector is not None and not detector.pulled:
        return Choice("detector", f"set by {Parameter('detector', detector.path.name)}")
    if stills:
        return Choice("zone", f"images, with {Parameter('zones')}") if included(zones) else Choice("whole", "images")
    if detector is not None:
        back = Parameter("locate", "motion")
        return Choice("detector", f"{detector.path.name} is in the state folder; {back} ignores it")
    return Choice("motion", f"no detector installed; {PULL} downloads one")
