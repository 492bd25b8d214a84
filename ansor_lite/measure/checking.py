"""Does a candidate compute what its task says? It is compared with the unscheduled program.

The reference is ``to_tir``'s plain loops, built once per task. Their outer loops run in parallel,
or a large convolution would take seconds. Where they would take much longer than that, some rows of
the result are compared, and the others need only be there.
"""

# imports TVM
from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from ansor_lite.measure.protocol import TOLERANCE
from ansor_lite.measure.timing import Program, empty, parallel_reference, random_array, rng_of
from ansor_lite.tasks import Task
from schedules.dag import ComputeDAG
from schedules.sampled import sampled

Array = NDArray[Any]
# Operations that plain loops do in a few seconds.
MOST_FLOP = 5e9
NOT_WRITTEN = "elements are not finite or were never written"


class Checking:
    """Inputs of one task and what its outputs must be.

    Where normal numbers leave the outputs constant or not finite (a root, a logarithm), positive
    ones are tried.
    """

    def __init__(self, task: Task, target: Any) -> None:
        self.dag = dag = task.dag
        self.sample = sampled(dag, MOST_FLOP / task.flop) if task.flop > MOST_FLOP else None
        part = dag if self.sample is None else self.sample.dag
        reference = tvm.tirx.build(parallel_reference(part), target=target)["main"]
        for positive in (False, True):
            rng = rng_of(task.key)
            self.inputs = {
                t.name: random_array(rng, t.shape, t.dtype, positive) for t in dag.inputs
            }
            self.expected = self._outputs(Program(task, reference, {}), part)
            if all(telling(e) for e in self.expected):
                break

    def wrong(self, program: Program, tolerance: float = TOLERANCE) -> str:
        """What deviates by more than ``tolerance``, or an empty text."""
        found = self._outputs(program, self.dag)
        wrong = [
            f"{name}: {fault}"
            for name, got, expected in zip(self.dag.outputs, found, self.expected, strict=True)
            if (fault := self._deviation(got, expected, tolerance))
        ]
        return "; ".join(wrong)

    def _deviation(self, got: Array, expected: Array, tolerance: float) -> str:
        if self.sample is None:
            return deviation(got, expected, tolerance)
        if np.isfinite(expected).all() and not np.isfinite(got).all():
            return NOT_WRITTEN
        rows = got.take(self.sample.rows, self.sample.dimension)
        return deviation(rows, expected, tolerance)

    def _outputs(self, program: Program, dag: ComputeDAG) -> list[Array]:
        """What ``program`` computes; outputs start as NaN so that a missing write shows."""
        outputs = [empty(dag, name) for name in dag.outputs]
        for output in outputs:
            if "float" in str(output.dtype):
                output.copyfrom(np.full(output.shape, np.nan, dtype=str(output.dtype)))
        packed = [
            program.packs[name].apply(array) if name in program.packs else array
            for name, array in self.inputs.items()
        ]
        program.function(*(tvm.runtime.tensor(array) for array in packed), *outputs)
        return [output.numpy() for output in outputs]


def telling(expected: Array) -> bool:
    """Whether agreement with ``expected`` means anything: finite and not all alike."""
    values = expected.astype("float64")
    return bool(np.isfinite(values).all() and (values.size <= 1 or np.ptp(values) > 1e-6))


def deviation(got: Array, expected: Array, tolerance: float = TOLERANCE) -> str:
    """In words, how ``got`` differs; empty when it is equal within ``tolerance``."""
    if "float" not in str(expected.dtype):
        count = int((got != expected).sum())
        return f"{count} of {got.size} elements differ" if count else ""
    a, b = got.astype("float64"), expected.astype("float64")
    finite = np.isfinite(b)
    if not np.array_equal(np.isfinite(a), finite):
        return NOT_WRITTEN
    if not finite.any():
        return ""
    error, largest = np.abs(a - b)[finite].max(), np.abs(b[finite]).max()
    if error <= tolerance * largest:
        return ""
    return f"off by {error:.3g} where the largest value is {largest:.3g}"
