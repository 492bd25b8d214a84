"""A DAG without copies: who reads one reads what it copies, and the last one is written directly.

Transposes, views and repetitions move data; behind affine indices they are ways to read. Read
``split_axes.py`` first. Separate because no schedule comes back from here: the DAG that is left is
what is scheduled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from schedules.dag import ComputeDAG, Stage, Tensor
from schedules.expr import Axis, Expr, Read, rebuild
from schedules.split_axes import drop_units, split_axes


def without_copies(dag: ComputeDAG) -> ComputeDAG:
    """``dag`` without plain copies, unit dimensions and divided axes.

    Inputs and outputs keep their memory, not their shapes. An output that copies an input stays.
    Raises :class:`UnsupportedProgram` where an index is no sum of axes.
    """
    dag = drop_units(split_axes(_read_through(dag)))
    for name in dag.outputs:
        dag = _written_through(dag, dag.stage(name))
    return dag


def at(expr: Expr, values: Mapping[str, Expr]) -> Expr:
    """``expr`` with expressions for its axes."""
    return rebuild(expr, lambda node: values.get(node.name) if isinstance(node, Axis) else None)


def _copied(dag: ComputeDAG, stage: Stage) -> Read | None:
    """What ``stage`` is a copy of."""
    read = stage.body if isinstance(stage.body, Read) and stage.combiner is None else None
    return read if read is not None and dag.dtype_of(read.tensor) == stage.dtype else None


def _read_through(dag: ComputeDAG) -> ComputeDAG:
    sources: dict[str, tuple[list[str], Read]] = {}
    stages: list[Stage] = []

    def change(node: Expr) -> Expr | None:
        if not isinstance(node, Read) or node.tensor not in sources:
            return None
        axes, source = sources[node.tensor]
        return at(source, dict(zip(axes, node.indices, strict=True)))

    for before in dag.stages:
        stage = replace(before, body=rebuild(before.body, change))
        read = _copied(dag, stage)
        if read is None or stage.name in dag.outputs:
            stages.append(stage)
        else:
            sources[stage.name] = [a.name for a in stage.spatial], read
    return replace(dag, stages=tuple(stages))


def _written_through(dag: ComputeDAG, copy: Stage) -> ComputeDAG:
    """``dag`` whose output ``copy``, if it permutes a stage that nobody else reads, is that one."""
    read = _copied(dag, copy)
    source = dag.by_name.get(read.tensor) if read is not None else None
    if read is None or source is None or source.name in dag.outputs:
        return dag
    names = [index.name for index in read.indices if isinstance(index, Axis)]
    permutes = len(names) == len(read.indices) and set(names) == {a.name for a in copy.axes}
    if not permutes or len(names) != len(copy.axes) or dag.consumers[source.name] != (copy.name,):
        return dag
    spatial = tuple(source.spatial[names.index(a.name)] for a in copy.axes)
    moved = replace(source, name=copy.name, axes=(*spatial, *source.reduce))
    kept = (s for s in dag.stages if s is not source)
    return replace(dag, stages=tuple(moved if s is copy else s for s in kept))


def own_operands(dag: ComputeDAG) -> tuple[ComputeDAG, tuple[str, ...]]:
    """``dag`` with an input for each way in which a reduction reads one, and what each was before.

    Operands of one reduction that lie in one tensor (queries and keys, say) are stored apart then.
    """
    inputs: list[tuple[Tensor, str]] = []
    given: dict[tuple[str, Read], str] = {}
    for tensor in dag.inputs:
        ways = [
            (stage.name, read)
            for stage in map(dag.stage, dag.consumers[tensor.name])
            for read in dict.fromkeys(stage.reads())
            if stage.combiner is not None and read.tensor == tensor.name
        ]
        for number, way in enumerate(ways):
            given[way] = f"{tensor.name}.{number}" if number else tensor.name
        names = [given[way] for way in ways] or [tensor.name]
        inputs += [(replace(tensor, name=name), tensor.name) for name in names]

    def renamed(stage: Stage) -> Stage:
        def change(node: Expr) -> Expr | None:
            name = given.get((stage.name, node)) if isinstance(node, Read) else None
            return (
                None if name is None or not isinstance(node, Read) else replace(node, tensor=name)
            )

        return replace(stage, body=rebuild(stage.body, change))

    stages = tuple(renamed(stage) for stage in dag.stages)
    changed = replace(dag, inputs=tuple(tensor for tensor, _ in inputs), stages=stages)
    return changed, tuple(before for _, before in inputs)
