"""A tuning task: one distinct subgraph of a network, and how often the network uses it.

Separate from the graph passes so that search, log and report know tasks without loading TVM.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from schedules.dag import ComputeDAG, Stage, canonical
from schedules.expr import OPERATIONS, Call, Const, walk

FLOAT_CLASSES = ("addsub", "mul", "divmod", "compare", "math")


@dataclass(frozen=True, slots=True)
class Task:
    """``name`` is for people; tasks are equal for tuning when their :attr:`key` is.

    ``parts``: keys of the tasks that one after the other compute the same; a chain has some.
    """

    name: str
    dag: ComputeDAG = field(repr=False)
    weight: int = 1
    parts: tuple[str, ...] = ()

    def canonical(self) -> Task:
        """The task with canonical names: what is tuned and logged, so that records of one task
        serve every task of equal key."""
        return replace(self, dag=canonical(self.dag))

    @property
    def key(self) -> str:
        return self.dag.key

    @property
    def flop(self) -> int:
        """Floating-point operations of one run; a multiply-add counts as two."""
        return sum(stage_flop(stage) for stage in self.dag.stages)

    @property
    def bytes(self) -> int:
        """Bytes of all inputs and outputs: the least that one run moves."""
        return self._bytes(*(t.name for t in self.dag.inputs), *self.dag.outputs)

    @property
    def constant_bytes(self) -> int:
        """Bytes of the inputs that are known when the network is compiled."""
        return self._bytes(*(t.name for t in self.dag.inputs if t.constant))

    def _bytes(self, *names: str) -> int:
        return sum(_elements(self.dag, n) * element_bytes(self.dag.dtype_of(n)) for n in names)


def _elements(dag: ComputeDAG, tensor: str) -> int:
    """Elements of a tensor, but of a dimension that is only read at numbers no others."""
    reads = [r for n in dag.consumers[tensor] for r in dag.stage(n).reads() if r.tensor == tensor]
    counts = []
    for dimension, extent in enumerate(dag.shape_of(tensor)):
        indices = {read.indices[dimension] for read in reads}
        numbers = bool(indices) and all(isinstance(index, Const) for index in indices)
        counts.append(len(indices) if numbers else extent)
    return prod(counts)


def stage_flop(stage: Stage) -> int:
    """Floating-point operations of one stage, its combiner included."""
    per_point = sum(
        1
        for node in walk(stage.body)
        if isinstance(node, Call)
        and OPERATIONS[node.op][1] in FLOAT_CLASSES
        and any(_is_float(arg) for arg in node.args)
    )
    per_point += stage.combiner is not None and "float" in stage.dtype
    return per_point * prod(a.extent for a in stage.axes)


def _is_float(expr: object) -> bool:
    return "float" in getattr(expr, "dtype", "")


def element_bytes(dtype: str) -> int:
    """Bytes of one element; ``bfloat16`` and ``bool`` included."""
    if dtype == "bfloat16":
        return 2
    return int(np.dtype(dtype).itemsize)
