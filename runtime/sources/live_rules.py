"""What a live source takes for trouble with its camera."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LiveRules:
    """When a stream counts as failed, and the retry times.

    Attributes:
        silence_s: the read time-out of the capture; a grab that took so long found nothing, whatever it says (FFmpeg's
            decoder gives up the frames it held back when a read fails).
        stalled_s: without a frame for so long, the source says that it is stalled.
        hung_s: a call into the capture that takes so long has ignored its time-out, as `VideoCapture.read` does now
            and then (opencv#22677); its thread is left behind, and another one opens the camera again.
        most_hung: threads that may be left behind at a time. Where so many hang, the camera waits for one of them.
        steady_s: after a connection that lasted so long, the first try comes quickly again.
        undecodable: pictures in a row that cannot be decoded before the connection is made again.
        frozen_s: pictures that are the same in every byte for so long are no news of the camera any more.
        first_retry_s: the wait before the first try of a series; each wait is up to twice the last, less a random part.
        longest_retry_s: the longest wait. It is one second for good, where others let it grow to minutes: a camera
            that returns shall give frames within three seconds, and of these a try that has just failed takes up to
            1.5 s (`network.KNOCK_S`) or opening an RTSP stream about 1 s. A try that finds nobody is one small packet.
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
