"""Prefetching in a thread, with a bounded queue."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """An iterator over `items`, in order, that prefetches up to `depth` of them in a thread.

    So decoding a frame overlaps with processing the previous one. At most `depth` items are queued, and the next one is
    read only when there is room for it. `next` raises the iterable's errors, after the items that preceded them. The
    thread starts at the first `next`. It ends, and closes `items` if that is a generator, after the last item or at
    `close`.
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
        """Prepare; nothing runs yet.

        Args:
            items: the iterable.
            depth: the most items in the queue.
            size_of: returns an item's size.
            max_size: prefetching pauses while the queued items have this total size.
            name: the thread's name.
        """
        if depth < 1:
            raise ValueError(f"the depth must be at least 1, found {depth}")
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
        """Return itself: it can be iterated once."""
        return self

    def __next__(self) -> T:
        """Return the next item; block until it is ready.

        Raises:
            StopIteration: there are no more items, or it is closed.
            BaseException: raised by the iterable; no items follow.
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
        """Stop prefetching and join the thread; callable from any thread. A blocked `next` raises StopIteration.

        Args:
            timeout_s: how long to wait for the thread, which may be in the middle of an item; None means no
                timeout. A thread that is late ends by itself after that item.

        Returns:
            Whether the thread has ended.
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
            error = raised  # reraised in the consumer's thread
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
                del item  # or this frame would keep it alive until the next item
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
