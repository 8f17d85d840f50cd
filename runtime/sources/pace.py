"""When the frames of a live source were taken, as far as their arrival tells."""

from __future__ import annotations

PULL = 0.1  # of the difference to the arrival, taken over with each frame
MEMORY = 0.05  # weight of the newest interval in the mean
LEAST_STEP = 0.25  # of the period, however early a frame arrives
RESYNC_S = 0.5  # a gap of so many seconds is a stall, not jitter
MAX_PERIOD_S = 1.0


class Pace:
    """Smooths arrival times: a camera takes a frame every 40 ms, and a network hands over two at once, then none.

    A vehicle's speed is measured between frames, so that times which jump make it jump. A phase-locked loop of first
    order: each frame is expected one mean interval after the last, and that is corrected by a share of how far its
    arrival is off. The result follows the arrivals, without drift, at a tenth of their jitter.
    """

    def __init__(self, fps: float | None) -> None:
        """Expect `fps` frames a second at first, where that is known."""
        self._period_s = min(1 / fps, MAX_PERIOD_S) if fps else 1 / 25
        self._arrival_s: float | None = None
        self._time_s = 0.0

    def __call__(self, arrival_s: float) -> float:
        """Return the time of the frame that arrives at `arrival_s`, later than that of the frame before it."""
        last_s, self._arrival_s = self._arrival_s, arrival_s
        if last_s is None:
            self._time_s = arrival_s
        elif arrival_s - last_s > RESYNC_S:
            self._time_s = max(arrival_s, self._time_s + LEAST_STEP * self._period_s)
        else:
            self._period_s += MEMORY * (arrival_s - last_s - self._period_s)
            expected_s = self._time_s + self._period_s
            step_s = expected_s + PULL * (arrival_s - expected_s) - self._time_s
            self._time_s += max(step_s, LEAST_STEP * self._period_s)
        return self._time_s
