"""Hints that fetch a packed constant ahead of the loop that walks through it, or the next rows.

Where computing on an operand takes about as long as bringing it from memory, the processor's own
prefetchers stop at every page and fall behind. Separate because hints change no value and
``program.py`` writes what does.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import DataType, tirx

# Two pages: fetching takes as long as computing on some thousand bytes, and L2 has room for it.
AHEAD_BYTES = 8192
# The third operand of LLVM's hint, from 0 (used once) to 3 (into the nearest cache).
INTO_L2 = 2


def fetch_ahead(
    buffer: Any, place: Sequence[Any], block: int, line_bytes: int, ahead: int = 0
) -> list[Any]:
    """Statements that fetch ``block`` elements from ``ahead`` elements behind ``place`` on.

    ``place``: an index of ``buffer``, whose last elements are fetched again where it ends.
    ``ahead``: :data:`AHEAD_BYTES` unless told otherwise.
    """
    shape = [int(extent) for extent in buffer.shape]
    element = DataType(str(buffer.dtype)).bits // 8
    ahead, last = ahead or AHEAD_BYTES // element, prod(shape) - block
    if last < ahead or ahead < 0:
        return []
    start = tirx.min(_flat(place, shape) + ahead, last)
    steps = range(0, block, max(1, line_bytes // element))
    return [_fetch(buffer, [*[0] * (len(shape) - 1), start + step]) for step in steps]


def _flat(place: Sequence[Any], shape: Sequence[int]) -> Any:
    total: Any = 0
    for index, extent in zip(place, shape, strict=True):
        total = total * extent + index
    return total


def _fetch(buffer: Any, place: list[Any]) -> Any:
    address = tirx.address_of(tirx.BufferLoad(buffer, place))
    number = [tirx.const(value, "int32") for value in (0, INTO_L2, 1)]  # to read, data
    return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, *number))
