"""Benchmarks a model at a camera's pace: frames arrive at a fixed rate, and late ones are dropped."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.benchmarks.config import CameraPace
from twincar_edge.benchmarks.report import Latency, Paced
from twincar_edge.errors import InputError
from twincar_edge.runtime.timing import Clock, Subject
from twincar_edge.videos import open_capture

CPUINFO = Path("/proc/cpuinfo")
CPUFREQ = Path("/sys/devices/system/cpu")
TENTH = 10


class Clip:
    """A video whose frames are decoded in a loop.

    Raises:
        InputError: the file cannot be read as a video.
    """

    def __init__(self, path: Path) -> None:
        """Open the video."""
        self._path = path
        self._capture = open_capture(str(path.absolute()), str(path))
        if not self._capture.isOpened():
            raise InputError(f"cannot read the video {path}: it is missing, or FFmpeg cannot decode it")

    def skip(self, frames: int) -> None:
        """Decode and drop frames; later frames depend on them."""
        for _ in range(frames):
            self._grab()

    def next(self) -> NDArray[np.uint8]:
        """Return the next frame, uint8 [H, W, 3]."""
        self._grab()
        done, image = self._capture.retrieve()
        if not done or image is None:
            raise InputError(f"cannot decode a frame of {self._path}")
        return np.asarray(image, np.uint8)

    def _grab(self) -> None:
        if not self._capture.grab():
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            if not self._capture.grab():
                raise InputError(f"cannot decode any frame of {self._path}")


@dataclass(frozen=True)
class Work:
    """The times of the steps for one frame, and the latency from its arrival to the answer, in ms."""

    decode_ms: float
    pre_ms: float
    infer_ms: float
    post_ms: float
    latency_ms: float

    @property
    def busy_ms(self) -> float:
        """Return the sum of all steps, in ms."""
        return self.decode_ms + self.pre_ms + self.infer_ms + self.post_ms


def keep_pace(
    camera: Any,
    subject: Callable[[NDArray[np.uint8]], Subject],
    pace: CameraPace,
    *,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    processor: Clock = time.process_time,
    mhz: Callable[[], float | None] | None = None,
) -> Paced:
    """Classify a camera's frames as they arrive, and sleep in between.

    Args:
        camera: a `Clip`, or an object with the same `skip` and `next`.
        subject: returns the three steps for one frame.
        pace: the frame rate and the duration.
        clock: returns the time in seconds.
        sleep: sleeps for a number of seconds.
        processor: returns the CPU time of this process in seconds.
        mhz: returns the clock rate of the cores; None for `core_mhz`.

    Raises:
        InputError: the clip cannot be decoded.
        TwincarError: a step fails.
    """
    mhz = mhz or core_mhz
    frames = int(pace.fps * pace.duration_s + 1e-9)
    mhz_first, works, in_time, index = None, [], 0, 0
    start, busy = clock(), processor()
    while index < frames:
        now = clock()
        arrived = min(frames - 1, int((now - start) * pace.fps + 1e-9))
        missed = max(0, arrived - index)
        index += missed
        due = start + index / pace.fps
        if now < due:
            sleep(due - now)
        works.append(_answer(camera, missed, subject, due, clock))
        in_time += works[-1].latency_ms <= 1e3 / pace.fps + 1e-6
        index += 1
        if mhz_first is None and index * TENTH >= frames:
            mhz_first = (mhz(),)
    end, busy = clock(), processor() - busy
    elapsed_s = max(end - start, frames / pace.fps)
    first, last = _tenths([work.busy_ms for work in works])
    return Paced(
        fps=pace.fps,
        duration_s=pace.duration_s,
        clip=pace.video.name,
        frames=frames,
        answered=len(works),
        in_time=in_time / frames,
        sustained_fps=len(works) / elapsed_s,
        latency=Latency.of([work.latency_ms for work in works]),
        **{
            step: Latency.of([getattr(work, f"{step}_ms") for work in works])
            for step in ("decode", "pre", "infer", "post")
        },
        slowdown=last / first if first > 0 else 1.0,
        cores_busy=busy / elapsed_s,
        mhz_first=mhz_first[0] if mhz_first else None,
        mhz_last=mhz(),
        latency_samples_ms=tuple(work.latency_ms for work in works),
    )


def _answer(
    camera: Any, missed: int, subject: Callable[[NDArray[np.uint8]], Subject], due: float, clock: Clock
) -> Work:
    begun = clock()
    camera.skip(missed)
    image_bgr = camera.next()
    decoded = clock()
    steps = subject(image_bgr)
    batch = steps.pre(0)
    prepared = clock()
    logits = steps.infer(batch)
    inferred = clock()
    steps.post(logits)
    done = clock()
    times = (decoded - begun, prepared - decoded, inferred - prepared, done - inferred, done - due)
    return Work(*(1e3 * seconds for seconds in times))


def _tenths(values: list[float]) -> tuple[float, float]:
    """Return the medians of the first and of the last tenth of the values."""
    size = max(1, len(values) // TENTH)
    return float(np.median(values[:size])), float(np.median(values[-size:]))


def core_mhz(cpufreq: Path = CPUFREQ, cpuinfo: Path = CPUINFO) -> float | None:
    """Return the current mean clock rate of the cores in MHz, or None if not known, as on many virtual machines."""
    try:
        found = [
            int(path.read_text("ascii")) / 1e3 for path in sorted(cpufreq.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        ] or [
            float(line.partition(":")[2])
            for line in cpuinfo.read_text("utf-8", errors="replace").splitlines()
            if line.lower().startswith("cpu mhz")
        ]
    except (OSError, ValueError):
        return None
    return float(np.mean(found)) if found else None
