"""Large memory may lie on huge pages, and starts where one starts."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from ansor_lite.memory import HUGE_PAGE, arena

MAPS = Path("/proc/self/smaps")


@pytest.mark.skipif(
    not (MAPS.exists() and hasattr(mmap, "MADV_HUGEPAGE")), reason="needs Linux with huge pages"
)
def test_large_memory_is_private_to_the_process_and_asks_for_huge_pages():
    memory = arena(3 * HUGE_PAGE + 1)
    start = memory.ctypes.data
    assert len(memory) == 3 * HUGE_PAGE + 1 and not memory.any()
    assert start % HUGE_PAGE == 0
    flags = flags_at(start)
    assert "hg" in flags and "sh" not in flags  # shared anonymous memory gets none


def flags_at(address: int) -> list[str]:
    """Flags of the mapping that holds ``address``, as Linux names them."""
    inside = False
    for line in MAPS.read_text().splitlines():
        words = line.split()
        if ":" not in words[0]:
            low, high = (int(part, 16) for part in words[0].split("-"))
            inside = low <= address < high
        elif inside and words[0] == "VmFlags:":
            return words[1:]
    raise AssertionError("the address is not mapped")


def test_small_memory_takes_no_huge_page():
    memory = arena(100)
    assert len(memory) == 100 and memory.ctypes.data % mmap.PAGESIZE == 0
    assert len(arena(0)) == 0
