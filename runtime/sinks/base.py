"""What a sink is: a context manager with one method, `write`, and what it raises when it cannot."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import TwincarError
from twincar_edge.runtime.events import Event

Crop = NDArray[np.uint8]
# What a sink gets that does not ask for pictures, or whose event waited on disk: pictures are not kept there.
NO_CROP: Crop = np.zeros((0, 0, 3), np.uint8)


class DeliveryError(TwincarError):
    """An event could not be delivered now, and may be later: the receiver is away, the disk is full."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        """Say why in one line; `retry_after_s` is the least time to wait before the next attempt."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RefusedError(DeliveryError):
    """The receiver will never take this one event, however often it is sent; others it may take."""


class Sink(Protocol):
    """Takes events, in the order in which they happen, one at a time.

    Behind a `Delivery` it is opened by the thread that starts the loop, and used and closed by one thread of its own.
    """

    def __enter__(self) -> Self:
        """Open what the sink writes to; a receiver that is away is no reason to fail.

        Raises:
            InputError: it can never work as it is set up.
        """

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it, however the run ends."""

    def write(self, event: Event, crop_bgr: Crop) -> None:
        """Deliver one event; when this returns, the receiver has it.

        Args:
            event: what happened.
            crop_bgr: the visit's best picture so far, uint8 [h, w, 3], or `NO_CROP`.

        Raises:
            DeliveryError: it was not delivered, and may be sent again.
            BrokenPipeError: whoever read the stream has gone, for good.
        """
