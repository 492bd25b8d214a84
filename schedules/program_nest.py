"""The shape of a program as arrays: what ``nest.py`` answers and the cost model reads.

Plain data over ``N`` candidates of one sketch. Separate from the follower so that readers of a
nest need not know how it came about.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schedules.footprint import Ints


@dataclass(frozen=True)
class LoopNest:
    """One loop of the chain around a statement."""

    stage: str
    axis: str
    level: int
    kind: str  # spatial | reduce
    annotation: str  # serial | parallel | vectorize | unroll
    extent: Ints  # [N]


@dataclass(frozen=True)
class AccessNest:
    """One tensor access of a statement, for all candidates.

    ``touched[n, d]``: distinct elements that one execution of everything inside the first ``d``
    loops addresses (``d = 0``: the whole program; ``d = D``: one iteration, 1 element). Exact for
    affine indices over contiguous regions; otherwise an upper bound.
    ``lines[n, d]``: the same in cache lines. ``stride[n, d]``: elements between two consecutive
    iterations of loop ``d``.
    """

    tensor: str
    mode: str  # read | write | update
    element_bytes: int
    tensor_bytes: Ints  # [N], of the stored tensor (compact when computed at a loop)
    touched: Ints  # [N, D + 1]
    lines: Ints  # [N, D + 1]
    stride: Ints  # [N, D]


@dataclass(frozen=True)
class StageNest:
    """One statement: the chain of loops around it from the root, and what it accesses.

    ``operations[class]``: operations of a class (see ``expr.OPERATIONS``, with ``mad`` for a
    multiply feeding a sum) per innermost iteration.
    """

    stage: str
    loops: tuple[LoopNest, ...]  # D
    accesses: tuple[AccessNest, ...]
    operations: dict[str, int]
    is_float: bool
    allocated_bytes: Ints  # [N], of the stage's own buffer; 0 for outputs
    allocated_at: int  # number of chain loops outside the allocation

    @property
    def extents(self) -> Ints:
        """``[N, D]``."""
        if not self.loops:
            return np.ones((len(self.allocated_bytes), 0), dtype=np.int64)
        return np.stack([loop.extent for loop in self.loops], axis=1)


@dataclass(frozen=True)
class ProgramNest:
    """All statements of a batch of ``n`` candidates of one sketch."""

    n: int
    stages: tuple[StageNest, ...]
