"""Failure thresholds and retry times of a live source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LiveRules:
    """When a stream counts as failed, and the retry times.

    Attributes:
        silence_s: the read timeout of the capture; a grab that took this long failed, whatever it returned (FFmpeg's
            decoder flushes its delayed frames when a read fails).
        stalled_s: after this long without a frame, the source reports `stalled`.
        hung_s: a call into the capture that takes this long has ignored its timeout, as `VideoCapture.read`
            sometimes does (opencv#22677); its thread is abandoned, and another one reopens the camera.
        most_hung: the most abandoned threads at a time. At this limit, the camera waits for one of them to return.
        steady_s: a connection that lasted this long resets the backoff.
        undecodable: consecutive undecodable pictures before the connection is reopened.
        frozen_s: after this long with byte-identical pictures, the camera counts as frozen.
        first_retry_s: the first delay of the exponential backoff (factor 2, with jitter).
        longest_retry_s: the longest delay. It is one second, where others use minutes: a camera that returns must
            deliver frames within three seconds, and of these a failing try takes up to 1.5 s (`network.KNOCK_S`) or
            opening an RTSP stream about 1 s. A try without an answer costs one small packet.
    """

    silence_s: float = 5.0
    stalled_s: float = 2.0
    hung_s: float = 10.0
    most_hung: int = 3
    steady_s: float = 5.0
    undecodable: int = 50
    frozen_s: float = 30.0
    first_retry_s: float = 0.25
    longest_retry_s: float = 1.0
