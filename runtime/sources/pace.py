"""Estimates the capture times of a live source's frames from their arrival times."""

from __future__ import annotations

PULL = 0.1  # share of the phase error that each frame corrects
MEMORY = 0.05  # weight of the newest interval in the mean
LEAST_STEP = 0.25  # of the period, however early a frame arrives
RESYNC_S = 0.5  # a longer gap, in seconds, is a stall, not jitter
MAX_PERIOD_S = 1.0


class Pace:
    """Smooths arrival times: a camera takes a frame every 40 ms, and a network hands over two at once, then none.

    A vehicle's speed is measured between frames, so jitter in the times becomes jitter in the speed. This is a
    first-order phase-locked loop: each frame is expected one mean interval after the last, and a share of the error of
    its arrival corrects that. The result follows the arrivals, without drift, at a tenth of their jitter.
    """

    def __init__(self, fps: float | None) -> None:
        """Start with `fps` frames a second, if known."""
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
