"""Memory that a process has freed is kept for its next allocations on request."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from twincar_edge.memory import freed_memory_kept

# In a process of its own: what other tests left in the heap decides where malloc finds room. The blocks are above the
# largest size from which glibc always maps a block of its own.
COUNT_PAGE_FAULTS = """
import resource
from twincar_edge.memory import freed_memory_kept

def page_faults(blocks):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(blocks):
        b"x" * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(page_faults(10))
with freed_memory_kept():
    page_faults(1)
    print(page_faults(10))
    with freed_memory_kept():
        pass
    print(page_faults(10))
print(page_faults(10))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_the_kernel_provides_the_pages_of_freed_blocks_only_once() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT_PAGE_FAULTS], capture_output=True, text=True, check=True)
    usually, kept, kept_after_an_inner_block, afterwards = map(int, done.stdout.split())
    assert kept < usually / 10
    assert kept_after_an_inner_block < usually / 10  # until the outermost block ends
    assert afterwards > usually / 2  # returned again


def test_an_error_in_the_block_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="inside"), freed_memory_kept():
        raise ValueError("inside")
