"""Live sources: the newest frame of a camera, over a connection that is reopened when it is lost.

reader thread:  open -> grab, decode -> mailbox ─┐        (one a source)
consumer:                              iterate <─┘ waits for the next frame, and supervises the reader
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from twincar_edge.errors import InputError, TwincarError
from twincar_edge.runtime.backoff import Backoff
from twincar_edge.runtime.log_rate import is_logged
from twincar_edge.runtime.sources.base import Frame, Source, SourceState, SourceStatus, redact_url, size_of
from twincar_edge.runtime.sources.capture import Capture, nominal_fps
from twincar_edge.runtime.sources.live_rules import LiveRules
from twincar_edge.runtime.sources.pace import Pace
from twincar_edge.runtime.sources.unchanged import MANY, Unchanged

logger = logging.getLogger(__name__)

TICK_S = 0.1  # how often a waiting consumer checks its stop event and the reader
RELEASE_S = 1.0  # for the reader to come back from the frame it waits for


class _Reader:
    """One reader thread; `busy_since_s` is when its current call into the capture began, None outside a call."""

    thread: threading.Thread
    busy_since_s: float | None = None


class LiveSource(Source):
    """A camera or network stream: the newest frame, in real time, until it is stopped or released.

    One thread reads, decodes and keeps only the newest frame, so a slow consumer never gets a frame that is more than
    one frame old. Replaced frames are counted (`dropped`). A stream that ends, breaks, falls silent or cannot be opened
    is reopened; its time and frame numbers continue, and it never ends by itself. Time is counted from the start, with
    jitter smoothed.

    If the picture size changes within a connection, reading continues: FFmpeg scales to the initial size. Cameras close
    the connection when their size is reconfigured; frames then come in the new size.
    """

    live = True

    def __init__(
        self,
        name: str,
        open_capture: Callable[[], Capture],
        *,
        kind: str,
        stride: int = 1,
        stop: threading.Event | None = None,
        opened: Capture | None = None,
        rules: LiveRules | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        """Begin to read.

        Args:
            name: the source's; it is redacted here.
            open_capture: opens it, within its own time-out, or raises InputError.
            kind: the row of the table of kinds.
            stride: give only every Nth frame of the source.
            stop: ends the iteration.
            opened: a capture that is open already, for the first connection.
            rules: when a stream counts as failed.
            monotonic: the clock, in seconds.
            rng: randomizes the retry backoff.
            wait: sleeps between retries; returns True early when the source is released.
        """
        super().__init__(name, monotonic=monotonic)
        self.kind = kind
        self._open_capture = open_capture
        self._stride = stride
        self._stop = stop or threading.Event()
        self._rules = rules or LiveRules()
        self._rng = rng or random.Random()
        self._closing = threading.Event()
        self._wait = wait or self._closing.wait
        self._changed = threading.Condition(self._lock)
        self._started_s = monotonic()
        self._pace: Pace | None = None
        self._unchanged = Unchanged()
        self._frozen = False
        self._index = -1
        self._mailbox: Frame | None = None
        self._dropped = 0
        self._sizes = 0  # how often the picture size has changed
        self._connections = 0
        self._connected = False
        self._reported: set[str] = set()
        self._outage_reported = False
        self._bug: BaseException | None = None
        self._hung: list[_Reader] = []
        self._reader = self._start(opened)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the newest frame each time, waiting for one newer than the last, until `stop` or `release`."""
        try:
            while (frame := self._take()) is not None:
                yield frame
        finally:
            self.release()

    def status(self) -> SourceStatus:
        """Return the current status."""
        with self._lock:
            return self._status(
                self._state_now(),
                dropped=self._dropped,
                reconnects=max(0, self._connections - 1),
                late_after_s=self._rules.stalled_s,
            )

    def release(self) -> None:
        """Release the camera or connection, at the latest when the pending read has timed out."""
        with self._changed:
            self._closing.set()
            self._mailbox = None
            self._changed.notify_all()
            thread = self._reader.thread
        if thread is not threading.current_thread():
            thread.join(RELEASE_S)

    # --- the consumer's side ---

    def _take(self) -> Frame | None:
        while not (self._stop.is_set() or self._closing.is_set()):
            with self._changed:
                if self._bug is not None:
                    raise self._bug
                if self._mailbox is not None:
                    frame, self._mailbox = self._mailbox, None
                    self._given += 1
                    return frame
                self._look_after_reader()
                self._changed.wait(TICK_S)
                waits = self._mailbox is None
            if waits:
                self.on_wait()
        return None

    def _look_after_reader(self) -> None:
        """Abandon a hung reader, and start another. Called by the consumer while it waits for a frame."""
        busy_since_s = self._reader.busy_since_s
        if busy_since_s is None or self._monotonic() - busy_since_s < self._rules.hung_s:
            return
        self._hung = [reader for reader in self._hung if reader.thread.is_alive()]
        self._connected = False
        if len(self._hung) == self._rules.most_hung:
            self._report(f"{self.name} hangs in its driver, as did earlier tries: a restart may be needed")
            return
        self._report(f"{self.name} has hung for {self._rules.hung_s:g} s, and is opened again")
        self._hung.append(self._reader)
        self._reader = self._start(None)

    def _state_now(self) -> SourceState:
        if self._closing.is_set():
            return "ended"
        if self._newest_s is None:
            return "opening" if self._problem is None else "waiting"
        if not self._connected:
            return "waiting"
        return "live" if self._monotonic() - self._newest_s < self._rules.stalled_s else "stalled"

    # --- the reader's side ---

    def _start(self, opened: Capture | None) -> _Reader:
        reader = _Reader()
        reader.thread = threading.Thread(
            target=self._read, args=(reader, opened), name=f"read {self.name}", daemon=True
        )
        self._reader = reader
        reader.thread.start()
        return reader

    def _left_behind(self, reader: _Reader) -> bool:
        """Return whether this reader was replaced or the source was released."""
        return reader is not self._reader or self._closing.is_set()

    def _read(self, reader: _Reader, capture: Capture | None) -> None:
        backoff = Backoff(self._rules.first_retry_s, self._rules.longest_retry_s, draw=self._rng.random)
        try:
            while True:
                since_s = self._monotonic()
                try:
                    self._follow(reader, capture)
                    return  # stopped or released
                except (TwincarError, cv2.error) as error:
                    problem = redact_url(_one_line(error))
                capture = None
                steady = self._monotonic() - since_s >= self._rules.steady_s
                if steady:
                    backoff.reset()
                with self._lock:
                    if self._left_behind(reader):
                        return
                    if steady and self._connected:
                        self._reported.clear()
                    self._connected = False
                    self._report(problem, "; trying again until it works")
                if self._wait(backoff.next_s()) or self._left_behind(reader):
                    return
        except BaseException as error:  # noqa: BLE001
            with self._changed:
                self._bug = error  # a bug: raise it in the consumer, which would otherwise wait forever
                self._changed.notify_all()

    def _follow(self, reader: _Reader, capture: Capture | None) -> None:
        """Read one connection until it is lost, which raises, or until the source is stopped.

        Raises:
            InputError: it cannot be opened, has ended, is silent, or sends only undecodable frames.
            cv2.error: OpenCV says so.
        """
        reader.busy_since_s = self._monotonic()
        try:
            if capture is None:
                capture = self._open_capture()
            if not self._connection(reader, capture):
                return
            undecodable = 0
            while True:
                reader.busy_since_s = asked_s = self._monotonic()
                grabbed = capture.grab()
                arrived_s = self._monotonic()
                if self._left_behind(reader):
                    return
                if arrived_s - asked_s >= self._rules.silence_s:
                    raise InputError(f"{self.name} has sent nothing for {self._rules.silence_s:g} s")
                if not grabbed:
                    raise InputError(f"{self.name} sends no more frames")
                frame = self._decode(reader, capture, arrived_s)
                if frame is not None:
                    self._deliver(reader, frame, arrived_s)
                undecodable = 0 if frame is not None else undecodable + (self._index % self._stride == 0)
                if undecodable >= self._rules.undecodable:
                    raise InputError(f"{self.name} sends pictures that cannot be decoded")
        finally:
            if capture is not None:
                capture.release()
            reader.busy_since_s = None

    def _connection(self, reader: _Reader, capture: Capture) -> bool:
        """Record that a connection is open, and return whether it is still needed."""
        with self._lock:
            if self._left_behind(reader):
                return False
            self._connections += 1
            self.fps = nominal_fps(capture)
            if self._pace is None:
                self._pace = Pace(self.fps)
            return True

    def _decode(self, reader: _Reader, capture: Capture, arrived_s: float) -> Frame | None:
        """Number and time the frame that was grabbed; return it decoded, or None if it is skipped."""
        with self._lock:
            if self._left_behind(reader):
                return None
            self._index += 1
            index = self._index
            assert self._pace is not None  # a connection is open
            time_s = self._pace(arrived_s - self._started_s)
            if index % self._stride:
                self._note_frame(arrived_s)
                return None
        done, image = capture.retrieve()
        if not done or image is None or not image.size:
            self._skip("undecodable frame", f"frame {index} of {self.name} cannot be decoded")
            return None
        return Frame(index, time_s, np.asarray(image, np.uint8), self.name)

    def _deliver(self, reader: _Reader, frame: Frame, arrived_s: float) -> None:
        """Put a frame into the mailbox, replacing one that was not taken."""
        with self._changed:
            if self._left_behind(reader):
                return
            size_wh = size_of(frame)
            if self._size_wh is not None and self._size_wh != size_wh:
                self._sizes += 1
                if is_logged(self._sizes - 1, self._sizes):
                    logger.warning("%s now sends %dx%d instead of %dx%d", self.name, *size_wh, *self._size_wh)
            self._size_wh = size_wh
            run = self._unchanged.add(frame.image_bgr, arrived_s)
            self._frozen = run >= MANY and arrived_s - self._unchanged.since_s >= self._rules.frozen_s
            self._note_frame(arrived_s)
            if self._frozen:
                self._skip_reasons["unchanged picture"] += 1
                return
            self._dropped += self._mailbox is not None
            self._mailbox = frame
            self._changed.notify_all()

    def _note_frame(self, arrived_s: float) -> None:
        self._connected = True
        if self._frozen:
            self._newest_s = self._unchanged.since_s
            self._report(
                f"{self.name} has sent the same picture, byte for byte, for {self._rules.frozen_s:g} s: the camera is "
                "frozen, or its video is interlaced, which OpenCV cannot decode: set the camera to progressive video, "
                "or pip install 'twincar-edge[clips]'"
            )
            return
        self._problem, self._newest_s = None, arrived_s
        if self._outage_reported:
            self._outage_reported = False
            logger.warning("%s is back", self.name)

    def _report(self, problem: str, then: str = "") -> None:
        """Record the problem, and log it once: a camera may be offline for a week, or flap all night."""
        self._problem = problem
        if problem not in self._reported:
            self._reported.add(problem)
            self._outage_reported = True
            logger.warning("%s%s", problem, then)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
