"""Copies that transpose are shuffled in registers; the elements arrive where they belong."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
from built import Case
from small_tasks import HARDWARE
from tvm import tirx

from schedules.dag import REDUCE, ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Call, Const, Expr, Read
from schedules.lower import lower
from schedules.lower.statements import replaced, statement_pass
from schedules.lower.transposes import register_transpose
from schedules.steps import Annotate, Pack, Reorder, Step, Tile

F = "float32"


def _copy(extents: dict[str, int], order: str, body: Expr | None = None) -> ComputeDAG:
    """``y[order] = x[extents]``."""
    read = Read("x", tuple(Axis(name) for name in extents), F)
    axes = tuple(IterAxis(name, extents[name]) for name in order)
    inputs = (Tensor("x", tuple(extents.values()), F),)
    return ComputeDAG(inputs, (Stage("y", axes, body or read, F),), ("y",))


def _squares(dag: ComputeDAG, steps: tuple[Step, ...] = ()) -> set[int]:
    """Lengths of the vectors that are stored after the pass."""
    plain, blocks = tirx.transform, tvm.s_tir.transform
    passes = [blocks.ConvertBlocksToOpaque(), blocks.LowerOpaqueBlock(), plain.FlattenBuffer()]
    module = tvm.IRModule({"main": lower(dag, steps, HARDWARE).func})
    module = tvm.transform.Sequential([*passes, statement_pass("", register_transpose)])(module)
    found: set[int] = set()

    def note(statement: Any) -> None:
        if isinstance(statement, tirx.BufferStore):
            found.add(tvm.DataType(str(statement.value.ty.dtype)).lanes)

    replaced(module["main"].body, note)
    return found


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (5, 21), (16, 16), (40, 9), (37, 35)])
def test_a_matrix_is_transposed(rows: int, columns: int) -> None:
    dag = _copy({"i": rows, "j": columns}, "ji")
    assert _squares(dag) == {8 if min(rows, columns) >= 8 else 4}
    assert Case(dag, HARDWARE).error(()) == 0


@pytest.mark.parametrize("order", ("nhwc", "cnwh", "wcnh", "cwhn"))
def test_dimensions_may_stand_around_the_two(order: str) -> None:
    dag = _copy({"n": 4, "c": 19, "h": 5, "w": 17}, order)
    assert max(_squares(dag)) > 1
    assert Case(dag, HARDWARE).error(()) == 0


def test_vectors_and_ragged_tiles_of_a_schedule_are_kept_apart() -> None:
    dag = _copy({"i": 37, "j": 50}, "ji")
    steps = (
        Tile("y", "j", (16,)),
        Tile("y", "i", (2, 8)),
        Reorder("y", ("j.0", "i.0", "j.1", "i.1", "i.2")),
        Annotate("y", ("j.0",), "parallel"),
        Annotate("y", ("i.2",), "vectorize"),
    )
    assert _squares(dag, steps) == {8}
    assert Case(dag, HARDWARE).error(steps) == 0


def _product() -> ComputeDAG:
    axes = (IterAxis("i", 21), IterAxis("j", 16), IterAxis("k", 19, REDUCE))
    left, right = Read("x", (Axis("i"), Axis("k")), F), Read("w", (Axis("k"), Axis("j")), F)
    total = Stage("y", axes, Call("mul", (left, right), F), F, "sum")
    return ComputeDAG((Tensor("x", (21, 19), F), Tensor("w", (19, 16), F)), (total,), ("y",))


def test_a_pack_is_transposed() -> None:
    """``x`` by blocks of nine rows, those of a block side by side."""
    dag = _product()
    steps = (
        Tile("y", "i", (9,)),
        Reorder("y", ("i.0", "k.0", "i.1", "j.0")),
        Pack("y", "x", ("y", "i.0")),
    )
    assert 8 in _squares(dag, steps)
    assert Case(dag, HARDWARE).error(steps) < 1e-5


def test_what_is_read_later_is_not_overwritten() -> None:
    """Shifted squares copy some elements twice: ``b`` must not take the place of ``a``."""
    axes = (IterAxis("i", 13), IterAxis("j", 13))
    x, a, b = (Read(name, (Axis("j"), Axis("i")), F) for name in ("x", "a", "b"))
    stages = (
        Stage("a", axes, Call("add", (x, Const(1.0, F)), F), F),
        Stage("b", axes, a, F),
        Stage("c", axes, Call("mul", (b, Const(3.0, F)), F), F),
    )
    dag = ComputeDAG((Tensor("x", (13, 13), F),), stages, ("c",))
    assert 8 in _squares(dag)
    assert Case(dag, HARDWARE).error(()) < 1e-6


@pytest.mark.parametrize("order", ("ij", "ji"))
def test_scalars_stay_where_a_side_is_too_short_or_both_are_contiguous(order: str) -> None:
    assert _squares(_copy({"i": 3, "j": 40}, order)) == {1}
    assert _squares(_copy({"i": 40, "j": 40}, "ij")) == {1}


def test_scalars_stay_where_elements_are_computed_or_spread() -> None:
    read = Read("x", (Axis("i"), Axis("j")), F)
    doubled = Call("mul", (read, Const(2.0, F)), F)
    assert _squares(_copy({"i": 16, "j": 16}, "ji", doubled)) == {1}
    strided = Read("x", (Axis("i"), Call("mul", (Axis("j"), Const(2, "int64")), "int64")), F)
    stage = Stage("y", (IterAxis("j", 16), IterAxis("i", 16)), strided, F)
    assert _squares(ComputeDAG((Tensor("x", (16, 32), F),), (stage,), ("y",))) == {1}


def test_a_row_that_is_repeated_is_no_transpose() -> None:
    read = Read("x", (Const(0, "int64"), Axis("j")), F)
    stage = Stage("y", (IterAxis("j", 16), IterAxis("i", 16)), read, F)
    dag = ComputeDAG((Tensor("x", (1, 16), F),), (stage,), ("y",))
    assert _squares(dag) == {1}
    assert Case(dag, HARDWARE).error(()) == 0
