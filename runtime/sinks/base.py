"""What a sink is: a context manager that takes events one at a time, and the errors it raises."""

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
# Stands for "no picture": the sink did not ask for pictures, or the event comes from the spool, which keeps none.
NO_CROP: Crop = np.zeros((0, 0, 3), np.uint8)


class DeliveryError(TwincarError):
    """An event could not be delivered now; a later attempt may succeed (receiver unreachable, disk full)."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        """Give the reason in one line; `retry_after_s` is the minimum time before the next attempt."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RefusedError(DeliveryError):
    """The receiver rejects this event. It may accept others; if it rejects them too, the fault is the receiver's."""


class UnreadableError(RefusedError):
    """The event itself is at fault: this version cannot read what another one has stored."""


class Sink(ABC):
    """Takes events one at a time, in the order in which they happen.

    A sink is a context manager: entering it calls `open`, leaving it calls `close`. Subclasses implement `write`, and
    override `open` and `close` where they hold something open.

    Behind a `Delivery`, `open` runs in the thread that starts the loop; `write` and `close` run in one thread that
    belongs to the delivery.

    Attributes:
        tend_s: seconds between two calls of `tend`.

    Example:
        >>> class Counter(Sink):
        ...     count = 0
        ...
        ...     def write(self, event: Event, crop_bgr: Crop) -> None:
        ...         self.count += 1
    """

    tend_s: float = 600.0

    def open(self) -> None:  # noqa: B027 - optional: most sinks have nothing to open
        """Open what the sink writes to. An unreachable receiver is not an error.

        Raises:
            InputError: the sink can never work with its settings.
        """

    @abstractmethod
    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Deliver one event; when this returns, the receiver has it.

        Args:
            event: what happened.
            crop_bgr: the best picture of the visit so far, uint8 [h, w, 3], or `NO_CROP`.

        Raises:
            DeliveryError: the event was not delivered and may be sent again.
            BrokenPipeError: the reader of a stream has gone for good.
        """

    def write_stored(self, event: StoredEvent) -> None:
        """Deliver an event that was stored by another version, or is sent again.

        Sinks that pass JSON on send it as it stands. This default reads it for `write`.

        Raises:
            UnreadableError: this version cannot read it.
            DeliveryError: as `write`.
        """
        try:
            read = Event.model_validate_json(event.text)
        except ValidationError as error:
            raise UnreadableError(f"another version wrote the event: {first_fault(error)}") from error
        self.write(read, NO_CROP)

    def tend(self) -> None:  # noqa: B027 - optional, as `open`
        """Do periodic work, whether events come or not, such as deleting what is too old.

        Raises:
            DeliveryError: it cannot be done now.
        """

    def finished(self, camera: str, recordings: Collection[str]) -> None:  # noqa: B027 - optional
        """Note that a camera has come to the end of its files, after all of its events were delivered.

        Args:
            camera: its name.
            recordings: the digests of the files, as in events.

        Raises:
            DeliveryError: it cannot be noted now.
        """

    def close(self) -> None:  # noqa: B027 - optional, as `open`
        """Close what `open` opened, whether the run succeeded or failed."""

    def __enter__(self) -> Self:
        """Open the sink."""
        self.open()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the sink."""
        self.close()
