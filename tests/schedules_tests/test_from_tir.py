"""A PrimFunc becomes a DAG, losslessly or not at all."""

from __future__ import annotations

from typing import Any

import programs
import pytest
import tvm
from tvm import te, tirx, topi
from tvm.script import tirx as T

from schedules.dag import ComputeDAG
from schedules.errors import UnsupportedProgram
from schedules.expr import Axis, Call, Read, affine
from schedules.from_tir import from_tir
from schedules.to_tir import to_tir


def dag_of(*tensors: Any, constants: tuple[int, ...] = ()) -> ComputeDAG:
    return from_tir(te.create_prim_func(list(tensors)), constants)


def placeholder(*shape: int, name: str = "x", dtype: str = "float32") -> Any:
    return te.placeholder(shape, dtype, name=name)


def test_a_block_becomes_a_stage_with_its_axes_and_combiner() -> None:
    x, w = placeholder(6, 8), placeholder(8, 4, name="w")
    (stage,) = dag_of(x, w, topi.matmul(x, w), constants=(1,)).stages
    assert [(a.extent, a.kind) for a in stage.axes] == [
        (6, "spatial"),
        (4, "spatial"),
        (8, "reduce"),
    ]
    assert stage.combiner == "sum"
    assert [r.tensor for r in stage.reads()] == ["x", "w"]


def test_constant_parameters_are_marked() -> None:
    x, w = placeholder(6, 8), placeholder(8, 4, name="w")
    dag = dag_of(x, w, topi.matmul(x, w), constants=(1,))
    assert [t.constant for t in dag.inputs] == [False, True]


@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_unlisted_programs_survive_the_round_trip(name: str) -> None:
    dag = dag_of(*programs.PROGRAMS[name]())
    assert from_tir(to_tir(dag)).key == dag.key


def test_splitting_a_dimension_reads_at_affine_indices() -> None:
    x = placeholder(4, 768)
    stage = dag_of(x, topi.reshape(x, (4, 12, 64))).stages[0]
    (read,) = stage.reads()
    assert [affine(i) for i in read.indices] != [None, None]
    assert all(affine(i) is not None for i in read.indices)


def test_joining_dimensions_keeps_the_division_by_name() -> None:
    x = placeholder(4, 12, 64)
    (read,) = dag_of(x, topi.reshape(x, (4, 768))).stages[0].reads()
    last = read.indices[-1]
    assert isinstance(last, Call) and last.op == "floormod"


def test_an_index_read_from_a_tensor_is_kept() -> None:
    table, ids = placeholder(10, 3, name="table"), placeholder(4, name="ids", dtype="int64")
    out = te.compute((4, 3), lambda i, j: table[ids[i], j], name="rows")
    gather = next(dag_of(table, ids, out).stages[0].reads())
    assert isinstance(gather.indices[0], Read) and gather.indices[1] == Axis("j")


def test_reduce_axes_of_extent_one_are_dropped() -> None:
    x, w = placeholder(1, 4, 4, 3), placeholder(1, 1, 3, 5, name="w")
    conv = topi.nn.conv2d_nhwc(x, w, 1, 0, 1)
    stage = dag_of(x, w, conv).stages[-1]
    assert [a.extent for a in stage.reduce] == [3]


def test_two_sums_in_one_block_become_two_stages() -> None:
    x, k = placeholder(4, 8), te.reduce_axis((0, 8), name="k")
    both = te.comm_reducer(
        lambda a, b: (a[0] + b[0], a[1] + b[1]),
        lambda s, t: (tirx.const(0, s), tirx.const(0, t)),
    )
    sums = te.compute((4,), lambda i: both((x[i, k], x[i, k] * x[i, k]), axis=k), name="sums")
    dag = dag_of(x, *sums)
    assert [s.combiner for s in dag.stages] == ["sum", "sum"]
    assert len(dag.outputs) == 2


def test_names_are_unique_identifiers() -> None:
    x = placeholder(4, name="a.b")
    twice = te.compute((4,), lambda i: x[i] * 2, name="y")
    again = te.compute((4,), lambda i: twice[i] + 1, name="y")
    dag = dag_of(x, again)
    names = [t.name for t in dag.inputs] + [s.name for s in dag.stages]
    assert len(set(names)) == 3 and all(n.isidentifier() for n in names)


def test_a_scalar_is_a_stage_without_axes() -> None:
    x, k = placeholder(8), te.reduce_axis((0, 8), name="k")
    stage = dag_of(x, te.compute((), lambda: te.sum(x[k], axis=k), name="total")).stages[0]
    assert stage.shape == ()


# ------------------------------------------------------------------ refusals


def _argmax() -> tirx.PrimFunc:
    x = placeholder(4, 8)
    return te.create_prim_func([x, topi.argmax(x, axis=1)])


def _running_sum() -> tirx.PrimFunc:
    x = placeholder(4, 8)
    return te.create_prim_func([x, topi.cumsum(x, axis=1)])


def _symbolic() -> tirx.PrimFunc:
    x = te.placeholder((te.var("n"),), name="x")
    return te.create_prim_func([x, te.compute(x.shape, lambda i: x[i] + 1.0, name="y")])


def _scheduled() -> tirx.PrimFunc:
    x = placeholder(8)
    func = te.create_prim_func([x, te.compute((8,), lambda i: x[i] + 1.0, name="y")])
    schedule = tvm.s_tir.Schedule(func)
    schedule.parallel(schedule.get_loops(schedule.get_sblock("y"))[0])
    return schedule.mod["main"]


def _ragged_split() -> tirx.PrimFunc:
    x = placeholder(10)
    func = te.create_prim_func([x, te.compute((10,), lambda i: x[i] + 1.0, name="y")])
    schedule = tvm.s_tir.Schedule(func)
    schedule.split(schedule.get_loops(schedule.get_sblock("y"))[0], [None, 4])
    return schedule.mod["main"]


def _half_written() -> tirx.PrimFunc:
    @T.prim_func(s_tir=True)
    def func(x: T.Buffer((4,), "float32"), y: T.Buffer((8,), "float32")):
        for i in range(4):
            with T.sblock("y"):
                v = T.axis.spatial(4, i)
                y[v] = x[v]

    return func


def _strided_write() -> tirx.PrimFunc:
    @T.prim_func(s_tir=True)
    def func(x: T.Buffer((4,), "float32"), y: T.Buffer((8,), "float32")):
        for i in range(4):
            with T.sblock("y"):
                v = T.axis.spatial(4, i)
                y[v * 2] = x[v]

    return func


def _in_place() -> tirx.PrimFunc:
    @T.prim_func(s_tir=True)
    def func(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")):
        for i in range(4):
            with T.sblock("y"):
                v = T.axis.spatial(4, i)
                y[v] = y[v] + x[v]

    return func


def _two_writers() -> tirx.PrimFunc:
    @T.prim_func(s_tir=True)
    def func(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")):
        for i in range(4):
            with T.sblock("first"):
                v = T.axis.spatial(4, i)
                y[v] = x[v]
        for i in range(4):
            with T.sblock("second"):
                v = T.axis.spatial(4, i)
                y[v] = x[v] * T.float32(2)

    return func


def _sum_from_one() -> tirx.PrimFunc:
    @T.prim_func(s_tir=True)
    def func(x: T.Buffer((4, 8), "float32"), y: T.Buffer((4,), "float32")):
        for i, k in T.grid(4, 8):
            with T.sblock("y"):
                v, r = T.axis.remap("SR", [i, k])
                with T.init():
                    y[v] = T.float32(1)
                y[v] = y[v] + x[v, r]

    return func


def _external_call() -> tirx.PrimFunc:
    x = placeholder(4)
    call = te.compute((4,), lambda i: tirx.call_pure_extern("float32", "tgammaf", x[i]), name="y")
    return te.create_prim_func([x, call])


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (_argmax, "reduces several values together"),
        (_running_sum, "must only store|outside a block|scheduled already"),
        (_symbolic, "symbolic"),
        (_scheduled, "scheduled already"),
        (_ragged_split, "predicate"),
        (_half_written, "writes 4 of 8 elements"),
        (_strided_write, "not at one axis"),
        (_in_place, "without initialising"),
        (_two_writers, "several blocks write"),
        (_sum_from_one, "starts a sum at"),
        (_external_call, "no counterpart"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_refuses_what_a_dag_cannot_say(program: Any, reason: str) -> None:
    with pytest.raises(UnsupportedProgram, match=reason):
        from_tir(program())


def test_a_tiled_function_is_the_same_computation() -> None:
    x = placeholder(8)
    func = te.create_prim_func([x, te.compute((8,), lambda i: x[i] + 1.0, name="y")])
    schedule = tvm.s_tir.Schedule(func)
    schedule.split(schedule.get_loops(schedule.get_sblock("y"))[0], [2, 4])
    assert from_tir(schedule.mod["main"]).key == from_tir(func).key
