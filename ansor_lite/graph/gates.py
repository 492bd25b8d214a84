"""Products of one tensor that meet element by element, as gates do: one kernel for both.

``silu(x W1) * (x W2)`` is fused as a product and another one whose epilogue reads it. Composed they
share a register tile (``search_space/tiling.py``), and neither is written. Read ``places.py``
first; separate because a chain may pay and is measured, and this moves fewer bytes in any case.
"""

# imports TVM
from __future__ import annotations

import tvm
from tvm import relax

from ansor_lite.graph.places import Dags, Link, Place, composed, main_blocks, pairs
from schedules.dag import ComputeDAG, Stage
from schedules.expr import Axis, Const, Read
from search_space.analysis import has_data_reuse


def find_gates(module: tvm.IRModule, dags: Dags) -> tuple[Place, ...]:
    """Places of two products of one tensor, one in the epilogue of the other; none overlap."""
    places: list[Place] = []
    taken: set[relax.Var] = set()
    for block in main_blocks(module):
        for link, reader in pairs(block, dags):
            place = composed((link, reader)) if _meet(link, reader) else None
            if place is not None and not taken & {link.result, reader.result}:
                taken |= {link.result, reader.result}
                places.append(place)
    return tuple(places)


def _meet(link: Link, reader: Link) -> bool:
    """Both add over the same tensor, and an epilogue takes their results element by element."""
    first, second = _product(link.dag), _product(reader.dag)
    if first is None or second is None or not _summed(link, first) & _summed(reader, second):
        return False
    if reader.arguments.count(link.result) != 1:
        return False
    argument = reader.dag.inputs[reader.arguments.index(link.result)].name
    return _is_in_place(reader.dag, argument)


def _product(dag: ComputeDAG) -> Stage | None:
    """The only accumulation, if it reads nothing but inputs and all that follows is in place."""
    sums = [stage for stage in dag.stages if stage.combiner is not None]
    if len(sums) != 1 or not has_data_reuse(sums[0]):
        return None
    direct = all(read.tensor in dag.input_by_name for read in sums[0].reads())
    return sums[0] if direct and _is_in_place(dag, sums[0].name) else None


def _summed(link: Link, stage: Stage) -> set[relax.Var]:
    """The computed tensors that an accumulation reads."""
    names = {read.tensor for read in stage.reads()}
    arguments = zip(link.dag.inputs, link.arguments, strict=True)
    return {a for tensor, a in arguments if tensor.name in names and isinstance(a, relax.Var)}


def _is_in_place(dag: ComputeDAG, tensor: str) -> bool:
    """From ``tensor`` to the only output, every stage takes each element from its own place."""
    reached = {tensor}
    for stage in dag.stages:
        reads = [read for read in stage.reads() if read.tensor in reached]
        if not reads:
            continue
        if stage.combiner is not None or any(dag.shape_of(t) != stage.shape for t in reached):
            return False
        if not all(_is_same(read, stage) for read in reads):
            return False
        reached.add(stage.name)
    return len(dag.outputs) == 1 and dag.outputs[0] in reached


def _is_same(read: Read, stage: Stage) -> bool:
    """Whether the element read is the one that the stage computes."""
    return len(read.indices) == len(stage.spatial) and all(
        index == Axis(axis.name) or (isinstance(index, Const) and axis.extent == 1)
        for index, axis in zip(read.indices, stage.spatial, strict=True)
    )
