"""Decides when an image that is no longer in a watched folder may be forgotten."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import takewhile

from twincar_edge.runtime.sources.signature import Signature

FORGET_S = 12 * 3600.0  # missing for this long, an image is deleted
LONGEST_PAUSE_S = 60.0  # a longer time between two listings counts as this: a disk that hangs proves nothing


class MissingImages:
    """The images of a folder that are missing from its listings, and for how long.

    A disk that is unmounted for a moment leaves an empty folder behind, so an image counts as deleted only after hours.
    Its time runs only while the folder is on the disk that has the images. A mount point without its disk is on another
    device. At the start, the disk counts as mounted once the folder has an image. If the device changes later, the disk
    is recognized by an image that was known before, because a disk may return with another device number. If it has no
    such image, it counts only once it has more images than were known before, so that memory stays bounded after the
    disk was replaced.

    Attributes:
        clock_s: the seconds that have passed while the folder was on this disk.
    """

    def __init__(
        self, missing_s: Mapping[Signature, float] | None = None, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Continue an earlier run: by image, the seconds it has been missing. `monotonic` is a clock in seconds."""
        self.clock_s = 0.0
        self._monotonic = monotonic
        self._listed_at_s = monotonic()
        # The longest missing come first.
        self._since_s = {image: -age_s for image, age_s in sorted((missing_s or {}).items(), key=lambda one: -one[1])}
        self._device: int | None = None
        self._elsewhere: set[Signature] = set()  # images that appeared on another device

    def update(self, known: set[Signature], there: set[Signature], device: int) -> set[Signature]:
        """Process a listing of the folder, and return the images to forget.

        Args:
            known: all images that are remembered.
            there: the images in the listing.
            device: the device that the folder is on.
        """
        now_s = self._monotonic()
        pause_s = min(now_s - self._listed_at_s, LONGEST_PAUSE_S)
        self._listed_at_s = now_s
        if device != self._device:
            self._elsewhere |= there - known
            if not self._is_home(known, there):
                return set()
            self._device = device
        else:
            self.clock_s += pause_s
        self._elsewhere.clear()
        for image in self._since_s.keys() & there:
            del self._since_s[image]
        self._since_s |= dict.fromkeys(known - there - self._since_s.keys(), self.clock_s)
        gone = set(takewhile(lambda image: self.clock_s - self._since_s[image] >= FORGET_S, self._since_s))
        for image in gone:
            del self._since_s[image]
        return gone

    def _is_home(self, known: set[Signature], there: set[Signature]) -> bool:
        """Return whether a listing on another device is one of the disk that has the images."""
        if self._device is None:
            return bool(there)
        return not (there & known) <= self._elsewhere or 2 * len(self._elsewhere) > len(known)

    @property
    def any(self) -> bool:
        """Return whether images are missing."""
        return bool(self._since_s)

    def age_s(self, image: Signature) -> float:
        """Return for how many seconds an image has been missing; 0 if it is not."""
        since_s = self._since_s.get(image)
        return 0.0 if since_s is None else self.clock_s - since_s
