"""What reductions start from, and how they take in one value more.

Separate from ``program.py`` because the unscheduled program (``to_tir.py``) reduces the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from tvm import tirx

IDENTITY: dict[str, Callable[[str], Any]] = {
    "sum": lambda dtype: tirx.const(0, dtype),
    "prod": lambda dtype: tirx.const(1, dtype),
    "max": lambda dtype: _extreme(dtype, -inf, tirx.min_value),
    "min": lambda dtype: _extreme(dtype, inf, tirx.max_value),
}
COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "sum": lambda a, b: a + b,
    "prod": lambda a, b: a * b,
    "max": tirx.max,
    "min": tirx.min,
}


def _extreme(dtype: str, infinite: float, finite: Callable[[str], Any]) -> Any:
    """Infinity where there is one: LLVM knows that the first term beats it and compares nothing."""
    return tirx.const(infinite, dtype) if "float" in dtype else finite(dtype)


def combined(combiner: str, old: Any, value: Any) -> Any:
    """``old`` with ``value``; what is added to a sum is added term by term: products then fuse."""
    if combiner == "sum" and isinstance(value, tirx.Add):
        return combined(combiner, combined(combiner, old, value.a), value.b)
    return COMBINE[combiner](old, value)
