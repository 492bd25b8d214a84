"""Packing of constant operands at compile time, in plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedules.dag import ComputeDAG
from schedules.evaluate import evaluate
from schedules.lower.linear import Positions
from schedules.plan import Access, Loop, StagePlan


@dataclass(frozen=True)
class Packing:
    """How a tensor is stored: ``packed[loops] = tensor[indices(loops)]``.

    ``indices`` holds one integer array per dimension of the tensor, broadcastable to ``shape``.
    ``program`` computes the tensor from the constant where a rewrite wants another form of it.
    """

    shape: tuple[int, ...]
    indices: tuple[NDArray[np.int64], ...]
    program: ComputeDAG | None = None

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """The packed copy of ``array``, C-contiguous."""
        if self.program is not None:
            (name,) = self.program.outputs
            array = evaluate(self.program, {self.program.inputs[0].name: array})[name]
        packed: NDArray[Any] = np.broadcast_to(array[self.indices], self.shape).copy()
        return packed


def unpacked_constant(shape: tuple[int, ...]) -> Packing:
    """A tensor stored as it is."""
    return Packing(shape, tuple(np.ogrid[tuple(slice(0, s) for s in shape)]))


def constant_packing(
    positions: Positions, stage: StagePlan, access: Access, loops: list[Loop]
) -> Packing:
    """The packing of what ``stage`` reads through ``access``, one dimension per loop."""
    shape = tuple(positions.extent(loop) for loop in loops)
    grids = np.meshgrid(*(np.arange(s) for s in shape), indexing="ij", sparse=True)
    values = dict(zip(loops, grids, strict=True))
    zero = np.zeros((1,) * len(shape), dtype=np.int64)
    indices = []
    for index in access.indices:
        assert index is not None
        linear = positions.index(stage, index)
        value = positions.evaluate(linear, values.__getitem__, np.minimum, np.maximum)
        indices.append(np.asarray(zero + value))
    return Packing(shape, tuple(indices))
