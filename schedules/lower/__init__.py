"""One candidate as TensorIR, built straight from its followed nest.

``lower`` is the only door. ``program.py`` writes loops and statements, ``linear.py`` the index
arithmetic, ``emit_expr.py`` scalar expressions, ``packing.py`` packs constants with NumPy;
``horizontal.py`` and ``transposes.py`` then write some loops as vectors. Building the loops
ourselves rather than replaying scheduling primitives costs a millisecond instead of five, and lets
ragged tiles shift instead of carrying predicates.
"""

from __future__ import annotations

from schedules.lower.program import Lowered, lower
from schedules.lower.registers import PIPELINE

__all__ = ["PIPELINE", "Lowered", "lower"]
