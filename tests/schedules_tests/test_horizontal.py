"""Sums over a few neighbours become vectors, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
from built import Case
from small_tasks import HARDWARE
from tvm import tirx

from ansor_lite.target import native
from schedules.dag import REDUCE, ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Call, Const, Expr, Read
from schedules.lower import PIPELINE, lower
from schedules.lower.horizontal import horizontal_reduction
from schedules.lower.statements import replaced, statement_pass
from schedules.steps import Annotate, Reorder, SplitReduction, Step, Tile

F = "float32"


def _rows(lanes: int, combiner: str = "sum", column: Expr | None = None) -> ComputeDAG:
    """``[3, 400] -> [3]``: ``lanes`` neighbours of every row."""
    axes = (IterAxis("i", 3), IterAxis("k", lanes, REDUCE))
    total = Stage("s", axes, Read("x", (Axis("i"), column or Axis("k")), F), F, combiner)
    return ComputeDAG((Tensor("x", (3, 400), F),), (total,), ("s",))


def _loops(dag: ComputeDAG, steps: tuple[Step, ...] = ()) -> list[int]:
    """Extents of the loops that the pass leaves."""
    module = tvm.IRModule({"main": lower(dag, steps, HARDWARE).func})
    plain = tirx.transform
    blocks = tvm.s_tir.transform
    lowering = [blocks.ConvertBlocksToOpaque(), blocks.LowerOpaqueBlock(), plain.FlattenBuffer()]
    module = tvm.transform.Sequential([*lowering, statement_pass("", horizontal_reduction)])(module)
    found: list[int] = []

    def note(statement: Any) -> None:
        if isinstance(statement, tirx.For):
            found.append(int(statement.extent))

    replaced(module["main"].body, note)
    return found


@pytest.mark.parametrize("lanes", (4, 8, 16, 32, 48, 64, 256))
@pytest.mark.parametrize("combiner", ("sum", "max", "min", "prod"))
def test_neighbours_are_combined_in_vectors(lanes: int, combiner: str) -> None:
    dag = _rows(lanes, combiner)
    assert _loops(dag) == [3]
    assert Case(dag, HARDWARE).error(()) < 1e-5


@pytest.mark.parametrize("lanes", (3, 12, 40, 400))
def test_a_loop_stays_where_vectors_do_not_cover_it(lanes: int) -> None:
    assert _loops(_rows(lanes)) == [3, lanes]


def test_a_loop_stays_where_what_it_reads_is_not_contiguous() -> None:
    strided = Call("mul", (Axis("k"), Const(2, "int64")), "int64")
    assert _loops(_rows(16, column=strided)) == [3, 16]


def test_a_loop_stays_where_its_elements_are_computed_first() -> None:
    dag = _rows(16)
    (total,) = dag.stages
    doubled = Call("add", (total.body, total.body), F)
    dag = ComputeDAG(dag.inputs, (Stage("s", total.axes, doubled, F, "sum"),), ("s",))
    assert _loops(dag) == [3, 16]


def test_rows_of_results_go_around_their_lanes() -> None:
    """What the rows read is not contiguous along them, whatever order the loops are in."""
    axes = (IterAxis("k", 16, REDUCE), IterAxis("i", 5))
    total = Stage("s", axes, Read("x", (Axis("i"), Axis("k")), F), F, "sum")
    dag = ComputeDAG((Tensor("x", (5, 400), F),), (total,), ("s",))
    steps = (Reorder("s", ("k.0", "i.0")), Annotate("s", ("i.0",), "vectorize"))
    assert _loops(dag, steps) == [5, 5]
    assert Case(dag, HARDWARE).error(steps) < 1e-5


def test_a_loop_stays_where_vectors_of_results_lie_inside_it() -> None:
    axes = (IterAxis("k", 16, REDUCE), IterAxis("i", 5))
    total = Stage("s", axes, Read("x", (Axis("k"), Axis("i")), F), F, "sum")
    dag = ComputeDAG((Tensor("x", (16, 400), F),), (total,), ("s",))
    assert 16 in _loops(dag, (Reorder("s", ("k.0", "i.0")),))


@pytest.mark.parametrize("lanes", (16, 64))
def test_no_chain_of_scalars_is_left_of_a_split_reduction(lanes: int) -> None:
    dag = _rows(384)
    steps = (SplitReduction("s", "k", lanes), Tile("s", "i", (1,)))
    lowered = lower(dag, steps, HARDWARE)
    built = tvm.tirx.build(lowered.func, native(1).tvm(), pipeline=PIPELINE)
    assert "shufflevector" in built.inspect_source("ll")
    assert Case(dag, HARDWARE).error(steps) < 1e-5
