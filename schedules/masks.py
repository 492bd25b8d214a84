"""What a triangular mask leaves out: elements that change no output need not be computed.

Where ``x[i, j]`` is the lowest number for ``j >= i + n``, ``exp(x[i, j] - max_j x[i, j])`` is zero
there, and so is every product with it. ``masks`` follows this from stage to stage; ``Limit`` steps
end loops where it says so. Separate from ``guards.py``: those conditions belong to one stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from schedules.dag import ComputeDAG, Stage
from schedules.expr import Axis, Call, Const, Expr, Read, affine

# Added to anything of a usual size this makes an exponential zero.
LOWEST = -1e30
LOW, ZERO = "low", "zero"


@dataclass(frozen=True, slots=True)
class Mask:
    """Nothing counts where ``axis >= row + beyond``; ``beyond`` is at least 1.

    ``kind`` is what stands there: ``LOW`` (at most :data:`LOWEST`) or ``ZERO``.
    """

    axis: str
    row: str
    beyond: int
    kind: str


def masks(dag: ComputeDAG) -> dict[str, Mask]:
    """The stages (by name) whose axis may end early for every row, as no output changes."""
    found: dict[str, Mask] = {}
    for stage in dag.stages:
        mask = _own(stage) if stage.combiner is None else None
        mask = mask or next(_passed(dag, stage, found), None)
        if mask is not None:
            found[stage.name] = mask
    for stage in reversed(dag.stages):
        if stage.name in found and not _counts_nowhere(dag, stage, found):
            del found[stage.name]
    return found


def _own(stage: Stage) -> Mask | None:
    """The mask that a stage applies itself."""
    body = stage.body
    while isinstance(body, Call) and body.op == "add":
        body = next(
            (a for a in body.args if isinstance(a, Call) and a.op == "select"), body.args[0]
        )
    match body:
        case Call("select", (condition, _, Const(value))) if not isinstance(value, bool):
            pass
        case _:
            return None
    if value > LOWEST:
        return None
    extents = {a.name: a.extent for a in stage.spatial}
    for axis, row, beyond in _bounds(condition):
        if beyond >= 1 and {axis, row} <= extents.keys():
            return Mask(axis, row, beyond, LOW)
    return None


def _bounds(condition: Expr) -> Iterator[tuple[str, str, int]]:
    """``(axis, row, beyond)`` of every ``axis < row + beyond`` that must hold."""
    if not isinstance(condition, Call) or len(condition.args) != 2:
        return
    if condition.op == "and":
        for arg in condition.args:
            yield from _bounds(arg)
        return
    small, large = condition.args
    if condition.op in ("ge", "gt"):
        small, large = large, small
    if condition.op not in ("le", "lt", "ge", "gt"):
        return
    difference = affine(Call("sub", (large, small), "int64"))
    terms = {} if difference is None else {c: name for name, c in difference.terms}
    if difference is not None and len(difference.terms) == 2 and terms.keys() == {1, -1}:
        equal = condition.op in ("le", "ge")
        yield terms[-1], terms[1], difference.constant + equal


def _passed(dag: ComputeDAG, stage: Stage, found: dict[str, Mask]) -> Iterator[Mask]:
    """The masks that ``stage`` takes over from what it reads."""
    for read in stage.reads():
        mask = found.get(read.tensor)
        moved = None if mask is None else _at(dag.stage(read.tensor), mask, read)
        if moved is None:
            continue
        if stage.combiner is None:
            if moved.kind == LOW and _is_exponential(dag, stage, read):
                yield replace(moved, kind=ZERO)
        elif _is_neutral(stage, read, moved):
            yield moved


def _at(source: Stage, mask: Mask, read: Read) -> Mask | None:
    """``mask`` in the axes of the stage that reads ``source``."""
    names = {a.name: index for a, index in zip(source.spatial, read.indices, strict=True)}
    axis, row = names.get(mask.axis), names.get(mask.row)
    if isinstance(axis, Axis) and isinstance(row, Axis):
        return replace(mask, axis=axis.name, row=row.name)
    return None


def _is_exponential(dag: ComputeDAG, stage: Stage, read: Read) -> bool:
    """``exp(x - max x)``, which is zero where ``x`` is far below what else the row has."""
    match stage.body:
        case Call("exp", (Call("sub", (value, Read(most))),)) if value == read:
            greatest = dag.by_name.get(most)
        case _:
            return False
    if greatest is None or greatest.combiner != "max" or not isinstance(greatest.body, Read):
        return False
    return greatest.body.tensor == read.tensor


def _is_neutral(stage: Stage, read: Read, mask: Mask) -> bool:
    """The reduction takes no notice of what stands behind the mask."""
    if mask.axis not in {a.name for a in stage.reduce}:
        return False
    if mask.kind == LOW:
        return stage.combiner == "max" and stage.body == read
    return stage.combiner == "sum" and read in _factors(stage.body)


def _factors(expr: Expr) -> list[Expr]:
    if isinstance(expr, Call) and expr.op == "mul":
        return [f for arg in expr.args for f in _factors(arg)]
    return [expr]


def _counts_nowhere(dag: ComputeDAG, stage: Stage, found: dict[str, Mask]) -> bool:
    """Whatever reads ``stage`` ends as early."""
    mask = found[stage.name]
    if stage.combiner is not None:
        return True
    for name in dag.consumers[stage.name]:
        reader = dag.stage(name)
        for read in reader.reads():
            if read.tensor == stage.name:
                moved, theirs = _at(stage, mask, read), found.get(name)
                if moved is None or theirs is None:
                    return False
                if replace(moved, kind=theirs.kind) != theirs:
                    return False
    return stage.name not in dag.outputs
