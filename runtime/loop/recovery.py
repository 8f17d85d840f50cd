"""What a live camera does after an error in one of its frames."""

from __future__ import annotations

import logging

from twincar_edge.errors import ModelError, TwincarError
from twincar_edge.runtime.backoff import Backoff
from twincar_edge.runtime.log_rate import is_logged
from twincar_edge.wording import titled

logger = logging.getLogger(__name__)

MODEL_TRIES = 5  # frames in a row, with growing pauses: a provider that has failed for good needs a new process


class Recovery:
    """Decides whether a camera continues after an error, and logs when it fails and when it works again.

    Attributes:
        error: the error of the newest frame; None if that was processed.
    """

    def __init__(self, camera: str, *, live: bool, backoff: Backoff | None = None) -> None:
        """Take the camera's name; `live`: it continues with later frames, while a file must lose none."""
        self.error: TwincarError | None = None
        self._camera = camera
        self._live = live
        self._backoff = backoff or Backoff()
        self._worked = False
        self._tries = 0  # in a row
        self._failures = 0  # periods of failed frames in the whole run

    def failed(self, error: TwincarError) -> float:
        """Return how many seconds to wait before the next frame.

        Raises:
            TwincarError: this error, if later frames would fail too: a setting does not fit the camera's first frame,
                or a model has failed in `MODEL_TRIES` frames in a row.
        """
        self._tries += 1
        lasting = self._tries >= MODEL_TRIES if isinstance(error, ModelError) else not self._worked
        if not self._live or lasting:
            raise error
        if self._tries == 1:
            self._failures += 1
            if is_logged(self._failures - 1, self._failures):
                logger.error("%s failed, and tries again: %s", titled("camera", self._camera), error)
        self.error = error
        return self._backoff.next_s()

    def processed(self) -> None:
        """Note that a frame was processed."""
        self._worked = True
        if self.error is None:
            return
        self.error, self._tries = None, 0
        self._backoff.reset()
        if is_logged(self._failures - 1, self._failures):
            logger.warning("%s works again", titled("camera", self._camera))
