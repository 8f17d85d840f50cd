"""Memory that a process has freed is kept for its next allocations on request."""

from __future__ import annotations

import ctypes
import resource

import pytest

from twincar_edge.memory import freed_memory_kept

BLOCK_BYTES = 2**26  # above the largest size from which glibc always maps a block of its own


def page_faults(blocks: int) -> int:
    """Write and free that many large blocks, one after another; return how many pages the kernel provided."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(blocks):
        b"x" * BLOCK_BYTES
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_the_kernel_provides_the_pages_of_freed_blocks_only_once() -> None:
    usually = page_faults(10)
    with freed_memory_kept():
        page_faults(1)
        assert page_faults(10) < usually / 10
        with freed_memory_kept():
            pass
        assert page_faults(10) < usually / 10  # until the outermost block ends
    assert page_faults(10) > usually / 2  # returned again


def test_an_error_in_the_block_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="inside"), freed_memory_kept():
        raise ValueError("inside")
