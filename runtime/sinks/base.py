"""The base class of sinks, and the errors that sinks raise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from twincar_edge.errors import TwincarError, first_fault
from twincar_edge.runtime.events import Event, StoredEvent

Crop = NDArray[np.uint8]
# Passed instead of a picture if the sink did not ask for pictures, or if the event comes from the spool.
NO_CROP: Crop = np.zeros((0, 0, 3), np.uint8)


class DeliveryError(TwincarError):
    """An attempt to deliver an event failed; a later one may succeed (receiver unreachable, disk full)."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        """Take the reason as one line; `retry_after_s` is the minimum time before the next attempt."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RefusedError(DeliveryError):
    """The receiver rejected this event. It may accept others; if it rejects them too, the receiver is at fault."""


class UnreadableError(RefusedError):
    """The stored event is at fault: this version cannot parse it."""


class Sink(ABC):
    """Receives events one at a time, in order.

    A sink is a context manager: entering it calls `open`, leaving it calls `close`. Subclasses implement `write`, and
    override `open` and `close` if they hold a resource.

    Behind a `Delivery`, `open` runs in the thread that starts the loop; `write` and `close` run in the delivery's
    sender thread.

    Attributes:
        tend_s: seconds between calls of `tend`.

    Example:
        >>> class Counter(Sink):
        ...     count = 0
        ...
        ...     def write(self, event: Event, crop_bgr: Crop) -> None:
        ...         self.count += 1
    """

    tend_s: float = 600.0

    def open(self) -> None:  # noqa: B027 - optional: most sinks have nothing to open
        """Open the target. An unreachable receiver is not an error.

        Raises:
            InputError: the settings can never work.
        """

    @abstractmethod
    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Deliver one event; return once the receiver has it.

        Args:
            event: the event.
            crop_bgr: the best picture of the visit so far, uint8 [h, w, 3], or `NO_CROP`.

        Raises:
            DeliveryError: the event was not delivered; it may be retried.
            BrokenPipeError: the reader closed the stream.
        """

    def write_stored(self, event: StoredEvent) -> None:
        """Deliver an event that is stored as JSON, perhaps by another version.

        Sinks that forward JSON send it unchanged. This default parses it and calls `write`.

        Raises:
            UnreadableError: this version cannot parse it.
            DeliveryError: see `write`.
        """
        try:
            read = Event.model_validate_json(event.text)
        except ValidationError as error:
            raise UnreadableError(f"cannot read an event of another version: {first_fault(error)}") from error
        self.write(read, NO_CROP)

    def tend(self) -> None:  # noqa: B027 - optional, as `open`
        """Do periodic work, such as deleting expired files. Called every `tend_s`, with or without events.

        Raises:
            DeliveryError: the work failed; the next call retries.
        """

    def finished(self, camera: str, recordings: Collection[str]) -> None:  # noqa: B027 - optional
        """Record that a camera reached the end of its files. Called after all of its events were delivered.

        Args:
            camera: the camera's name.
            recordings: the digests of the files, as in events.

        Raises:
            DeliveryError: the target cannot be written now.
        """

    def close(self) -> None:  # noqa: B027 - optional, as `open`
        """Release what `open` acquired. Called whether the run succeeded or failed."""

    def __enter__(self) -> Self:
        """Open the sink."""
        self.open()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the sink."""
        self.close()
