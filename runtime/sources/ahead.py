"""Prefetching in a thread, with a bounded queue."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """An iterator of the items of `items`, in order, that makes up to `depth` of them ahead in a thread.

    So decoding a frame overlaps with what is done with the one before. No more than `depth` items wait at any time, and
    the next is not begun before there is room for it. What the iterable raises comes out of `next`, behind the items
    that came before it. The thread starts at the first `next`; it ends, and if `items` is a generator closes it, when
    the items do or at `close`.
    """

    def __init__(
        self,
        items: Iterable[T],
        depth: int,
        *,
        size_of: Callable[[T], int] = lambda _: 0,
        max_size: int = 1,
        name: str = "read ahead",
    ) -> None:
        """Take what makes the items; nothing runs yet.

        Args:
            items: makes them.
            depth: how many of them may wait.
            size_of: tells the size of one.
            max_size: no further item is made while those that wait have this size together.
            name: the thread's.
        """
        if depth < 1:
            raise ValueError(f"a depth is 1 or more, found {depth}")
        self._items = items
        self._depth = depth
        self._size_of, self._max_size = size_of, max_size
        self._ready: deque[T] = deque()
        self._error: BaseException | None = None
        self._over = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._make, name=name, daemon=True)
        self._started = False

    def __iter__(self) -> Iterator[T]:
        """Return itself: there is one iteration."""
        return self

    def __next__(self) -> T:
        """Return the next item, as soon as it is made.

        Raises:
            StopIteration: there are no more, or it is closed.
            BaseException: what making the next item raised; after that, there are no more.
        """
        with self._changed:
            if not self._started and not self._closed:
                self._started = True
                self._thread.start()
            self._changed.wait_for(lambda: self._ready or self._over or self._closed)
            if self._closed:
                raise StopIteration
            if self._ready:
                item = self._ready.popleft()
                self._changed.notify_all()
                return item
            error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def close(self, timeout_s: float | None = None) -> bool:
        """End, from any thread: who waits for an item gets none, and the thread is joined.

        Args:
            timeout_s: how long to wait for the thread, which may be in the middle of an item; None for as long as
                it takes. One that is not back by then ends by itself after that item.

        Returns:
            Whether nothing runs any more.
        """
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
            if not self._started:
                return True
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _has_room(self) -> bool:
        return len(self._ready) < self._depth and sum(map(self._size_of, self._ready)) < self._max_size

    def _make(self) -> None:
        error = None
        try:
            self._fill(iter(self._items))
        except BaseException as raised:  # noqa: BLE001
            error = raised  # for the thread that takes the items: it has the right to know, and the means to react
        with self._changed:
            self._error = error
            self._over = True
            self._changed.notify_all()

    def _fill(self, items: Iterator[T]) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or self._has_room())
                    if self._closed:
                        return
                try:
                    item = next(items)
                except StopIteration:
                    return
                with self._changed:
                    if not self._closed:
                        self._ready.append(item)
                        self._changed.notify_all()
                del item  # or it would live here until the next is made
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
