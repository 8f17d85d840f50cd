"""Reading ahead in a thread: in order, bounded, and without leaked threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.support.event_toys import eventually
from twincar_edge.runtime.sources.ahead import ReadAhead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "read ahead"]


def test_items_arrive_in_order_and_the_thread_ends_after_the_last() -> None:
    assert list(ReadAhead(range(1000), 3)) == list(range(1000))
    eventually(lambda: not threads(), "the thread ends")


def test_the_number_of_items_made_ahead_is_limited() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    with ReadAhead(items(), 3) as ahead:
        assert made == []  # nothing is made before the first read
        for number in ahead:
            eventually(lambda taken=number + 1: len(made) == min(20, taken + 3), "it reads ahead")
            assert len(made) <= number + 1 + 3


def test_the_next_item_is_made_while_the_last_one_is_processed() -> None:
    working, made = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 0
        assert working.wait(20)
        made.set()
        yield 1

    with ReadAhead(items(), 1) as ahead:
        assert next(ahead) == 0
        working.set()
        assert made.wait(20)
        assert list(ahead) == [1]


def test_an_error_is_raised_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield from range(2)
        raise ZeroDivisionError

    ahead = ReadAhead(items(), 5)
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(ahead)
    assert list(ahead) == []


def test_closing_wakes_a_blocked_producer_and_closes_its_iterator() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    ahead = ReadAhead(items(), 2)
    assert next(ahead) == 0
    assert ahead.close()
    assert closed.is_set()
    assert not threads()
    assert list(ahead) == []
    assert ahead.close()  # a second call has no effect


def test_closing_from_another_thread_wakes_a_waiting_reader() -> None:
    begun, come = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        begun.set()
        assert come.wait(20)
        yield 0

    ahead = ReadAhead(items(), 1)
    taken: list[list[int]] = []
    consumer = threading.Thread(target=lambda: taken.append(list(ahead)))
    consumer.start()
    assert begun.wait(20)
    assert not ahead.close(timeout_s=0.01)  # False: the producer is still running
    consumer.join(20)
    assert taken == [[]]
    come.set()
    assert ahead.close()


def test_without_a_read_no_thread_is_started() -> None:
    ahead = ReadAhead(range(3), 1)
    assert ahead.close()
    assert list(ahead) == []
    assert not threads()
    with pytest.raises(ValueError, match="depth"):
        ReadAhead(range(3), 0)


def test_the_total_size_of_queued_items_is_limited() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for size in (60, 60, 60, 10, 10, 10):
            made.append(size)
            yield size

    with ReadAhead(items(), 4, size_of=int, max_size=100) as ahead:
        assert next(ahead) == 60
        eventually(lambda: len(made) == 3 and not ahead._has_room(), "two wait, and more have no room", 30.0)
        assert len(made) == 3
        assert list(ahead) == [60, 60, 10, 10, 10]
