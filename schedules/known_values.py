"""Constants whose values say more than a tensor does: numbers, and masks that are conditions.

A tensor of one element is a literal. A mask that leaves exactly ``j <= i + c`` is that condition,
so that who schedules it sees which blocks it empties. Pure; ``evaluate.py`` holds the language's
meaning. Separate because everything else knows only shapes of constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from math import inf

import numpy as np

from schedules.dag import ComputeDAG, Stage
from schedules.evaluate import Array
from schedules.expr import INDEX_DTYPE, Axis, Call, Const, Expr, Read, rebuild, walk

# What is added to leave an element out of a maximum and of a sum of exponentials.
HIDING = -1e30
LOWEST = float(np.finfo(np.float32).min)


def with_values(dag: ComputeDAG, values: Mapping[str, Array]) -> ComputeDAG:
    """``dag`` with literals and conditions for reads of constants; inputs stay, read or not.

    A mask becomes a condition only where just a maximum and exponentials read what it hides.
    """
    literals = {n: Const(v.item(), str(v.dtype)) for n, v in values.items() if v.size == 1}

    def literal(node: Expr) -> Expr | None:
        return literals.get(node.tensor) if isinstance(node, Read) else None

    stages = tuple(replace(s, body=rebuild(s.body, literal)) for s in dag.stages)
    dag = replace(dag, stages=stages)
    stages = tuple(_unmasked(dag, stage, values) for stage in dag.stages)
    return replace(dag, stages=stages)


def _unmasked(dag: ComputeDAG, stage: Stage, values: Mapping[str, Array]) -> Stage:
    if stage.combiner is not None or stage.dtype != "float32" or not _is_only_ranked(dag, stage):
        return stage

    tests = (n for s in dag.stages for n in walk(s.body) if isinstance(n, Call))
    # Rows that hide everything are told by their NaN then: they have to come out as such.
    guarded = any(node.op == "isnan" for node in tests)

    def change(node: Expr) -> Expr | None:
        match node:
            case Call("add", (value, Read() as mask), _) | Call("add", (Read() as mask, value), _):
                return _added(mask, value, values, guarded)
            case Call("select", (Read() as mask, value, Const(least)), _) if least <= HIDING:
                return _selected(mask, value, values, False, _hidden(least, guarded))
            case Call("select", (Read() as mask, Const(least), value), _) if least <= HIDING:
                return _selected(mask, value, values, True, _hidden(least, guarded))
            case _:
                return None

    return replace(stage, body=rebuild(stage.body, change))


def _hidden(least: float, guarded: bool) -> Const:
    return Const(-inf if guarded and least == -inf else LOWEST, "float32")


def _added(mask: Read, value: Expr, values: Mapping[str, Array], guarded: bool) -> Expr | None:
    array = values.get(mask.tensor)
    if array is None or array.dtype != np.float32:
        return None
    allowed = array > HIDING
    condition = _condition(mask, allowed)
    if condition is None:
        return None
    kept = value if not array[allowed].any() else Call("add", (value, mask), "float32")
    least = _hidden(float(array[~allowed].max()), guarded)
    return Call("select", (condition, kept, least), "float32")


def _selected(
    mask: Read, value: Expr, values: Mapping[str, Array], hides: bool, least: Const
) -> Expr | None:
    array = values.get(mask.tensor)
    if array is None or array.dtype != np.bool_:
        return None
    condition = _condition(mask, array != hides)
    if condition is None:
        return None
    return Call("select", (condition, value, least), "float32")


def _condition(mask: Read, allowed: Array) -> Expr | None:
    """``j <= i + c`` for axes ``i`` and ``j``, where the mask leaves exactly that."""
    axes = [index for index in mask.indices if isinstance(index, Axis)]
    if len(set(axes)) < len(mask.indices):
        return None
    for row, column in permutations(range(allowed.ndim), 2):
        others = tuple(d for d in range(allowed.ndim) if d not in (row, column))
        left = np.any(allowed, axis=others, keepdims=True)
        table = left.reshape([allowed.shape[d] for d in sorted((row, column))])
        table = table if row < column else table.T
        offset = int(table[0].sum()) - 1
        same = np.array_equal(allowed, np.broadcast_to(left, allowed.shape))
        triangle = np.tri(table.shape[0], table.shape[1], offset) > 0
        if same and offset >= 0 and not table.all() and np.array_equal(table, triangle):
            limit: Expr = axes[row]
            if offset:
                limit = Call("add", (limit, Const(offset, INDEX_DTYPE)), INDEX_DTYPE)
            return Call("le", (axes[column], limit), "bool")
    return None


def _is_only_ranked(dag: ComputeDAG, stage: Stage) -> bool:
    """Only maxima, and exponentials of differences, read the stage, perhaps after sums."""
    if stage.name in dag.outputs:
        return False
    return all(_ranks(dag, dag.stage(name), stage.name) for name in dag.consumers[stage.name])


def _ranks(dag: ComputeDAG, reader: Stage, tensor: str) -> bool:
    match reader.body:
        case Read():
            return reader.combiner == "max" or _is_only_ranked(dag, reader)
        case Call("exp", (Call("sub", (Read(left), right), _),), _):
            return left == tensor and not _reads(right, tensor)
        case Call("add", _, _) if reader.combiner is None:
            return _is_only_ranked(dag, reader)
        case _:
            return False


def _reads(expr: Expr, tensor: str) -> bool:
    return any(isinstance(node, Read) and node.tensor == tensor for node in walk(expr))
