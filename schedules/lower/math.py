"""exp, erf, tanh and sigmoid in float32 as plain arithmetic, which vectorises.

TVM calls libm once per lane for these. Separate from ``emit_expr`` because this is numerics, with its
own accuracy tests, and nothing else. Every function is branch-free and keeps NaN and infinities.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

Tir: TypeAlias = Any

POLYNOMIALS: dict[str, Callable[[Tir], Tir]] = {}
