"""Frames from a watched folder."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from twincar_edge.errors import InputError
from twincar_edge.images import ImageError
from twincar_edge.runtime.sources.ahead import ReadAhead
from twincar_edge.runtime.sources.base import Frame, Source, bytes_of
from twincar_edge.runtime.sources.bounds import AHEAD_BYTES, MAX_FRAME_PIXELS
from twincar_edge.runtime.sources.images import (
    DEPTH,
    RELEASE_S,
    image_frame,
    is_image_name,
    natural_order,
    open_images_of,
)
from twincar_edge.runtime.sources.seen import SeenImages
from twincar_edge.runtime.sources.signature import Signature, signature_of

logger = logging.getLogger(__name__)

SETTLE_S = 0.25  # a file is complete when it has not changed for this long
RELIST_S = 10.0  # the folder is listed this often even without notifications: network drives send none
POLL_S = 1.0  # where the system has no change notifications
FIRST_LOOK_S = 0.5  # after the watch was registered, for files that arrived before


class _Place(NamedTuple):
    """What identifies a folder: its device and its inode. A disk that is mounted over it has others."""

    device: int
    inode: int


class WatchedFolder(Source):
    """A watched folder: first the images that are there, then each new image once it is complete.

    A file is complete when its size and time of change stayed the same for a quarter of a second, whether it was
    written there or moved in. Files whose name begins with a dot are temporary. An image is identified by its name,
    size and modification time: it is delivered once, a rewritten file is a new image, and an unreadable one is retried
    when it has changed. This also holds after the folder's disk was unmounted for a while.

    A folder that cannot be listed while it is watched is `waiting`, and is tried again until it is back.

    With `seen`, it also holds across restarts. An image is recorded as seen when it was `handled`. Delivery is at least
    once: images that wait for the model when a run fails or is killed are delivered again.
    """

    kind = "folder"
    live = True
    stills = True

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        stop: threading.Event,
        stride: int = 1,
        seen: Path | None = None,
        max_pixels: int = MAX_FRAME_PIXELS,
    ) -> None:
        """Watch `folder` until `stop` is set.

        Args:
            folder: which one.
            name: the source's.
            stop: ends the watching.
            stride: give only every Nth image.
            seen: the file that remembers images across restarts.
            max_pixels: a larger image is unusable.

        Raises:
            InputError: the folder cannot be listed, or `seen` is there and cannot be read.
        """
        super().__init__(name)
        self._folder = folder
        self._stop = stop
        self._stride = stride
        self._closing = threading.Event()
        self._away: str | None = None  # why the folder cannot be listed now
        self._look()  # raises now if the folder cannot be listed
        self._seen = SeenImages(seen)
        self._has_journal = seen is not None
        self._unhandled: dict[int, Signature] = {}  # by the frame's index
        self._max_pixels = max_pixels
        self._saving = threading.Lock()  # held while the journal is saved after the release
        self._hangs = False
        self._ahead = ReadAhead(
            self._arrivals(),
            DEPTH,
            size_of=lambda found: 0 if found[1] is None else bytes_of(found[1]),
            max_size=AHEAD_BYTES,
            name=f"watch {self.name}",
        )

    def __iter__(self) -> Iterator[Frame]:
        """Yield the images as they arrive, until the stop event is set."""
        try:
            yield from self._counted(self._taken())
        finally:
            self.release()

    def release(self) -> None:
        """Stop watching."""
        self._closing.set()
        self._ahead.close(RELEASE_S)
        self._save_at_end()

    def handled(self, index: int) -> None:
        """Record an image as seen, also after the release.

        The thread that reads the folder writes the journal: the caller answers for all cameras, and must not wait.
        """
        with self._lock:
            image = self._unhandled.pop(index, None)
        if image is not None:
            self._seen.note(image)
            if self._closing.is_set():
                self._save_at_end()  # that thread has ended

    def is_set(self) -> bool:
        """Return whether to stop watching; `watchfiles` calls it like an event's method."""
        return self._stop.is_set() or self._closing.is_set()

    def _taken(self) -> Iterator[Frame]:
        for signature, frame in self._ahead:
            if frame is None:
                self._seen.note(signature)
                continue
            if self._has_journal:
                with self._lock:
                    self._unhandled[frame.index] = signature
            yield frame

    def _save_at_end(self) -> None:
        """Save, but wait for at most `RELEASE_S`, and once: the journal's disk may hang, and the run may not."""
        if not self._saving.acquire(timeout=0 if self._hangs else RELEASE_S):
            self._hangs = True
            return
        saver = threading.Thread(target=self._save_and_release, name=f"save {self.name}", daemon=True)
        saver.start()
        saver.join(RELEASE_S)
        self._hangs = saver.is_alive()

    def _save_and_release(self) -> None:
        try:
            self._save(at_once=True)
        finally:
            self._saving.release()

    def _save(self, *, at_once: bool = False) -> None:
        problem = self._seen.save(at_once=at_once)
        with self._lock:
            self._problem = self._away or problem

    # --- in the thread that reads ahead ---

    def _arrivals(self) -> Iterator[tuple[Signature, Frame | None]]:
        """Yield each complete, readable image; its frame is None where the stride skips it."""
        settling: set[Signature] = set()
        changes: Iterator[object] = iter(())
        index, watched = 0, None
        while not self.is_set():
            found = self._look_while_running()
            self._save()
            if found is None:
                watched = None
                self._closing.wait(POLL_S)
                continue
            there, place = found
            if place != watched:  # also a disk that is mounted over the folder: it needs a watch of its own
                changes, watched = self._changes(), place
            self._seen.listed(there, place.device)
            complete = sorted((there - self._seen.images) & settling, key=lambda image: natural_order(Path(image.name)))
            for signature in complete:
                skipped = index % self._stride != 0
                frame = None if skipped else self._frame(index, signature.name)
                if frame is None and signature_of(self._folder / signature.name) != signature:
                    break  # deleted, rewritten, or its disk is away: it is read if a listing has it again
                self._seen.add(signature)
                if skipped or frame is not None:
                    yield signature, frame
                index += 1
                self._save()
                if self.is_set():
                    return
            settling = there - self._seen.images
            if settling:
                self._closing.wait(SETTLE_S)
            else:
                next(changes, None)

    def _look_while_running(self) -> tuple[set[Signature], _Place] | None:
        """Return what `_look` does, or None while the folder cannot be listed, which the status and the log say."""
        try:
            found, problem = self._look(), None
        except InputError as error:
            found, problem = None, str(error)
        if problem is not None and self._away is None:
            logger.warning("%s; waiting for it", problem)
        elif problem is None and self._away is not None:
            logger.warning("%s is back", self.name)
        with self._lock:
            self._away = problem
            if self._state != "ended":
                self._state = "live" if problem is None else "waiting"
        return found

    def _look(self) -> tuple[set[Signature], _Place]:
        """Return the current images, and where they are.

        Must be fast: a folder may hold a hundred thousand, and is listed often.
        """
        there = set()
        try:
            status = self._folder.stat()
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if is_image_name(entry.name) and (found := _signature(entry)) is not None:
                        there.add(found)
        except OSError as error:
            raise InputError(f"cannot list the folder {self._folder}: {error.strerror}") from error
        return there, _Place(status.st_dev, status.st_ino)

    def _frame(self, index: int, name: str) -> Frame | None:
        try:
            return image_frame(index, self._folder / name, self._max_pixels)
        except ImageError as error:
            self._skip(error.problem, str(error))
            return None

    def _changes(self) -> Iterator[object]:
        """Block, at each step, until the folder may have changed or watching should stop.

        Notifications cover only changes after the watch was registered, so the first step is short. Without
        notifications, a step takes `POLL_S`.
        """
        import watchfiles  # half of what importing the sources would take

        quiet_s = RELIST_S
        try:
            for changes in watchfiles.watch(
                self._folder,
                watch_filter=None,
                recursive=False,
                debounce=200,
                step=100,
                rust_timeout=round(1000 * FIRST_LOOK_S),
                yield_on_timeout=True,
                stop_event=self,
            ):
                self._save()
                quiet_s += FIRST_LOOK_S
                if changes or quiet_s >= RELIST_S:
                    yield changes
                    quiet_s = 0.0
        except FileNotFoundError:
            pass  # it has just disappeared: the next listing says so
        except (OSError, RuntimeError) as error:
            logger.warning("%s is listed every %g s: this system cannot report changes (%s)", self.name, POLL_S, error)
        while not self.is_set():
            self._closing.wait(POLL_S)
            yield None


def _signature(entry: os.DirEntry[str]) -> Signature | None:
    """Return a file's signature; None if it is still empty, was deleted, or is not a regular file."""
    try:
        found = entry.stat()
    except OSError:
        return None
    if not (stat.S_ISREG(found.st_mode) and found.st_size):
        return None
    return Signature(entry.name, found.st_size, found.st_mtime_ns)


def open_folder(
    spec: str,
    stride: int,
    *,
    once: bool,
    stop: threading.Event,
    seen: Path | None = None,
    max_pixels: int = MAX_FRAME_PIXELS,
) -> Source:
    """Open a folder of images; `once` ends after the current ones; otherwise `seen` records them.

    Raises:
        InputError: the folder cannot be listed; with `once`, it holds no image; or `seen` cannot be read.
    """
    if once:
        return open_images_of(Path(spec), spec, stride, max_pixels)
    return WatchedFolder(Path(spec), spec, stop=stop, stride=stride, seen=seen, max_pixels=max_pixels)
