"""Packing of constant operands at compile time, in plain NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedules.dag import ComputeDAG
from schedules.evaluate import evaluate
from schedules.lower.linear import Positions
from schedules.plan import Access, Loop, StagePlan

# In how many parts a constant is packed.
PARTS = 16


@dataclass(frozen=True)
class Packing:
    """How a tensor is stored: ``packed[loops] = tensor[indices(loops)]``.

    ``indices`` holds one integer array per dimension of the tensor, broadcastable to ``shape``.
    ``program`` computes the tensor from the constant where a rewrite wants another form of it.
    """

    shape: tuple[int, ...]
    indices: tuple[NDArray[np.int64], ...]
    program: ComputeDAG | None = None

    def place(self, element: tuple[int, ...]) -> list[int]:
        """Where an element of the tensor is; the loops move one of its dimensions each."""
        places = [np.argwhere(i == e)[0] for i, e in zip(self.indices, element, strict=True)]
        return [int(p) for p in np.max(places, axis=0)]

    def apply(self, array: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """The packed copy of ``array``, C-contiguous; written to ``out`` where that is given.

        Part by part: NumPy gathers into memory of its own, and weights may be large.
        """
        if self.program is not None:
            (name,) = self.program.outputs
            array = evaluate(self.program, {self.program.inputs[0].name: array})[name]
        packed = np.empty(self.shape, array.dtype) if out is None else out
        longest = int(np.argmax(self.shape)) if self.shape else 0
        for part in _parts(self.shape[longest] if self.shape else 1):
            here = (slice(None),) * longest + (part,)
            picked = tuple(i[here] if i.ndim and i.shape[longest] > 1 else i for i in self.indices)
            packed[here if self.shape else ...] = array[picked]
        return packed


def _parts(extent: int) -> list[slice]:
    step = -(-extent // PARTS)
    return [slice(start, start + step) for start in range(0, extent, step)]


def unpacked_constant(shape: tuple[int, ...]) -> Packing:
    """A tensor stored as it is."""
    return Packing(shape, tuple(np.ogrid[tuple(slice(0, s) for s in shape)]))


def constant_packing(
    positions: Positions, stage: StagePlan, accesses: Sequence[Access], loops: Sequence[Loop | None]
) -> Packing:
    """The packing of what ``stage`` reads through ``accesses``, which differ by constants.

    One dimension per loop; ``None`` among the loops stands for the number of the access.
    """
    shape = tuple(len(accesses) if x is None else positions.extent(x) for x in loops)
    grids = np.meshgrid(*(np.arange(s) for s in shape), indexing="ij", sparse=True)
    values = {x: grid for x, grid in zip(loops, grids, strict=True) if x is not None}
    zero = np.zeros((1,) * len(shape), dtype=np.int64)
    indices = []
    for dimension in range(len(accesses[0].indices)):
        each = []
        for access in accesses:
            index = access.indices[dimension]
            assert index is not None
            linear = positions.index(stage, index)
            value = positions.evaluate(linear, values.__getitem__, np.minimum, np.maximum)
            each.append(np.asarray(zero + value))
        alike = all(np.array_equal(each[0], other) for other in each[1:])
        indices.append(each[0] if alike else np.concatenate(each, axis=loops.index(None)))
    return Packing(shape, tuple(indices))
