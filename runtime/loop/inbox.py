"""The queue between the cameras' threads and the answering thread, which runs the model."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from twincar_edge.runtime.evidence import VehicleCrop
from twincar_edge.runtime.locating.boxes import Box, Ignored
from twincar_edge.runtime.sources import Frame, Source
from twincar_edge.runtime.visits import Visit


@dataclass(frozen=True, eq=False)
class Crop:
    """A crop of a vehicle to classify.

    `counts`: the track is confirmed as a vehicle, so that its answer may be published. `taken_s` is when the frame
    was taken from the source, by the loop's timer.
    """

    camera: str
    visit: Visit
    crop: VehicleCrop
    counts: bool
    taken_s: float


@dataclass(frozen=True, eq=False)
class End:
    """The end of a track; `counts` says whether it was a vehicle."""

    camera: str
    visit: Visit
    counts: bool


@dataclass(frozen=True, eq=False)
class Shown:
    """A processed frame, the vehicles in it (track number, box, visit), and what was ignored, for drawing."""

    camera: str
    frame: Frame
    vehicles: tuple[tuple[int, Box, Visit], ...]
    ignored: tuple[Ignored, ...]


@dataclass(frozen=True, eq=False)
class Handled:
    """Follows the crops and ends of a single image: when it is taken, the image with this index was handled."""

    camera: str
    source: Source
    index: int


Item = Crop | End | Shown | Handled
_PICTURES = (Crop, Shown)


class Inbox:
    """A queue from any number of writer threads to one reader, in order of arrival.

    A file must lose nothing, so its writer blocks while `depth` of its pictures are queued: vehicles come in bursts,
    and the queue keeps the model busy in between. A live camera queues only the newest crop of each vehicle, which
    replaces the older one. So the model never sees a crop older than the running inference, a vehicle's end never
    overtakes its last crop, and memory is bounded even if the model is slow.
    """

    def __init__(
        self,
        depth: int,
        memory: int = sys.maxsize,
        least: int = 1,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start empty.

        Args:
            depth: the most pictures of one camera in the queue.
            memory: the byte limit of these pictures; large pictures lower the depth.
            least: the lower bound of the depth.
            monotonic: the clock of `take`'s deadline.
        """
        self._depth = depth
        self._memory = memory
        self._least = least
        self._monotonic = monotonic
        self._items: OrderedDict[object, Item] = OrderedDict()
        self._waiting: Counter[str] = Counter()
        self._replaced: Counter[str] = Counter()
        self._writers = 0
        self._closed = False
        self._changed = threading.Condition()

    def add_writer(self) -> None:
        """Register a producer thread; `take` ends when all of them are removed."""
        with self._changed:
            self._writers += 1

    def remove_writer(self) -> None:
        """Unregister a producer thread."""
        with self._changed:
            self._writers -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Discard all queued and future items, and wake all waiting threads. For a failed run."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def put(self, items: Sequence[Item], *, newest_only: bool = False) -> None:
        """Add the items of one frame together, so that its crops can share an inference.

        Blocks until there is room, or, with `newest_only`, replaces older crops of the same vehicles.
        """
        if not items:
            return
        camera = items[0].camera
        with self._changed:
            if not newest_only:
                most = self._most(items)
                self._changed.wait_for(lambda: self._closed or self._waiting[camera] < most)
            if self._closed:
                return
            for item in items:
                key = self._key(item) if newest_only else object()
                if key in self._items:
                    self._replaced[camera] += isinstance(item, Crop)
                else:
                    self._waiting[camera] += isinstance(item, _PICTURES)
                self._items[key] = item
            self._changed.notify_all()

    def take(self, crops: int, timeout_s: float) -> list[Item] | None:
        """Remove and return the oldest items, with at most `crops` crops among them, as soon as there are any.

        Returns:
            The items; an empty list on timeout; None when the queue is empty and has no writers.
        """
        deadline_s = self._monotonic() + timeout_s
        with self._changed:
            while not self._items:
                left_s = deadline_s - self._monotonic()
                if self._writers == 0 or self._closed:
                    return None
                if left_s <= 0 or not self._changed.wait(left_s):
                    return []
            taken: list[Item] = []
            room = crops
            for key, item in list(self._items.items()):
                if isinstance(item, Crop):
                    if room == 0:
                        break
                    room -= 1
                self._waiting[item.camera] -= isinstance(item, _PICTURES)
                taken.append(item)
                del self._items[key]
            self._changed.notify_all()
            return taken

    def waiting(self) -> dict[str, int]:
        """Return the number of queued pictures by camera."""
        with self._changed:
            return dict(self._waiting)

    def replaced(self) -> dict[str, int]:
        """Return, by live camera, the number of crops that newer ones replaced before classification."""
        with self._changed:
            return dict(self._replaced)

    def _most(self, items: Sequence[Item]) -> int:
        """Return the queue limit, in pictures, for these items."""
        largest = max(1, *map(_bytes, items))
        return max(self._least, min(self._depth, self._memory // largest))

    @staticmethod
    def _key(item: Item) -> object:
        """Return the key under which a newer item of a live camera replaces this one."""
        if isinstance(item, Crop):
            return id(item.visit)
        return item.camera if isinstance(item, Shown) else object()


def _bytes(item: Item) -> int:
    """Return the size of an item's picture in bytes."""
    if isinstance(item, Crop):
        return item.crop.picture_bgr.nbytes
    return item.frame.image_bgr.nbytes if isinstance(item, Shown) else 0
